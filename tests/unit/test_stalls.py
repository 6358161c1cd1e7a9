"""Loop stalls and the garbage collector's keeper, on fake clocks."""

import asyncio
import gc
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fraudgate.latency import stalls
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.stalls import GcKeeper, GcPauses, LoopWatch, StallMeter

MS, S = 1_000_000, 1_000_000_000
FEW, SOME, MANY = 10, stalls.YOUNG_OBJECTS_IDLE_MAX, stalls.YOUNG_OBJECTS_BUSY_MAX


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def collector_as_it_was() -> Iterator[None]:
    callbacks = list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.unfreeze()
    gc.enable()


def test_a_stall_is_how_late_the_tick_ran() -> None:
    meter = StallMeter(tick_ns=10 * MS)
    meter.arm(now_ns=5 * MS)
    assert meter.late_ns(now_ns=15 * MS) == 0
    assert meter.late_ns(now_ns=15 * MS + 1) == 1
    assert meter.late_ns(now_ns=45 * MS) == 30 * MS
    assert meter.late_ns(now_ns=14 * MS) == 0, "a timer that came early is no stall"


#    now    idle   young  steps  -> generation
CHOICES = """
     0      yes    FEW    0         -
     0      yes    SOME   0         0
     0      no     SOME   0         -
     0      no     MANY   0         0
     0      no     FEW    3         -
     0      no     FEW    4         1
     0      yes    MANY   4         1
     4999   no     FEW    0         -
     5000   no     FEW    0         1
     5000   yes    FEW    0         1
"""


@pytest.mark.parametrize("line", [line.split() for line in CHOICES.strip().splitlines()], ids=" ".join)
def test_which_generation_is_collected(line: list[str]) -> None:
    now_ms, idle, young, steps, generation = line
    chosen = GcKeeper(now_ns=0).choose(int(now_ms) * MS, idle == "yes", globals()[young], int(steps))
    assert chosen == (None if generation == "-" else int(generation))


def ticks(keeper: GcKeeper, start_ns: int, end_ns: int, idle: bool, pause_ns: int = 0) -> list[tuple[int, int]]:
    """Drive a keeper with a tick every 100 ms; returns (now_ns, generation) of each collection."""
    collections = []
    for now_ns in range(start_ns, end_ns, 100 * MS):
        generation = keeper.choose(now_ns, idle, FEW, 0)
        if generation is not None:
            keeper.collected(generation, now_ns, pause_ns)
            collections.append((now_ns, generation))
    return collections


def test_a_service_that_is_never_idle_is_collected_all_the_same_but_never_in_full() -> None:
    collections = ticks(GcKeeper(0), 0, 600 * S, idle=False)
    assert [generation for _, generation in collections] == [1] * 119
    assert {b - a for (a, _), (b, _) in pairwise(collections)} == {5 * S}


def test_a_full_collection_waits_for_quiet_and_for_its_interval() -> None:
    keeper = GcKeeper(0)
    ticks(keeper, 0, 100 * S, idle=False)
    full = [now_ns for now_ns, generation in ticks(keeper, 100 * S, 200 * S, idle=True) if generation == 2]
    assert full == [102 * S, 162 * S]


def test_the_dearer_a_full_collection_the_longer_it_waits() -> None:
    keeper = GcKeeper(0)
    keeper.collected(2, 60 * S, pause_ns=200 * MS)
    collections = ticks(keeper, 60 * S, 400 * S, idle=True, pause_ns=200 * MS)
    full = [now_ns for now_ns, generation in collections if generation == 2]
    assert full == [260 * S], "1,000 pauses apart"
    keeper.collected(2, 400 * S, pause_ns=200 * MS)
    ticks(keeper, 400 * S, 700 * S, idle=False)
    full = [now_ns for now_ns, generation in ticks(keeper, 700 * S, 740 * S, idle=True) if generation == 2]
    assert full == [720 * S], "after 100 pauses of quiet"


def test_one_busy_tick_ends_the_quiet() -> None:
    keeper = GcKeeper(0)
    ticks(keeper, 0, 61 * S, idle=False)
    ticks(keeper, 61 * S, 62_900 * MS, idle=True)
    ticks(keeper, 62_900 * MS, 63 * S, idle=False)
    full = [now_ns for now_ns, generation in ticks(keeper, 63 * S, 66 * S, idle=True) if generation == 2]
    assert full == [65 * S]


def test_every_collection_is_recorded_as_a_pause() -> None:
    recorder, clock = Recorder(), FakeClock()
    pauses = GcPauses(recorder, clock)
    for start_ns, stop_ns in ((0, 3 * MS), (10 * MS, 11 * MS)):
        clock.now_ns = start_ns
        pauses("start", {"generation": 0})
        clock.now_ns = stop_ns
        pauses("stop", {"generation": 0})
    gc_pause = recorder.since_start()["gc_pause"]
    assert gc_pause.count == 2
    assert gc_pause.max_ns == pytest.approx(3 * MS, rel=1e-3)


async def test_the_watch_ticks_collects_and_gives_the_collector_back(
    collector_as_it_was: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "MIDDLE_INTERVAL_NS_MAX", 0)  # a step at every tick
    recorder, counters = Recorder(), Counters()
    watch = LoopWatch(recorder, counters, idle=lambda: True)
    watch.stop()  # not started: nothing happens
    watch.start()
    assert not gc.isenabled()
    assert gc.get_freeze_count() > 0
    while recorder.since_start()["gc_pause"].count < 2:
        await asyncio.sleep(0.001)
    watch.stop()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert recorder.since_start()["loop_stall"].count >= 2


async def test_a_batch_since_the_last_tick_is_not_quiet() -> None:
    counters = Counters()
    watch = LoopWatch(Recorder(), counters, idle=lambda: True)
    assert watch._quiet()
    counters.count_batch(1)
    assert not watch._quiet()
    assert watch._quiet()


def test_cyclic_garbage_does_not_pile_up_under_the_keepers_choices(collector_as_it_was: None) -> None:
    class Node:
        def __init__(self) -> None:
            self.self = self

    gc.collect()
    gc.freeze()
    gc.disable()
    keeper, most = GcKeeper(0), 0
    for tick in range(400):
        for _ in range(100):
            Node()
        young_objects, young_steps, _ = gc.get_count()
        most = max(most, young_objects)
        generation = keeper.choose(tick * 10 * MS, False, young_objects, young_steps)
        if generation is not None:
            gc.collect(generation)
            keeper.collected(generation, tick * 10 * MS, 0)
    assert most < 2 * stalls.YOUNG_OBJECTS_BUSY_MAX
    assert sum(type(thing) is Node for thing in gc.get_objects()) < stalls.YOUNG_OBJECTS_BUSY_MAX
