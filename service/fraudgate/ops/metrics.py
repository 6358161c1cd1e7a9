"""The Prometheus text of a recorder and its counters, made at scrape time from copies.

Histograms are cumulative since the start, whatever ``ResetLatency`` does. A text serves every scrape of the next
250 ms, and what costs most of it, drift, is compared once in 5 s, so that frequent scrapes cost little.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from time import sleep
from typing import TYPE_CHECKING

from fraudgate.clock import Clock, monotonic_ns
from fraudgate.drift.watch import DriftReport, DriftWatch
from fraudgate.engines.fleet import Fleet
from fraudgate.engines.report import FleetReport, TierReport, TrialReport
from fraudgate.ladder import Ladder
from fraudgate.latency.calls import CallCounts
from fraudgate.latency.causes import NAMES
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.recorder import LEVELS, STAGES, TOTALS, Counters, CountersCopy, Recorder
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.ops import grpc_server
from fraudgate.ops.buckets import Buckets, buckets_of
from fraudgate.ops.exposition import exposition
from fraudgate.ops.kept import Kept

if TYPE_CHECKING:
    from prometheus_client.core import Metric

REASONS = (
    "budget", "cancelled", "conflict", "deadline", "fairness", "internal", "invalid", "not_allowed", "overload",
    "priority", "queue_full", "unauthenticated", "unavailable", "undecodable",
)  # fmt: skip
"""Why a transaction or a call is refused, as ``fraudgate_refusals_total`` tells."""
TEXT_NS, DRIFT_NS = 250 * MILLISECOND_NS, 5 * SECOND_NS
"""How long a text, and a drift report in it, are good for."""
PAUSE_SECONDS = 50e-6
"""Between two families, for whoever waits for the interpreter: a thread that computes on keeps it for 500 us."""

BATCH_ROWS_BOUNDS = (1, 2, 4, 8, 16, 24, 31, 32)
"""31 | 32 tells a batch that the gate closed from a full one."""


class Metrics:
    """Renders ``/metrics``. ``build_info`` becomes the labels of ``fraudgate_build_info``, with the live engine of
    ``fleet``; ``drift`` may be off.

    The client library is imported at the first scrape: it costs a server's start 27 ms.
    """

    def __init__(
        self,
        recorder: Recorder,
        counters: Counters,
        build_info: Mapping[str, str],
        drift: DriftWatch | None = None,
        fleet: Fleet | None = None,
        calls: CallCounts | None = None,
        ladder: Ladder | None = None,
        clock: Clock = monotonic_ns,
    ) -> None:
        self._recorder, self._counters, self._build_info = recorder, counters, dict(build_info)
        self._fleet, self._calls, self._ladder = fleet, calls, ladder
        self._drift = None if drift is None else Kept(drift.report, DRIFT_NS, clock)
        self._text = Kept(self._made_text, TEXT_NS, clock)

    def render(self) -> tuple[str, bytes]:
        """(content type, text exposition), at most ``TEXT_NS`` old."""
        return self._text.get()

    def _made_text(self) -> tuple[str, bytes]:
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
        from prometheus_client.process_collector import ProcessCollector

        families = chain(self.families(), ProcessCollector(registry=None).collect())
        return CONTENT_TYPE_LATEST, exposition(families, lambda: sleep(PAUSE_SECONDS))

    def families(self) -> Iterator["Metric"]:
        """The metric families, from one copy of the recorder and one of the counters."""
        from prometheus_client.core import GaugeMetricFamily

        stages, counters = self._recorder.since_start(), self._counters.copy()
        if self._calls is not None:
            yield from grpc_server.of_calls(self._calls.copy(), stages["total"])
        yield from _counts(counters)
        for name, value in self._counters.levels().items():
            yield GaugeMetricFamily(name, LEVELS[name], value=value)
        yield from _recorder_counts(stages)
        yield _stage_seconds(stages)
        yield _loop_stall_seconds(stages["loop_stall"])
        yield _batch_rows(counters.batch_rows)
        if self._drift is not None:
            yield from _drift(self._drift.get())
        labels = dict(self._build_info)
        if self._fleet is not None:
            report = FleetReport.of(self._fleet)
            labels["model"] = report.engines[0].model
            yield from _fleet(report)
        if self._ladder is not None:
            yield from _ladder(self._ladder)
        info = GaugeMetricFamily("fraudgate_build_info", "What runs here; always 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1)
        yield info


def _counts(counters: CountersCopy) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily

    decisions = CounterMetricFamily(
        "fraudgate_decisions_total", "Decisions made, by decision and fallback.", labels=["decision", "fallback"]
    )
    for (decision, fallback), count in counters.decisions.items():
        decisions.add_metric([decision.name.lower(), fallback.name.lower()], count)
    yield decisions
    refusals = CounterMetricFamily(
        "fraudgate_refusals_total", "Transactions that ended with a status instead of a decision.", labels=["reason"]
    )
    none = dict.fromkeys(REASONS, 0)  # rate() misses a series that begins above 0
    for reason, count in sorted({**none, **counters.refusals}.items()):
        refusals.add_metric([reason], count)
    yield refusals
    over_budget = CounterMetricFamily(
        "fraudgate_over_budget_total",
        "Transactions that took longer than the budget, decided or then refused, by cause.",
        labels=["cause"],
    )
    for cause, count in {**dict.fromkeys(NAMES, 0), **counters.over_budget}.items():
        over_budget.add_metric([cause], count)
    yield over_budget
    for name, count in counters.totals.items():
        yield CounterMetricFamily(name, TOTALS[name], value=count)


def _recorder_counts(stages: Mapping[str, Distribution]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily

    over_range = CounterMetricFamily(
        "fraudgate_stage_over_range_total", "Durations above the histogram's range.", labels=["stage"]
    )
    negative = CounterMetricFamily(
        "fraudgate_stage_negative_total", "Durations below 0, recorded as 0.", labels=["stage"]
    )
    for stage, values in stages.items():
        over_range.add_metric([stage], values.over_range)
        negative.add_metric([stage], values.negative)
    yield over_range
    yield negative


def _stage_seconds(stages: Mapping[str, Distribution]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily("fraudgate_stage_seconds", "Time spent in each stage.", labels=["stage"])
    for stage in STAGES:
        if stage != "loop_stall":  # a family of its own
            family.add_metric([stage], buckets_of(stages[stage]), stages[stage].sum_ns / SECOND_NS)
    return family


def _loop_stall_seconds(values: Distribution) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    text = "How late the scoring loop ran a periodic tick; below 0.001 it is the timer's resolution."
    return HistogramMetricFamily("fraudgate_loop_stall_seconds", text, buckets_of(values), values.sum_ns / SECOND_NS)


def _batch_rows(batches: Sequence[int]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    cumulative = list(accumulate(batches))
    buckets: Buckets = [(f"{bound}.0", cumulative[bound]) for bound in BATCH_ROWS_BOUNDS]
    rows = sum(rows * count for rows, count in enumerate(batches))
    text = "Rows of each batch that was scored."
    return HistogramMetricFamily("fraudgate_batch_rows", text, [*buckets, ("+Inf", cumulative[-1])], rows)


def _drift(report: DriftReport) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    psi = GaugeMetricFamily(
        "fraudgate_drift_psi", "Population stability index, live window against reference.", labels=["feature"]
    )
    ks = GaugeMetricFamily(
        "fraudgate_drift_ks", "Kolmogorov-Smirnov distance, live window against reference.", labels=["feature"]
    )
    drifted = GaugeMetricFamily(
        "fraudgate_drifted", "1 where a feature, or the score, has drifted, else 0.", labels=["feature"]
    )
    for each in report.features:
        psi.add_metric([each.feature], each.psi)
        ks.add_metric([each.feature], each.ks)
        drifted.add_metric([each.feature], each.verdict == "drifted")
    yield from (psi, ks, drifted)


def _ladder(ladder: Ladder) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "Whether a dependency is asked: 0 by every batch, 1 by one at a time (half-open), 2 not (open)."
    rung = GaugeMetricFamily("fraudgate_rung", text, labels=["dependency"])
    changes = CounterMetricFamily("fraudgate_rung_changes_total", "Changes of that.", labels=["dependency"])
    bad = CounterMetricFamily(
        "fraudgate_bad_runs_total", "Runs of a dependency that failed or took too long.", labels=["dependency"]
    )
    for breaker in ladder.breakers:
        rung.add_metric([breaker.name], breaker.state)
        changes.add_metric([breaker.name], breaker.changes)
        bad.add_metric([breaker.name], breaker.bad_runs)
    yield from (rung, changes, bad)


def _fleet(report: FleetReport) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "Engines in use, always 1: live, previous, canary, shadow, tier, dropped."
    models = GaugeMetricFamily("fraudgate_model_info", text, labels=["model", "state"])
    for engine in report.engines:
        models.add_metric([engine.model, engine.state], 1)
    yield models
    text = "Trials and live engines that went, by hand or by themselves."
    yield CounterMetricFamily("fraudgate_model_rollbacks_total", text, value=report.rollbacks)
    text = "Batches that an engine in the shadow could not keep up with."
    yield CounterMetricFamily("fraudgate_shadow_skipped_total", text, value=report.shadow_skipped)
    yield from _trial(report.trial)
    if report.tier is not None:
        yield from _tier(report.tier)


def _trial(report: TrialReport | None) -> Iterator["Metric"]:
    """Without samples while nothing is on trial."""
    from prometheus_client.core import GaugeMetricFamily

    for name, text in {
        "share_percent": "Of the customers, whom the engine on trial decides for; 0 in the shadow.",
        "rows": "Rows that the engine on trial and the live one have scored.",
        "flips": "Rows on which their own thresholds say different things.",
        "difference_mean": "Mean difference of the two scores of a row.",
    }.items():
        family = GaugeMetricFamily(f"fraudgate_trial_{name}", text, labels=["model"])
        if report is not None:
            family.add_metric([report.model], getattr(report, name))
        yield family


def _tier(report: TierReport) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "Rows by tier; pressed: meant for the large engine, decided by the small one."
    rows = CounterMetricFamily("fraudgate_tier_rows_total", text, labels=["tier"])
    text = "Time that the engine of each tier ran or was waited for."
    run = CounterMetricFamily("fraudgate_tier_run_seconds_total", text, labels=["tier"])
    text = "That time over the rows that the engine decided, since the start."
    cost = GaugeMetricFamily("fraudgate_tier_decision_seconds", text, labels=["tier"])
    for tier in ("small", "large", "pressed"):
        rows.add_metric([tier], getattr(report, f"{tier}_rows"))
    for tier in ("small", "large"):
        run.add_metric([tier], getattr(report, f"{tier}_run_ns") / SECOND_NS)
        cost.add_metric([tier], getattr(report, f"{tier}_decision_ns") / SECOND_NS)
    yield from (rows, run, cost)
