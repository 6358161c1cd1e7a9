"""Exemplars against all rows sorted, the ledger against plain integers, the merge of logs against all values."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.editions import Edition, Editions
from fraudgate.guardrails.reasons import RuleTexts
from fraudgate.latency.exemplars import ROLLING_NS, Exemplars
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.ledger import MISMATCHES, TOLERANCE_NS, Ledger
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.report import merge_hlogs, write_hlog
from fraudgate.latency.timeline import Timeline
from fraudgate.transaction import ANSWER_DTYPE, Answers, decided_rows

KEPT = 7
S = 1_000_000_000


def editions() -> Editions:
    made = Editions()
    made.add(Edition("run", "m", "1", "digest", "int8", RuleTexts("r", (), ())))
    return made


def batch(first: int, totals_ns: list[int], answered_ns: int) -> Answers:
    """Rows numbered from ``first`` on, which took so long."""
    rows = decided_rows(len(totals_ns), 1, answered_ns - 3, answered_ns - 2, answered_ns - 1, answered_ns)
    rows["arrival_ns"] = answered_ns - np.array(totals_ns)
    rows["sequence"] = np.arange(first, first + len(totals_ns))
    rows["fallback"] = 1
    return rows


BATCH = st.lists(st.integers(-5, 50), min_size=1, max_size=5)
ACTIONS = st.lists(BATCH | st.just("cut") | st.just("recent"), max_size=120)


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_the_slowest_of_each_interval_are_kept_and_none_is_in_two(actions: list[list[int] | str]) -> None:
    exemplars = Exemplars(Timeline(), editions(), kept=KEPT)
    interval: list[tuple[int, str]] = []
    everything: list[tuple[int, str]] = []
    rows = 0
    for action in [*actions, "cut", "cut"]:
        if isinstance(action, str):
            told = exemplars.cut() if action == "cut" else exemplars.recent(100)
            expected = interval if action == "cut" else everything
            assert [(-one.stages_ns["total"], one.decision_id) for one in told] == sorted(
                expected, key=lambda row: row[0]
            )[:KEPT]
            if action == "cut":
                interval = []
            continue
        exemplars.record_batch(batch(rows, action, 100))
        added = [(-total_ns, f"run-{rows + place:x}") for place, total_ns in enumerate(action)]
        rows += len(action)
        interval += added
        everything += added
    assert exemplars.cut() == []


def test_recent_ones_are_forgotten_and_stages_and_events_are_told() -> None:
    timeline = Timeline()
    exemplars = Exemplars(timeline, editions(), kept=KEPT)
    timeline.note("gc", 90, 97)
    timeline.note("swap", 101, 101)
    exemplars.record_batch(batch(16, [10, 20], 100))
    (slow, fast) = exemplars.recent(100)
    assert (slow.decision_id, slow.engine, slow.fallback, slow.batch, slow.batch_rows) == (
        "run-11",
        "m/1",
        "none",
        0,
        2,
    )
    assert slow.stages_ns == {"queue": 17, "features": 1, "inference": 1, "guardrails": 1, "total": 20}
    assert [event.cause for event in slow.events] == [event.cause for event in fast.events] == ["gc"]
    assert exemplars.recent(100 + 2 * ROLLING_NS) == [slow, fast]
    assert exemplars.recent(101 + 2 * ROLLING_NS) == []
    for number in range(200):
        exemplars.record_batch(batch(100 + number, [5], 100 + number * S // 5))
    recent = exemplars.recent(100 + 40 * S)
    assert len(recent) == KEPT
    assert min(one.arrival_ns for one in recent) >= 20 * S


def test_a_batch_that_is_decided_during_a_cut_is_in_the_next_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    exemplars = Exemplars(Timeline(), editions(), kept=KEPT)
    exemplars.record_batch(batch(0, [10], 100))
    seen = exemplars._waiting.seen

    def decided_just_after() -> list[tuple[int, Answers]]:
        waiting = seen()
        exemplars.record_batch(batch(1, [20], 101))
        return waiting

    with monkeypatch.context() as patch:
        patch.setattr(exemplars._waiting, "seen", decided_just_after)
        assert [one.decision_id for one in exemplars.cut()] == ["run-0"]
    assert [one.decision_id for one in exemplars.cut()] == ["run-1"]
    assert exemplars.cut() == []


STAMP = st.integers(0, 300_000)


@given(
    st.lists(st.tuples(st.tuples(STAMP, STAMP, STAMP, STAMP, STAMP), STAMP, st.booleans(), STAMP), max_size=8),
    STAMP,
    st.sampled_from((0, 1, 90_000)),
)
@settings(max_examples=60, deadline=None)
def test_the_ledger_settles_each_row_as_its_integers_say(
    given_rows: list[tuple[tuple[int, ...], int, bool, int]], sent_ns: int, budget_ns: int
) -> None:
    rows = np.zeros(len(given_rows), ANSWER_DTYPE)
    oracle, mismatches = Recorder(), 0
    for row, (stamps, arrival_ns, replayed, deadline_ns) in zip(rows, given_rows, strict=True):
        for name, stamp in zip(ANSWER_DTYPE.names[-5:], stamps, strict=True):
            row[name] = stamp
        row["replayed"] = replayed
        if replayed:
            continue
        ends = [*stamps, sent_ns]
        stages_ns = [end - start for start, end in pairwise(ends)]
        whole_ns = sent_ns - arrival_ns
        oracle.record_one("respond", stages_ns[-1])
        oracle.record_one("whole", whole_ns)
        budgets = [deadline_ns - arrival_ns] * bool(deadline_ns) + [budget_ns] * bool(budget_ns)
        if budgets:
            oracle.record_one("budget_spent", max(whole_ns, 0) * 1_000 // max(min(budgets), 1))
        mismatches += abs(sum(max(ns, 0) for ns in stages_ns) - whole_ns) > TOLERANCE_NS
    recorder, counters = Recorder(), Counters()
    arrivals_ns, deadlines_ns = (np.array([row[place] for row in given_rows], np.int64) for place in (1, 3))
    Ledger(recorder, counters, budget_ns).settle(rows, arrivals_ns, deadlines_ns, sent_ns)
    assert contents(recorder) == contents(oracle)
    assert counters.copy().totals[MISMATCHES] == mismatches


def contents(recorder: Recorder) -> dict[str, list[list[int]]]:
    return {name: cells(values) for name, values in recorder.since_start().items()}


def cells(values: Distribution) -> list[list[int]]:
    return [values.indices.tolist(), values.counts.tolist(), [values.over_range]]


VALUES = st.lists(st.integers(0, 100_000_000) | st.integers(0, 200 * S), min_size=1, max_size=40)


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_logs_of_any_number_of_workers_and_intervals_merge_to_the_histogram_of_all_values(
    workers: list[list[list[int]]],
) -> None:
    whole = Recorder()
    with TemporaryDirectory() as directory:
        paths = []
        for number, intervals in enumerate(workers):
            recorder, path = Recorder(), Path(directory) / f"{number}.hlog"
            text = b""
            before = recorder.since_start()
            for place, values in enumerate(intervals):
                recorder.record("total", np.array(values, np.int64))
                whole.record("total", np.array(values, np.int64))
                now = recorder.since_start()
                grown = {name: one.since(before[name]) for name, one in now.items()}
                write_hlog(path, grown, (1_000 + place) * S, (1_001 + place) * S)
                text, before = text + path.read_bytes(), now
            path.write_bytes(text)
            paths.append(path)
        merged = merge_hlogs(paths).distributions
    assert list(merged) == ["total"]
    assert cells(merged["total"]) == cells(whole.since_start()["total"])
