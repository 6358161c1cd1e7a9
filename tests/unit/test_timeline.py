"""The timeline, and who notes into it: the collector, the loop, slow runs."""

import pytest

from fraudgate.latency.budget import Budget
from fraudgate.latency.recorder import Recorder
from fraudgate.latency.stalls import GcPauses
from fraudgate.latency.timeline import CAUSES, Event, SlowRuns, Timeline
from fraudgate.testing import FakeClock
from fraudgate.transaction import decided_rows

MS = 1_000_000


def test_events_touch_an_interval_or_they_do_not() -> None:
    timeline = Timeline()
    timeline.note("gc", 30, 40)
    timeline.note("swap", 10, 10, "m/2: live")
    timeline.note("loop_stall", 5, 100)
    events = timeline.since(0)
    assert [event.cause for event in events.events] == ["loop_stall", "swap", "gc"], "by start"
    for span, causes in {
        (0, 4): [],
        (0, 5): ["loop_stall"],
        (10, 10): ["loop_stall", "swap"],
        (11, 29): ["loop_stall"],
        (40, 50): ["loop_stall", "gc"],
        (101, 200): [],
    }.items():
        assert [event.cause for event in events.overlapping(*span)] == causes, span
    assert timeline.since(41).events == [Event("loop_stall", 5, 100)]
    assert repr(timeline) == "<Timeline [1 gc, 1 loop_stall, 1 swap]>"


def test_a_frequent_cause_pushes_out_its_own_events_only() -> None:
    timeline = Timeline(events_max=3)
    timeline.note("swap", 1, 1)
    for start_ns in range(100):
        timeline.note("gc", start_ns, start_ns)
    assert [(event.cause, event.start_ns) for event in timeline.since(0).events] == [
        ("swap", 1),
        ("gc", 97),
        ("gc", 98),
        ("gc", 99),
    ]


def test_a_cause_that_nobody_knows_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        Timeline().note("gremlins", 0, 1)


@pytest.mark.parametrize(
    ("stamps_ms", "noted"),
    [
        ((0, 5, 15, 20), []),
        ((0, 6, 16, 21), [("store_slow", 0, 6)]),
        ((0, 1, 12, 13), [("engine_slow", 1, 12)]),
        ((0, 1, 2, 8), [("guard_slow", 2, 8)]),
        ((0, 60, 120, 180), [("store_slow", 0, 60), ("engine_slow", 60, 120), ("guard_slow", 120, 180)]),
    ],
)
def test_runs_over_their_allowance_are_noted(
    stamps_ms: tuple[int, int, int, int], noted: list[tuple[str, int, int]]
) -> None:
    timeline = Timeline()
    taken_up, gathered, inferred, answered = (ms * MS for ms in stamps_ms)
    SlowRuns(timeline, Budget.default()).record_batch(decided_rows(3, 1, taken_up, gathered, inferred, answered))
    assert timeline.since(0).events == [Event(cause, start * MS, end * MS) for cause, start, end in noted]


def test_long_collections_are_noted_short_ones_are_not() -> None:
    timeline, clock = Timeline(), FakeClock(0)
    pauses = GcPauses(Recorder(), clock, timeline)
    for pause_ns in (99_999, 100_000):
        pauses("start", {"generation": 1})
        clock.now_ns += pause_ns
        pauses("stop", {"generation": 1})
    assert timeline.since(0).events == [Event("gc", 99_999, 199_999, "generation 1")]


def test_a_collection_is_seen_before_its_thread_comes_to_say_its_end() -> None:
    timeline, clock = Timeline(), FakeClock(1_000)
    pauses = GcPauses(Recorder(), clock, timeline)
    pauses("stop", {"generation": 2})  # of one that began before somebody listened
    assert not timeline.since(0).events
    pauses("start", {"generation": 2})
    assert timeline.touches("gc", 2_000, 3_000)
    clock.now_ns += 200_000
    pauses("stop", {"generation": 2})
    assert timeline.since(0).events == [Event("gc", 1_000, 201_000, "generation 2")]


def test_what_goes_on_ends_wherever_it_stands() -> None:
    timeline = Timeline(events_max=2)
    first, second = timeline.begin("gc", 1), timeline.begin("gc", 2)
    timeline.end(first)
    assert timeline.since(0).events == [second]
    timeline.note("gc", 3, 4)
    timeline.note("gc", 5, 6)
    timeline.end(second)  # pushed out
    assert [event.start_ns for event in timeline.since(0).events] == [3, 5]


def test_every_cause_says_what_it_means() -> None:
    assert all(text.endswith(".") for text in CAUSES.values())
