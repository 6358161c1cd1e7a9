"""Recorder, reports and counters."""

import ast
import inspect
import re
import runpy
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fraudgate.latency import histogram, recorder
from fraudgate.latency.recorder import STAGES, TOTALS, Counters, Recorder, Waiting
from fraudgate.transaction import Answers, Decision, Fallback, decided_rows

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


def test_over_the_budget_is_whose_bytes_left_after_it() -> None:
    latency = Recorder(budget_ns=50 * MS)
    latency.record("total", np.array([49, 49, 51], np.int64) * MS)
    assert latency.report(0).over_budget == 1, "nobody said when their bytes left"
    latency.record("whole", np.array([50, 52, 53], np.int64) * MS)
    assert latency.report(0).over_budget == 2


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


def decided(count: int, seed: int = 0) -> Answers:
    """Rows of one engine call, up to a second old."""
    random = np.random.default_rng(seed)
    stamps = np.cumsum(random.integers(0, 200 * MS, 4)) + 2_000 * MS
    rows = decided_rows(count, 7, *stamps.tolist())
    rows["arrival_ns"] = stamps[0] - random.integers(-5, 1_000 * MS, count)
    rows["decision"], rows["fallback"] = random.integers(1, 4, count), random.integers(1, 6, count)
    return rows


def recorded(latency: Recorder) -> dict[str, list[tuple[int, int]]]:
    """(bucket, count) by stage."""
    found = latency.since_start()
    return {name: list(zip(one.indices.tolist(), one.counts.tolist(), strict=True)) for name, one in found.items()}


@pytest.mark.parametrize("batches", [1, 31, 32, 33, 70])
def test_decided_batches_are_recorded_stage_by_stage_and_seen_at_once(batches: int) -> None:
    latency, oracle, counters, counted = Recorder(), Recorder(), Counters(), Counter[tuple[int, int]]()
    for i in range(batches):
        rows = decided(1 + i % 32, seed=i)
        latency.record_batch(rows)
        counters.count_decisions(rows["decision"], rows["fallback"])
        counted.update(zip(rows["decision"].tolist(), rows["fallback"].tolist(), strict=True))
        stamps = [rows[name] for name in ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")]
        for stage, start, end in zip(STAGES, stamps, stamps[1:], strict=False):
            oracle.record(stage, end - start)
        oracle.record("total", stamps[-1] - stamps[0])
        if i % 9 == 0 or i in (30, 31, 32):
            assert recorded(latency) == recorded(oracle)
    assert recorded(latency) == recorded(oracle), "reading changes nothing"
    assert {key: count for key, count in counters.copy().decisions.items() if count} == counted


def test_a_reader_never_makes_the_recording_thread_wait() -> None:
    seen: list[list[int]] = []
    waiting = Waiting[int](seen.append)
    with waiting.still:
        for i in range(100):
            waiting.put(i)
        assert seen == [], "nothing is added up under a reader's eyes"
        assert waiting.seen() == list(range(100))
    waiting.put(100)
    assert seen == [list(range(101))], "and nothing is lost"
    with waiting.still:
        assert waiting.seen() == []


@pytest.mark.parametrize("native", [False, True])
def test_what_was_decided_while_a_reader_copied_is_not_kept_for_ever(native: bool) -> None:
    latency = Recorder(native=native)
    kept = []
    with latency._waiting.still:
        for _ in range(100):
            decided = decided_rows(32, 1, 0, 0, 0, MS)
            kept.append(weakref.ref(decided))
            latency.record_batch(decided)
        del decided
    for _ in range(32):  # as many as may wait
        latency.record_batch(decided_rows(1, 1, 0, 0, 0, MS))
    assert not any(each() is not None for each in kept)
    assert latency.since_start()["total"].count == 100 * 32 + 32


def test_readers_on_other_threads_see_every_decided_row_once() -> None:
    latency, counters, batches, rows = Recorder(), Counters(), 3_000, decided(32)
    totals: list[int] = []
    decisions: list[int] = []
    intervals: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            totals.append(latency.since_start()["total"].count)
            intervals.append(latency.reset(0).stages[STAGES.index("total")].count)
            decisions.append(sum(counters.copy().decisions.values()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(batches):
        latency.record_batch(rows)
        counters.count_decisions(rows["decision"], rows["fallback"])
    done.set()
    reader.join()
    assert totals == sorted(totals)
    assert decisions == sorted(decisions)
    assert sum(intervals) + latency.since_reset()["total"].count == batches * 32
    assert sum(counters.copy().decisions.values()) == batches * 32
    assert all(count % 32 == 0 for count in [*totals, *decisions]), "a batch is seen whole or not at all"


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
