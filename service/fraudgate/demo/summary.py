"""The result of a demo: as JSON for programs, as tables for a terminal."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fraudgate.demo.data import PUBLISHED_FILE
from fraudgate.demo.judge import BUDGET_MS, METRICS, PERCENTILES, Mismatches, Quality
from fraudgate.transaction import Int64

CREDIT = (
    "Reproducible Machine Learning for Credit Card Fraud Detection - Practical Handbook (Le Borgne, Siblini, Lebichot, "
    "Bontempi; GitHub: Fraud-Detection-Handbook)"
)
WEEK_NOISE = "One week is a small sample: the standard deviation of its AUC ROC is about .015."


@dataclass(frozen=True)
class Published:
    """One row of the published table."""

    chapter: str
    model: str
    auc_roc: float
    average_precision: float
    card_precision_100: float


@dataclass(frozen=True)
class Rates:
    """Decisions a second."""

    probe: float | None  # closed loop, on a second server; None when the rate was given
    target: float  # open loop, as intended
    reached: float


@dataclass(frozen=True)
class Result:
    """Everything that a demo found out."""

    data: str  # "handbook" or "simulated"
    title: str  # which transactions, in words
    frontend: str
    model: str
    precision: str
    transactions: int
    history_rows: int
    decisions: dict[str, int]
    fallbacks: dict[str, int]
    quality: Quality | None  # None: too few rows were replayed
    floors: Mapping[str, float]
    published: Sequence[Published]
    latency_ms: dict[str, float]  # client-side, from the intended send time
    lateness_ms: dict[str, float]  # of it, before the send: the client's own, and waits behind the same customer
    stages_ms: dict[str, dict[str, float]]  # from the response timings
    server_ms: dict[str, dict[str, float]]  # what only the server's recorder knows
    rates: Rates
    batch_rows_mean: float
    mismatches: Mismatches
    compared_with: str
    lost: int
    held: int
    outcome_waits: int
    outcomes: int  # of the week before, acknowledged before they were due
    late_outcomes: int  # the week's own, after the replay
    refusals: dict[str, int]
    resident_mib: float | None  # the server's, after loading the history
    cpu_us_per_decision: float | None  # the server's, during the replay
    seconds: float
    shortfalls: list[str]
    # For the page: when each row was due and how long it took, at the client and in the server.
    intended_ns: Int64
    client_ns: Int64
    server_ns: Int64


def read_published(folder: Path) -> list[Published]:
    """The published results of the test week."""
    with (folder / PUBLISHED_FILE).open(newline="") as file:
        return [
            Published(row["chapter"], row["model"], *(float(row[name]) for name in METRICS))
            for row in csv.DictReader(file)
            if row["split"] == "test week"
        ]


def to_json(result: Result) -> dict[str, Any]:
    """The contract's keys first, then what else is known."""
    quality = asdict(result.quality) if result.quality else {}
    return {
        "transactions": result.transactions,
        "decisions": result.decisions,
        **{name: quality.get(name) for name in METRICS},
        "latency_ms": result.latency_ms,
        "decisions_per_second": round(result.rates.reached, 1),
        "frontend": result.frontend,
        "model": result.model,
        "window_mismatches": result.mismatches.values,
        "data": result.data,
        "precision": result.precision,
        "protocol_rows": quality.get("rows"),
        "protocol_frauds": quality.get("frauds"),
        "floors": dict(result.floors),
        "published": [asdict(row) for row in result.published],
        "client_lateness_ms": result.lateness_ms,
        "stages_ms": result.stages_ms,
        "server_ms": result.server_ms,
        "rates": asdict(result.rates),
        "batch_rows_mean": round(result.batch_rows_mean, 2),
        "rows_compared": result.mismatches.rows_compared,
        "rows_excused": result.mismatches.rows_excused,
        "fallbacks": result.fallbacks,
        "lost": result.lost,
        "held_back": result.held,
        "outcomes_before_due": result.outcomes,
        "outcomes_after_replay": result.late_outcomes,
        "outcome_waits": result.outcome_waits,
        "refusals_retried": result.refusals,
        "server_resident_mib": result.resident_mib,
        "server_cpu_us_per_decision": result.cpu_us_per_decision,
        "seconds": round(result.seconds, 1),
        "shortfalls": result.shortfalls,
    }


def to_text(result: Result) -> str:
    """The summary for a terminal, at most 100 columns wide."""
    blocks = [_head(result), _decisions(result), _quality(result), _latency(result), _proof(result), _verdict(result)]
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(result: Result) -> list[str]:
    rates = result.rates
    probed = (
        f"half of the {rates.probe:,.0f}/s probed, {result.frontend} front end"
        if rates.probe
        else f"the rate given, {result.frontend} front end"
    )
    return [
        f"{result.transactions:,} card transactions, one by one through Score() over gRPC",
        f"  data        {result.title}",
        f"  model       {result.model}, {result.precision}, as served",
        f"  rate        {rates.reached:,.0f} decisions/s ({rates.target:,.0f} intended: {probed})",
    ]


def _decisions(result: Result) -> list[str]:
    lines = [
        f"  {kind:<10}{count:>10,}  {count / result.transactions:7.2%}" for kind, count in result.decisions.items()
    ]
    fallbacks = ", ".join(f"{name} {count:,}" for name, count in result.fallbacks.items()) or "none"
    return ["DECISIONS", *lines, f"  {'fallbacks':<10}{fallbacks:>10}"]


def _quality(result: Result) -> list[str]:
    if result.quality is None:
        return ["QUALITY", "  not judged: only the first rows of the week were replayed"]
    quality = result.quality
    rows: list[tuple[str, Quality | Published]] = [("Fraudgate, as served", quality)]
    rows += [(f"{row.model} (published, {row.chapter})", row) for row in result.published]
    lines = [f"  {label:<48}" + _metric_cells(getattr(row, name) for name in METRICS) for label, row in rows]
    lines.insert(1, f"  {'its floor':<48}" + _metric_cells(result.floors.get(name) for name in METRICS))
    if result.published:
        lines.append(f"  {WEEK_NOISE}")
    title = f"QUALITY on {quality.rows:,} rows, {quality.frauds:,} frauds"
    return [f"{title:<50}{'AUC ROC':>10}{'avg prec':>12}{'card p@100':>12}", *lines]


def _metric_cells(values: Iterable[float | None]) -> str:
    widths = (10, 12, 12)
    return "".join(
        f"{'-' if value is None else f'{value:.4f}':>{width}}" for value, width in zip(values, widths, strict=True)
    )


def _latency(result: Result) -> list[str]:
    head = f"{'LATENCY in ms':<34}" + "".join(f"{name:>10}" for name in ("p50", "p90", "p99", "p99.9", "max"))
    rows = [
        ("client, from the intended send", result.latency_ms),
        ("  until sent", result.lateness_ms),
        ("server, total", result.stages_ms["total"]),
    ]
    rows += [(f"  {name}", values) for name, values in result.stages_ms.items() if name != "total"]
    rows += [(f"server, {name.replace('_', ' ')}", values) for name, values in result.server_ms.items()]
    lines = [f"  {label:<32}" + "".join(f"{values[name]:>10.2f}" for name in PERCENTILES) for label, values in rows]
    return [head, *lines, f"  {'budget':<32}{'':>20}{BUDGET_MS:>10.2f}"]


def _proof(result: Result) -> list[str]:
    wrong = result.mismatches
    compared = f"{wrong.rows_compared:,} rows x 15 features compared with {result.compared_with}"
    excused = f", {wrong.rows_excused} rows excused" if wrong.rows_excused else ""
    retried = ", ".join(f"{count:,} {name}" for name, count in result.refusals.items()) or "none"
    lines = [
        f"  features    {wrong.values:,} wrong values; {compared}{excused}",
        f"  answers     {result.lost:,} lost; refusals retried: {retried}; {result.held:,} held back "
        "behind the same customer",
        f"  outcomes    {result.outcomes:,} frauds acknowledged before they were due, "
        f"{result.late_outcomes:,} after the replay",
        f"  batches     {result.batch_rows_mean:.1f} rows on average",
    ]
    if result.resident_mib is not None:
        lines.append(
            f"  memory      {result.resident_mib:,.0f} MiB resident after {result.history_rows:,} rows of history"
        )
    if result.cpu_us_per_decision is not None:
        lines.append(f"  CPU         {result.cpu_us_per_decision:,.0f} us of the server's a decision")
    return ["PROOF", *lines]


def _verdict(result: Result) -> list[str]:
    if result.shortfalls:
        return ["FALLS SHORT", *(f"  {sentence}" for sentence in result.shortfalls)]
    judged = "" if result.quality else " (quality was not judged)"
    return [f"HOLDS: every floor is met{judged}, in {result.seconds:.0f} s"]
