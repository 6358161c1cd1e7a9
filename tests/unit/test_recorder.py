"""Recorder, reports and counters."""

import ast
import inspect
import re
import runpy
import threading
from pathlib import Path

import numpy as np
import pytest

from fraudgate.latency import histogram, recorder
from fraudgate.latency.recorder import STAGES, TOTALS, Counters, Recorder
from fraudgate.transaction import Decision, Fallback

MS = 1_000_000
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_report_gives_percentiles_of_every_stage_against_the_budget() -> None:
    latency = Recorder(now_ns=100, budget_ns=50 * MS)
    latency.record("total", np.arange(1, 1001, dtype=np.int64) * 60_000)  # 0.06 .. 60 ms, evenly
    report = latency.report(now_ns=1_100)
    assert (report.budget_ns, report.interval_ns) == (50 * MS, 1_000)
    assert tuple(stage.stage for stage in report.stages) == STAGES
    total = report.stages[STAGES.index("total")]
    assert (total.count, total.over_range) == (1000, 0)
    expected = {"p50_ns": 30 * MS, "p90_ns": 54 * MS, "p99_ns": 59.4 * MS, "p999_ns": 59.94 * MS, "max_ns": 60 * MS}
    for name, value in expected.items():
        assert getattr(total, name) == pytest.approx(value, rel=1e-3)
    assert total.mean_ns == pytest.approx(30.03 * MS, rel=1e-3)
    assert report.over_budget == sum(ms * 60_000 > 50 * MS for ms in range(1, 1001))


def test_an_empty_report_is_all_zeros() -> None:
    report = Recorder().report(now_ns=7)
    assert report.over_budget == 0
    for stage in report.stages:
        assert (stage.count, stage.p50_ns, stage.p999_ns, stage.max_ns, stage.mean_ns) == (0, 0, 0, 0, 0.0)


def test_a_clock_that_goes_back_and_a_value_over_the_range_are_clamped_and_counted() -> None:
    latency = Recorder()
    latency.record("queue", np.array([-1, 100 * 10**9, 5], np.int64))
    latency.record_one("queue", -3)
    latency.record_repeated("queue", 70 * 10**9, 2)
    queue = latency.since_start()["queue"]
    assert (queue.count, queue.negative, queue.over_range) == (6, 2, 3)
    assert queue.max_ns == histogram.RANGE_TOP_NS
    assert queue.percentile(1) == 0
    assert latency.report(0).stages[0].over_range == 3


def test_reset_returns_the_interval_that_ends_and_keeps_the_totals() -> None:
    latency = Recorder(now_ns=0)
    latency.record_repeated("total", 60 * MS, 3)
    ended = latency.reset(now_ns=10)
    assert (ended.interval_ns, ended.over_budget) == (10, 3)
    latency.record_one("total", 1 * MS)
    report = latency.report(now_ns=25)
    assert (report.interval_ns, report.over_budget) == (15, 0)
    assert latency.since_start()["total"].count == 4
    assert "4 decisions" in repr(latency)


def test_arrays_of_another_type_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        Recorder().record("queue", np.array([1.0]))  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        Recorder().record_one("no such stage", 1)


def test_views_and_slices_of_answer_rows_are_recorded_as_they_are() -> None:
    rows = np.arange(10, dtype=np.int64) * MS
    latency = Recorder()
    latency.record("queue", rows[::3])
    latency.record("queue", rows[:0])
    queue = latency.since_start()["queue"]
    assert queue.count == 4
    assert queue.max_ns == pytest.approx(9 * MS, rel=1e-3)


def test_readers_on_other_threads_see_coherent_copies_while_the_loop_records() -> None:
    latency, batches = Recorder(), 2_000
    values = np.full(32, 3 * MS, np.int64)
    seen: list[int] = []
    intervals: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            total = latency.since_start()["total"]
            assert total.count == int(total.counts.sum())
            seen.append(total.count)
            intervals.append(latency.reset(0).stages[STAGES.index("total")].count)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(batches):
        latency.record("total", values)
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert sum(intervals) + latency.since_reset()["total"].count == batches * 32


def test_decisions_are_counted_by_decision_and_fallback() -> None:
    counters = Counters()
    decision = np.array([1, 1, 2, 3, 0, 1], np.uint8)
    fallback = np.array([1, 2, 1, 5, 0, 1], np.uint8)
    counters.count_decisions(decision, fallback)
    counters.count_decisions(decision[:1], fallback[:1])
    copy = counters.copy()
    assert {key: count for key, count in copy.decisions.items() if count} == {
        (Decision.APPROVE, Fallback.NONE): 3,
        (Decision.APPROVE, Fallback.DEFAULTED_FEATURES): 1,
        (Decision.REVIEW, Fallback.NONE): 1,
        (Decision.DECLINE, Fallback.RULES_ONLY): 1,
    }
    assert "6 decisions" in repr(counters)


def test_refusals_batches_and_totals_are_counted() -> None:
    counters = Counters()
    counters.count_refusal("queue_full")
    counters.count_refusal("queue_full", 31)
    counters.count_batch(32)
    counters.count_batch(7)
    counters.count("fraudgate_rule_errors_total", 2)
    copy = counters.copy()
    assert copy.refusals == {"queue_full": 32}
    assert (copy.batch_rows[32], copy.batch_rows[7], sum(copy.batch_rows), counters.batches) == (1, 1, 2, 2)
    assert copy.totals == {**dict.fromkeys(TOTALS, 0), "fraudgate_rule_errors_total": 2}
    with pytest.raises(KeyError):
        counters.count("fraudgate_unheard_of_total")


def test_every_total_that_the_service_counts_is_declared() -> None:
    package = Path(inspect.getfile(recorder)).parents[1]
    sources = (path.read_text() for path in package.rglob("*.py"))
    counted = {name for source in sources for name in re.findall(r'\.count\(\s*"(fraudgate_\w+)"', source)}
    assert counted <= TOTALS.keys()
    assert counted


@pytest.mark.parametrize("module", [recorder, histogram])
def test_the_core_knows_no_clock_loop_or_log(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"time", "asyncio", "logging", "grpc", "fraudgate.clock"}


def test_the_benchmark_runs_at_smoke_size(capsys: pytest.CaptureFixture[str]) -> None:
    figures = runpy.run_path(str(BENCHMARKS / "recorder.py"))["measure"](batches=3, repeats=1)
    assert figures["recorder_cpu_us_per_batch"] > 0
