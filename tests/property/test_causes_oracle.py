"""Causes against a count of single nanoseconds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.latency.budget import STAGES, Budget
from fraudgate.latency.causes import (
    ABOUT,
    BY_THE_CLOCK,
    CAUSES,
    LOOPS_WAIT,
    NAMES,
    ONLY_WITH,
    RIVALS,
    SIGN,
    UNEXPLAINED,
    WAITS,
    Cover,
    backlogs,
    explain,
)
from fraudgate.latency.timeline import Event

BUDGET = Budget(50, dict(zip(STAGES, (25, 5, 10, 5, 5), strict=True)))

events = st.lists(
    st.builds(
        lambda cause, start_ns, length_ns: Event(cause, start_ns, start_ns + length_ns),
        st.sampled_from([*CAUSES, SIGN]),
        st.integers(-20, 120),
        st.integers(0, 60),
    ),
    max_size=6,
)
rows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), *[st.integers(0, 70)] * 4), min_size=1, max_size=8)


def covered(found: list[Event], cause: str, start_ns: int, end_ns: int) -> int:
    """Nanoseconds in which an event of the cause lasts; once however many do."""
    of_cause = [event for event in found if event.cause == cause]
    return sum(any(e.start_ns <= ns < e.end_ns for e in of_cause) for ns in range(start_ns, end_ns))


def score(found: list[Event], cause: str, start_ns: int, end_ns: int) -> int:
    best = covered(found, cause, start_ns, end_ns)
    if cause in ONLY_WITH:
        best = min(best, covered(found, ONLY_WITH[cause], start_ns, end_ns))
    return best


def named(found: list[Event], start_ns: int, end_ns: int, lacking_ns: int) -> str:
    scores = {cause: score(found, cause, start_ns, end_ns) for cause in (*CAUSES, SIGN)}
    scores |= {cause: max(scores[cause] - scores[LOOPS_WAIT], 0) for cause in BY_THE_CLOCK}
    together = min(sum(scores[cause] for cause in WAITS), end_ns - start_ns)
    rival, wait = (max(scores[cause] for cause in group) for group in (RIVALS, WAITS))
    scores |= dict.fromkeys((*(RIVALS if rival < wait else ()), *(WAITS if wait < rival else ())), 0)
    for causes, most in ((CAUSES, 0), (WAITS, together), ([SIGN], 0)):
        best = max(scores[cause] for cause in causes)
        if lacking_ns > 0 and 2 * max(best, most) >= lacking_ns:
            return next(cause for cause in causes if scores[cause] >= ABOUT * best)
    return UNEXPLAINED


def cause_of(stamps: list[int], since_ns: int, found: list[Event]) -> str:
    allowed = list(BUDGET.allowed_ns.values())[:4]
    over = [end - start - most for start, end, most in zip(stamps, stamps[1:], allowed, strict=False)]
    stage = over.index(max(over))
    name = named(found, stamps[stage], stamps[stage + 1], over[stage])
    if name == UNEXPLAINED and stage == 0:
        name = named(found, min(since_ns, stamps[0]), stamps[1], over[0])
    return name


@given(rows, events)
@settings(max_examples=300, deadline=None)
def test_the_cause_is_that_of_the_oracle(drawn: list[tuple[int, ...]], found: list[Event]) -> None:
    stamps = np.array([np.cumsum([arrival, *stages]) for _, arrival, *stages in drawn]).T
    since = np.array([max(arrival - back, 0) for back, arrival, *_ in drawn])
    causes = explain(stamps, since, found, BUDGET)
    for row, cause in enumerate(causes):
        assert cause == cause_of(stamps[:, row].tolist(), int(since[row]), found)
        assert cause in NAMES


@given(events, st.lists(st.tuples(st.integers(-30, 200), st.integers(0, 100)), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_what_overlaps_covers_once(found: list[Event], spans: list[tuple[int, int]]) -> None:
    start = np.array([start_ns for start_ns, _ in spans])
    end = start + [length_ns for _, length_ns in spans]
    expected = [
        sum(any(e.start_ns <= ns < e.end_ns for e in found) for ns in range(a, b))
        for a, b in zip(start.tolist(), end.tolist(), strict=True)
    ]
    assert Cover(found).between(start, end).tolist() == expected


def test_a_backlog_lasts_until_somebody_arrives_after_its_last_one_was_taken_up() -> None:
    spans = [(10, 60), (20, 60), (60, 70), (71, 80), (75, 90)]
    assert backlogs(spans, 3, 9) == [(10, 60), (10, 60), (10, 70), (71, 80), (71, 90)]
    assert backlogs([(8, 20)], 3, 9) == [(3, 20)], "it began before"
    assert backlogs([], 3, 9) == []
