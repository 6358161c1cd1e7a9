"""What the demo counts as wrong, slow, lost or too weak."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraudgate.demo import data, judge
from fraudgate.demo.judge import Mismatches, Quality
from fraudgate.transaction import Status
from fraudgate.v1.scoring_pb2 import ModelRef, ScoreResponse, Timings
from tests.unit.batch_logs import FEATURES, random_batch, write_log

NAMES = tuple(f"feature {number}" for number in range(15))
NO_MISMATCHES = Mismatches(values=0, rows_missing=0, rows_compared=3, rows_excused=0, first="")
GOOD = Quality(auc_roc=0.9, average_precision=0.7, card_precision_100=0.3, rows=10, frauds=2)


def week(rows: int, days: int = 1) -> data.Rows:
    return data.Rows(
        transaction_id=[f"row-{row}" for row in range(rows)],
        event_time_ns=data.REPLAY_START_NS + np.arange(rows) * days * data.DAY_NS // rows,
        amount_minor=np.ones(rows, np.int64),
        customer_id=[f"c{row}" for row in range(rows)],
        terminal_id=["t"] * rows,
        is_fraud=np.arange(rows) % 5 == 0,
    )


def compare(gathered: np.ndarray, expected: np.ndarray, ids: list[str], excused: list[int] | None = None) -> Mismatches:
    flags = np.isin(np.arange(len(expected)), excused or [])
    return judge.count_mismatches(NAMES, week(len(expected)), pa.array(ids, pa.string()), gathered, expected, flags)


def test_equal_values_in_any_order_are_no_mismatch() -> None:
    expected = np.random.default_rng(1).random((4, 15))
    assert compare(expected[::-1], expected, ["row-3", "row-2", "row-1", "row-0"]) == Mismatches(0, 0, 4, 0, "")


def test_averages_may_differ_in_their_last_bits_and_nothing_else_may() -> None:
    expected = np.ones((1, 15))
    gathered = expected + 9e-10
    found = compare(gathered, expected, ["row-0"])
    assert found.values == 12
    assert found.first == "transaction row-0, feature 0: 1.0000000009, expected 1.0"
    off = expected.copy()
    off[0, judge.AVERAGES[0]] += 2e-9
    assert compare(off, expected, ["row-0"]).values == 1


def test_nan_equals_nothing() -> None:
    expected = np.ones((2, 15))
    gathered = expected.copy()
    gathered[1] = np.nan
    assert compare(gathered, expected, ["row-0", "row-1"]).values == 15


def test_a_row_that_the_log_lacks_counts_with_all_its_values() -> None:
    expected = np.ones((2, 15))
    found = compare(expected[:1], expected, ["row-0"])
    assert (found.values, found.rows_missing) == (15, 1)
    assert found.first == "transaction row-1, feature 0: no row in the log, expected 1.0"
    assert compare(expected[:0], expected, []).values == 30


def test_excused_rows_are_left_out() -> None:
    expected = np.ones((3, 15))
    found = compare(expected * 2, expected, ["row-0", "row-1", "row-2"], excused=[0, 2])
    assert (found.values, found.rows_compared, found.rows_excused) == (15, 1, 2)


def test_only_decided_rows_of_the_log_are_read(tmp_path: Path) -> None:
    appended = [random_batch(rows, number) for number, rows in enumerate((32, 7, 20), start=1)]
    for _, _, answers, _, _ in appended:
        answers["replayed"] = np.arange(len(answers)) % 3 == 0
    write_log(tmp_path, appended)
    ids, values = judge.read_gathered(tmp_path, len(FEATURES))
    expected = [
        (request["transaction_id"][row].as_py(), features[row])
        for request, features, answers, _, _ in appended
        for row in range(len(answers))
        if answers["status"][row] == Status.OK and not answers["replayed"][row]
    ]
    assert 0 < len(expected) < 59
    assert ids.to_pylist() == [name for name, _ in expected]
    assert np.array_equal(values, np.array([row for _, row in expected]), equal_nan=True)


def test_percentiles_are_values_that_were_measured() -> None:
    milliseconds = np.arange(1, 1_001) * 1_000_000
    assert judge.percentiles_ms(milliseconds) == {"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1_000}
    assert judge.percentiles_ms(milliseconds[:1]) == dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 1.0)


def test_responses_are_read_column_by_column() -> None:
    response = ScoreResponse(
        transaction_id="row-0",
        decision="DECLINE",
        score=0.75,
        fallback="FALLBACK_STALE_FEATURES",
        model=ModelRef(name="handbook", version="1", precision="int8"),
        timings=Timings(queue_ns=1, features_ns=2, inference_ns=3, guardrails_ns=4, total_ns=10, batch_rows=5),
    )
    other = ScoreResponse(transaction_id="row-9", decision="APPROVE", fallback="FALLBACK_NONE")
    read = judge.read_decisions(
        [response.SerializeToString(), other.SerializeToString(), b""], ["row-0", "row-1", "row-2"]
    )
    assert read.by_kind() == {"approve": 1, "review": 0, "decline": 1}
    assert read.by_fallback() == {"stale_features": 1}
    assert read.score.tolist() == [0.75, 0, 0]
    assert read.scored.tolist() == [True, False, False]
    assert {name: values[0] for name, values in read.stages_ns.items()} == {
        "queue": 1,
        "features": 2,
        "inference": 3,
        "guardrails": 4,
        "total": 10,
    }
    assert read.misnamed == 1
    assert read.models[0] == "handbook/1"


def test_quality_is_measured_on_the_rows_of_the_protocol() -> None:
    known = [("c0", -10.0, True), ("c7", -8.0, False)]  # c0 is known to be compromised: its rows do not count
    replay = week(70, days=7)
    events = pa.table(
        {
            "event_time": pa.array(
                [data.REPLAY_START_NS + int(day * data.DAY_NS) for _, day, _ in known] + replay.event_time_ns.tolist(),
                data.EVENT_TIME_TYPE,
            ),
            "customer_id": [name for name, _, _ in known] + replay.customer_id,
            "is_fraud": [fraud for _, _, fraud in known] + replay.is_fraud.tolist(),
        }
    )
    nothing = data.Outcomes(replay.event_time_ns[:0], [])
    traffic = data.Traffic("test", events, len(known), replay, [], nothing, nothing)
    found = judge.measure_quality(traffic, replay.is_fraud.astype(np.float64))
    assert (found.rows, found.frauds) == (69, 13)
    assert (found.auc_roc, found.average_precision) == (1.0, 1.0)
    assert found.card_precision_100 == pytest.approx(0.13 / 7)


def test_what_falls_short_is_said_in_words() -> None:
    def judged(p99: float = 9.0, lost: int = 0, wrong: int = 0, quality: Quality | None = GOOD) -> list[str]:
        mismatches = Mismatches(wrong, 0, 3, 0, "this one")
        return judge.shortfalls({"p99": p99}, lost, mismatches, quality, judge.FLOORS)

    assert judged() == []
    assert judged(p99=50.0) == []
    assert judged(p99=50.1) == ["p99 is 50.1 ms, over the budget of 50 ms"]
    assert judged(lost=2) == ["2 transactions have no decision of their own"]
    assert judged(wrong=15) == ["15 feature values are wrong; the first: this one"]
    assert judged(quality=None) == []
    weak = Quality(auc_roc=0.8659, average_precision=0.655, card_precision_100=0.2, rows=10, frauds=2)
    assert judged(quality=weak) == [
        "AUC ROC is 0.8659, under its floor of 0.8660",
        "card precision@100 is 0.2000, under its floor of 0.2880",
    ]
