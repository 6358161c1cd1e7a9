"""The verdict: how good the scores are, whether every feature was right, how long it took, and what falls short."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudgate.audit.log_file import read_log
from fraudgate.demo.data import DAY_NS, Rows, Traffic
from fraudgate.limits import BUDGET_NS, MILLISECOND_NS
from fraudgate.quality import auc_roc, average_precision, card_precision, protocol_rows
from fraudgate.transaction import Bool, Decision, Fallback, Float64, Int64, Status
from fraudgate.v1.scoring_pb2 import ScoreResponse

BUDGET_MS = BUDGET_NS / MILLISECOND_NS
METRICS = {"auc_roc": "AUC ROC", "average_precision": "average precision", "card_precision_100": "card precision@100"}
FLOORS = {"auc_roc": 0.866, "average_precision": 0.655, "card_precision_100": 0.288}
"""What the served model has to reach on the benchmark's test rows."""
TRAIN_DAYS_BEFORE = 14
"""The protocol's train week starts two weeks before the replay."""
AVERAGES = (4, 6, 8)
AVERAGE_TOLERANCE = 1e-9
"""Averages of the fifteen features: published ones carry the rounding of a running float sum. The rest is exact."""
STAGES = ("queue", "features", "inference", "guardrails", "total")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


@dataclass(frozen=True)
class Decisions:
    """The answers of a replay, column by column, [n]; a row without an answer has decision 0."""

    decision: Int64  # Decision
    fallback: Int64  # Fallback
    score: Float64  # 0 where there is none
    scored: Bool
    stages_ns: dict[str, Int64]  # by STAGES
    batch_rows: Int64
    models: list[str]  # name/version of every model that answered
    precision: str
    misnamed: int  # answers whose transaction_id is not that of their request

    def by_kind(self) -> dict[str, int]:
        """Decisions by kind, in lower case."""
        return {kind.name.lower(): int((self.decision == kind).sum()) for kind in Decision}

    def by_fallback(self) -> dict[str, int]:
        """Answers by fallback, in lower case; FALLBACK_NONE left out."""
        counts = {kind.name.lower(): int((self.fallback == kind).sum()) for kind in Fallback if kind != Fallback.NONE}
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class Quality:
    """The three metrics of the benchmark, over the protocol's rows."""

    auc_roc: float
    average_precision: float
    card_precision_100: float
    rows: int
    frauds: int


@dataclass(frozen=True)
class Mismatches:
    """Gathered feature values that differ from the expected ones."""

    values: int  # a row that the log lacks counts with all its values
    rows_missing: int
    rows_compared: int
    rows_excused: int
    first: str  # the first of them in words, "" = none


def read_decisions(responses: Sequence[bytes], transaction_ids: Sequence[str]) -> Decisions:
    """Parse the replay's responses; b"" is a row without an answer."""
    rows = len(responses)
    numbers = np.zeros((rows, 3), np.int64)
    stages = np.zeros((rows, len(STAGES)), np.int64)
    score, scored = np.zeros(rows), np.zeros(rows, np.bool_)
    models: dict[str, str] = {}
    misnamed = 0
    response = ScoreResponse()
    for row, serialised in enumerate(responses):
        if not serialised:
            continue
        response.ParseFromString(serialised)
        misnamed += response.transaction_id != transaction_ids[row]
        timings = response.timings
        numbers[row] = response.decision, response.fallback, timings.batch_rows
        stages[row] = (
            timings.queue_ns,
            timings.features_ns,
            timings.inference_ns,
            timings.guardrails_ns,
            timings.total_ns,
        )
        score[row], scored[row] = response.score, response.HasField("score")
        models[f"{response.model.name}/{response.model.version}"] = response.model.precision
    return Decisions(
        decision=numbers[:, 0],
        fallback=numbers[:, 1],
        score=score,
        scored=scored,
        stages_ns={name: stages[:, column] for column, name in enumerate(STAGES)},
        batch_rows=numbers[:, 2],
        models=list(models),
        precision="/".join(dict.fromkeys(models.values())),
        misnamed=misnamed,
    )


def measure_quality(traffic: Traffic, score: Float64) -> Quality:
    """The metrics of ``score`` [n] over those rows of the week that the protocol keeps."""
    start_ns = int(traffic.week.event_time_ns[0]) // DAY_NS * DAY_NS
    train_start_day = start_ns // DAY_NS - TRAIN_DAYS_BEFORE
    times = np.asarray(traffic.events["event_time"].cast(pa.int64()).to_numpy())
    first = int(np.searchsorted(times, train_start_day * DAY_NS))
    events = traffic.events.slice(first)
    labels = np.asarray(events["is_fraud"].to_numpy())
    customers = np.asarray(events["customer_id"].to_numpy(zero_copy_only=False).astype(str))
    _, test = protocol_rows(times[first:] // DAY_NS, customers, labels, train_start_day)
    kept = test[-len(traffic.week) :]
    week = traffic.week
    labels, score = week.is_fraud[kept], score[kept]
    return Quality(
        auc_roc=auc_roc(score, labels),
        average_precision=average_precision(score, labels),
        card_precision_100=card_precision(
            score, labels, np.array(week.customer_id)[kept], week.event_time_ns[kept] // DAY_NS
        ),
        rows=len(labels),
        frauds=int(labels.sum()),
    )


def read_gathered(log: Path, features: int) -> tuple[pa.Array, Float64]:
    """Transaction ids utf8 [m] and gathered values [m, features] of every row that the batch log holds a decision of.

    Rows that ended with a status, and repeats of a stored answer, gathered nothing and are left out.
    """
    ids, values = [pa.array([], pa.string())], [np.empty((0, features))]
    for batch in read_log(log):
        decided = pc.and_not(pc.equal(batch.answers["status"], Status.OK.value), batch.answers["replayed"])
        ids.append(batch.request["transaction_id"].filter(decided))
        values.append(batch.features[decided.to_numpy(zero_copy_only=False)])
    return pa.concat_arrays(ids), np.concatenate(values)


def count_mismatches(
    names: Sequence[str], week: Rows, gathered_ids: pa.Array, gathered: Float64, expected: Float64, excused: Bool
) -> Mismatches:
    """Compare the values that the server gathered with the expected ones.

    gathered_ids utf8 [m] and gathered [m, F] come from the batch log, in any order; expected is [n, F], excused [n].
    """
    place = pc.index_in(pa.array(week.transaction_id, pa.string()), gathered_ids)
    missing = np.asarray(place.is_null())
    values = gathered[np.asarray(place.fill_null(0).to_numpy())] if len(gathered) else np.full_like(expected, np.nan)
    differs = values != expected
    averages = list(AVERAGES)
    # Not "over the tolerance": a NaN is within no tolerance either.
    differs[:, averages] = ~(np.abs(values[:, averages] - expected[:, averages]) <= AVERAGE_TOLERANCE)
    differs[missing] = True
    differs[excused] = False
    first = ""
    if differs.any():
        row, column = np.argwhere(differs)[0]
        got = "no row in the log" if missing[row] else repr(float(values[row, column]))
        wanted = float(expected[row, column])
        first = f"transaction {week.transaction_id[row]}, {names[column]}: {got}, expected {wanted!r}"
    return Mismatches(
        values=int(differs.sum()),
        rows_missing=int((missing & ~excused).sum()),
        rows_compared=int((~excused).sum()),
        rows_excused=int(excused.sum()),
        first=first,
    )


def percentiles_ms(values_ns: Int64) -> dict[str, float]:
    """p50, p90, p99, p999 and max in milliseconds; each is a value that was measured."""
    ordered = np.sort(values_ns)
    # Rounded, because 99.9 % of 1,000 is a hair over 999 in binary.
    ranks = {name: max(ceil(round(len(ordered) * q / 100, 6)), 1) for name, q in PERCENTILES.items()}
    return {name: round(float(ordered[rank - 1]) / MILLISECOND_NS, 3) for name, rank in ranks.items()}


def shortfalls(
    latency_ms: Mapping[str, float],
    lost: int,
    mismatches: Mismatches | None,
    quality: Quality | None,
    floors: Mapping[str, float],
) -> list[str]:
    """What falls short, one sentence each; empty when the demo holds. Quality that was not measured is not judged."""
    found = []
    if lost:
        found.append(f"{lost:,} transactions have no decision of their own")
    if latency_ms["p99"] > BUDGET_MS:
        found.append(f"p99 is {latency_ms['p99']:.1f} ms, over the budget of {BUDGET_MS:.0f} ms")
    if mismatches and mismatches.values:
        found.append(f"{mismatches.values:,} feature values are wrong; the first: {mismatches.first}")
    if quality:
        for name, floor in floors.items():
            reached = getattr(quality, name)
            if reached < floor:
                found.append(f"{METRICS[name]} is {reached:.4f}, under its floor of {floor:.4f}")
    return found
