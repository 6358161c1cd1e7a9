"""What was over the budget, counted by cause; and why a thread was late."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest

from fraudgate.commands.serve import SWITCH_INTERVAL_SECONDS
from fraudgate.latency import witness as witnesses
from fraudgate.latency.budget import Budget
from fraudgate.latency.lateness import Rate, Sample, cause_of, cause_of_sleeper
from fraudgate.latency.overruns import SETTLED_NS, Overruns
from fraudgate.latency.recorder import LATE_UNREAD, Counters, Recorder
from fraudgate.latency.scheduler import RunQueue, RunQueues
from fraudgate.latency.stalls import LoopWatch
from fraudgate.latency.timeline import Timeline
from fraudgate.latency.witness import Witness
from fraudgate.transaction import Answers, decided_rows

MS = 1_000_000
S = 1_000 * MS


def batch(arrivals_ms: list[int], taken_up_ms: int, *stages_ms: int) -> Answers:
    """A batch of rows that arrived then, with its other three stages."""
    ends = [ns * MS for ns in np.cumsum([taken_up_ms, *stages_ms]).tolist()]
    rows = decided_rows(len(arrivals_ms), 1, *ends)
    rows["arrival_ns"] = np.array(arrivals_ms) * MS
    return rows


class Counted:
    """Overruns on a timeline."""

    def __init__(self) -> None:
        self.timeline, self.counters = Timeline(), Counters()
        self.overruns = Overruns(self.timeline, Budget.default(), self.counters)

    def settled(self, now_ns: int = 1_000 * S) -> dict[str, int]:
        self.overruns.settle(now_ns)
        return self.counters.copy().over_budget


def test_every_row_over_the_budget_is_counted_once_with_its_cause() -> None:
    counted = Counted()
    counted.timeline.note("gc", 1_000 * MS, 1_080 * MS)
    counted.timeline.note("store_slow", 2_000 * MS, 2_100 * MS)
    for decided in (
        batch([995, 1_010, 1_060], 1_082, 1, 1, 1),  # the last one is in time
        batch([1_999], 2_000, 100, 1, 1),
        batch([3_000], 3_080, 1, 1, 1),  # nothing was noted
        batch([4_000], 4_001, 1, 1, 1),
    ):
        counted.overruns.record_batch(decided)
    counted.overruns.record_spent((1_005 * MS, 1_082 * MS))
    assert counted.settled() == {"gc": 3, "store_slow": 1, "unexplained": 1}
    assert counted.settled() == {"gc": 3, "store_slow": 1, "unexplained": 1}, "once"


def test_what_is_noted_late_is_seen() -> None:
    counted = Counted()
    counted.overruns.record_batch(batch([0], 100, 1, 1, 1))
    assert counted.settled(103 * MS + SETTLED_NS - 1) == {}
    counted.timeline.note("lock", 5 * MS, 100 * MS)
    assert counted.settled(103 * MS + SETTLED_NS) == {"lock": 1}


def test_who_stands_behind_those_that_were_delayed_has_their_cause() -> None:
    counted = Counted()
    counted.timeline.note("busy_spin", 0, 90 * MS)
    counted.overruns.record_batch(batch([1], 91, 1, 1, 1))
    counted.overruns.record_batch(batch([89], 150, 1, 1, 1))
    counted.overruns.record_batch(batch([400], 460, 1, 1, 1))
    assert counted.settled() == {"busy_spin": 2, "unexplained": 1}


def test_slow_readers_are_counted_by_the_front_end() -> None:
    counters = Counters()
    counters.add_source(lambda: {LATE_UNREAD: 3})
    assert counters.copy().over_budget == {"slow_client": 3}


@pytest.mark.parametrize(
    ("sample", "cause"),
    [
        (Sample(cpu_ns=1 * MS, waiting_ns=15 * MS), "cpu_wait"),
        (Sample(cpu_ns=29 * MS, worked_ns=5 * MS), "busy_spin"),
        (Sample(cpu_ns=29 * MS, worked_ns=20 * MS), None),
        (Sample(cpu_ns=2 * MS, worked_ns=28 * MS), None),  # a slow store: its own event says so
        (Sample(cpu_ns=2 * MS, waiting_ns=1 * MS, worked_ns=2 * MS), "lock"),
    ],
)
def test_why_the_loop_was_late(sample: Sample, cause: str | None) -> None:
    assert cause_of(Sample(), sample._replace(now_ns=40 * MS), 30 * MS) == cause


def test_full_batches_one_after_the_other_are_a_burst_or_an_overload() -> None:
    full = Sample(now_ns=10 * MS, worked_ns=6 * MS, rows=320, batches=10)
    assert Rate().overload_of(Sample(), full) == "burst", "nothing was usual"
    assert Rate().overload_of(Sample(), full._replace(rows=200)) is None
    assert Rate().overload_of(Sample(), full._replace(worked_ns=4 * MS)) is None
    assert Rate().overload_of(full, full) is None
    rate, found, before = Rate(), [], Sample()
    for rows in [*[10] * 100, *[320] * 9_000]:
        now = Sample(before.now_ns + 10 * MS, 0, 0, before.worked_ns + 6 * MS, before.rows + rows, before.batches + 10)
        found.append(rate.overload_of(before, now))
        before = now
    assert (found[0], found[100], found[-1]) == (None, "burst", "overload")
    assert found[100:] == sorted(map(str, found[100:])), "what goes on for long becomes usual, once"


def test_what_a_sleeper_shows() -> None:
    assert cause_of_sleeper(100 * MS, 0, 2) == "cpu_steal", "nothing of the process could run"
    assert cause_of_sleeper(100 * MS, 0, 20) == "interpreter", "it woke up every 5 ms"
    assert cause_of_sleeper(100 * MS, 80 * MS, 20) is None, "it asked too seldom to tell"
    assert cause_of_sleeper(100 * MS, 80 * MS, 30) == "interpreter", "it had CPUs to ask with, again and again"
    assert cause_of_sleeper(100 * MS, 60 * MS, 2) is None


@pytest.mark.parametrize(
    ("late_ms", "waited_ms", "switches", "cause"),
    [
        (107, 1, 188, "interpreter"),
        (106, 38, 127, "interpreter"),  # for each CPU that it asked with it had to wait, too
        (114, 3, 16, "cpu_steal"),  # SIGSTOP; then a few milliseconds in which all threads wanted the interpreter
        (122, 1, 2, "cpu_steal"),
        (232, 201, 57, None),  # sixty neighbours: the loop had the interpreter, and no CPU
        (59, 19, 30, None),  # neither
    ],
)
def test_what_the_sleeper_of_a_server_showed(late_ms: int, waited_ms: int, switches: int, cause: str | None) -> None:
    """Recorded, at the switch interval of ``serve``."""
    assert cause_of_sleeper(late_ms * MS, waited_ms * MS, switches, round(SWITCH_INTERVAL_SECONDS * S)) == cause


def test_a_thread_that_had_to_wait_for_a_cpu_says_so() -> None:
    queue = RunQueue()
    assert queue.waiting_ns() >= 0
    queue.close()
    assert queue.waiting_ns() == 0
    assert RunQueue(2**31 - 1).waiting_ns() == 0, "no such thread"
    assert not RunQueues("no such thread")


async def test_a_blocked_loop_and_a_spinning_one_are_told_apart() -> None:
    counted = Counted()
    watch = LoopWatch(Recorder(), counted.counters, lambda: True, timeline=counted.timeline, runs=counted.overruns.runs)
    watch.start()
    try:
        for act in (lambda: time.sleep(0.1), _spin):
            await asyncio.sleep(0.02)
            act()
            await asyncio.sleep(0.02)
    finally:
        watch.stop()
    causes = [event.cause for event in counted.timeline.since(0).events if event.end_ns - event.start_ns > 50 * MS]
    assert causes == ["loop_stall", "lock", "loop_stall", "busy_spin"] or "cpu_wait" in causes


def _spin() -> None:
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass


def test_the_witness_settles_and_sees_no_stop_where_a_thread_keeps_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(witnesses, "FRONT_END", "no such thread")
    counted = Counted()
    witness = Witness(counted.timeline, counted.overruns)
    witness.stop()  # not started: nothing happens
    counted.overruns.record_batch(batch([0], 100, 1, 1, 1))
    witness.start()
    end = time.monotonic() + 10
    while not counted.counters.copy().over_budget and time.monotonic() < end:
        time.sleep(0.01)
    keeper = threading.Thread(target=sorted, args=([os.urandom(8) for _ in range(200_000)],))
    keeper.start()
    keeper.join()
    witness.stop()
    assert counted.counters.copy().over_budget == {"unexplained": 1}
    assert not counted.timeline.touches("cpu_steal", 0, 2**62)


@pytest.mark.parametrize(
    ("ran_ms", "waited_ms", "switches", "noted"),
    [(1, 0, 2, True), (110, 0, 2, False), (1, 110, 3, False), (30, 5, 60, False)],
    ids=["stopped", "explained much", "no CPU", "shared the interpreter with a busy loop"],
)
def test_a_process_that_stands_still_while_the_witness_works_is_seen(
    monkeypatch: pytest.MonkeyPatch, ran_ms: int, waited_ms: int, switches: int, noted: bool
) -> None:
    """Its settling takes 120 ms of the clock, and of its own counters what the case says."""
    monkeypatch.setattr(witnesses, "FRONT_END", "no such thread")
    counted = Counted()
    now, settled = [0, 0, 0, 0, 0], threading.Event()

    def settle(now_ns: int) -> None:
        if not settled.is_set() and now[0] == 0:
            now[:] = [120 * MS, ran_ms * MS, waited_ms * MS, switches, 120 * MS]
        elif now[0]:
            settled.set()

    monkeypatch.setattr(counted.overruns, "settle", settle)
    monkeypatch.setattr(Witness, "_look", lambda *_: witnesses.Look(*now))
    witness = Witness(counted.timeline, counted.overruns, lambda: now[0])
    witness.start()
    assert settled.wait(10)
    witness.stop()
    assert counted.timeline.touches("cpu_steal", 0, 120 * MS) == noted
