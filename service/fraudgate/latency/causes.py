"""Why decisions took longer than their budget: the stage that overran, and what stood in the timeline meanwhile.

The cause is what covers most of the stage, and at least half of what it took over its allowance. Of those that cover
about as much the first in ``CAUSES`` is named: what stops everything comes before what is slow by itself, and that
before what may be only its sign; ``SIGN`` is asked last of all. What counters measure over the row's own time is no
sign: of ``WAITS`` and ``RIVALS`` only the larger share counts, so that many rows are told from few CPUs; and while the
loop was ready to run and had no CPU, it neither stood still nor lacked the interpreter, whatever another thread saw
(``BY_THE_CLOCK``): who keeps the interpreter may be the loop itself, without a CPU. Waits for a CPU of two threads, one
after the other, may be long only together. A row that waited in the queue and that nothing
covers is asked for once more from the beginning of its backlog on: it stood behind others that were delayed. What
nothing covers is ``UNEXPLAINED``.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fraudgate.latency.budget import Budget
from fraudgate.latency.progress import Measure
from fraudgate.latency.timeline import Event
from fraudgate.transaction import Answers, Int64

UNEXPLAINED = "unexplained"
SLOW_CLIENT = "slow_client"
"""Counted by the front end, which alone sees it: the decision was in time, and the peer left its bytes unread."""

CAUSES = (
    *("cpu_steal", "gc", "swap", "snapshot", "burst", "interpreter", "engine_opening", "cpu_wait"),
    *("front_wait", "store_slow", "engine_slow", "guard_slow", "log_write", "lock", "busy_spin", "overload"),
)
ONLY_WITH = {"log_write": "lock", "engine_opening": "cpu_wait"}
"""What threads of their own do delays nothing, unless the loop was blocked just then, or lacked a CPU."""
LOOPS_WAIT = "cpu_wait"
WAITS = (LOOPS_WAIT, "front_wait")
BY_THE_CLOCK = ("cpu_steal", "gc", "interpreter")
"""Seen by two instants: what the loop waited for a CPU between them is the wait's."""
RIVALS = ("burst", "overload", "log_write", "lock", "busy_spin")
"""A thread did something else meanwhile than to wait for a CPU."""
SIGN = "loop_stall"
ABOUT = 0.5
"""A cause that covers this share of what the best one covers is as good: signs last longer than what they are of."""
OTHER_CAUSES = {
    SLOW_CLIENT: "Decided in time; the peer left its bytes unread.",
    UNEXPLAINED: "Nothing that was noted covers half of the delay.",
}
"""Those that stand in no timeline."""
NAMES = (*CAUSES, SIGN, *OTHER_CAUSES)
STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")
_STAGES = ("queue", "features", "inference", "guardrails")


class Cover:
    """How much of a time some events take, those that overlap counted once."""

    def __init__(self, events: Iterable[Event]) -> None:
        spans: list[list[int]] = []
        for event in sorted(events, key=lambda event: event.start_ns):
            if spans and event.start_ns <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], event.end_ns)
            else:
                spans.append([event.start_ns, event.end_ns])
        self._start_ns: Int64 = np.array([start_ns for start_ns, _ in spans], np.int64)
        lengths_ns = np.array([end_ns - start_ns for start_ns, end_ns in spans], np.int64)
        self._length_ns: Int64 = lengths_ns
        self._before_ns: Int64 = np.cumsum(lengths_ns) - lengths_ns

    def between(self, start_ns: Int64, end_ns: Int64) -> Int64:
        """Covered nanoseconds of each start..end; int64[n]."""
        if not len(self._start_ns):
            return np.zeros(len(start_ns), np.int64)
        covered_ns: Int64 = np.maximum(self._until(end_ns) - self._until(start_ns), 0)
        return covered_ns

    def _until(self, at_ns: Int64) -> Int64:
        place = np.searchsorted(self._start_ns, at_ns, side="right") - 1
        inside_ns = np.minimum(at_ns - self._start_ns[place], self._length_ns[place])
        until_ns: Int64 = np.where(place >= 0, self._before_ns[place] + inside_ns, 0)
        return until_ns


def stamps_of(rows: Answers) -> Int64:
    """int64[5, n]: the stamps of each row, which bound its four stages."""
    return np.array([rows[name] for name in STAMPS], np.int64)


def explain(
    stamps_ns: Int64,
    since_ns: Int64,
    events: Iterable[Event],
    budget: Budget,
    measured: Mapping[str, Measure] = MappingProxyType({}),
) -> list[str]:
    """The cause of each row that is over its budget.

    stamps_ns: int64[5, n]. since_ns: int64[n], when the backlog began that the row stood in, at most its arrival.
    measured: by cause, what is asked instead of its events.
    """
    allowed_ns = np.array([[budget.allowed_ns[stage]] for stage in _STAGES])
    over_ns = np.diff(stamps_ns, axis=0) - allowed_ns
    stage, places = over_ns.argmax(axis=0), np.arange(stamps_ns.shape[1])
    start_ns, end_ns, lacking_ns = stamps_ns[stage, places], stamps_ns[stage + 1, places], over_ns[stage, places]
    covers = {**_covers(events), **measured}
    names = _named(covers, start_ns, end_ns, lacking_ns)
    again = np.flatnonzero((names < 0) & (stage == 0) & (since_ns < start_ns))
    names[again] = _named(covers, since_ns[again], end_ns[again], lacking_ns[again])
    return [NAMES[name] if name >= 0 else UNEXPLAINED for name in names.tolist()]


def _covers(events: Iterable[Event]) -> dict[str, Cover]:
    by_cause: dict[str, list[Event]] = {}
    for event in events:
        by_cause.setdefault(event.cause, []).append(event)
    return {cause: Cover(of_cause) for cause, of_cause in by_cause.items()}


def _named(covers: Mapping[str, Measure], start_ns: Int64, end_ns: Int64, lacking_ns: Int64) -> Int64:
    """The number in ``NAMES`` of each row's cause, -1 where none covers enough."""
    names, none_ns = np.full(len(start_ns), -1), np.zeros(len(start_ns), np.int64)
    scores_ns = {cause: _score_ns(covers, cause, start_ns, end_ns) for cause in (*CAUSES, SIGN) if cause in covers}
    for cause in BY_THE_CLOCK:
        if cause in scores_ns:
            scores_ns[cause] = np.maximum(scores_ns[cause] - scores_ns.get(LOOPS_WAIT, none_ns), 0)
    together_ns = np.minimum(sum(scores_ns.get(cause, 0) for cause in WAITS), end_ns - start_ns)
    rival_ns, wait_ns = (np.max([scores_ns.get(each, none_ns) for each in group], axis=0) for group in (RIVALS, WAITS))
    for lost, group in ((rival_ns < wait_ns, RIVALS), (wait_ns < rival_ns, WAITS)):
        scores_ns |= {cause: np.where(lost, 0, scores_ns[cause]) for cause in group if cause in scores_ns}
    asked: tuple[tuple[Sequence[str], Int64], ...] = (CAUSES, none_ns), (WAITS, together_ns), ((SIGN,), none_ns)
    for causes, most_ns in asked:
        present = [cause for cause in causes if cause in scores_ns]
        if present:
            asked_ns = np.array([scores_ns[cause] for cause in present])
            best_ns = asked_ns.max(axis=0)
            first = (asked_ns >= ABOUT * best_ns).argmax(axis=0)
            enough = (names < 0) & (2 * np.maximum(best_ns, most_ns) >= lacking_ns) & (lacking_ns > 0)
            names[enough] = np.array([NAMES.index(cause) for cause in present])[first[enough]]
    return names


def _score_ns(covers: Mapping[str, Measure], cause: str, start_ns: Int64, end_ns: Int64) -> Int64:
    covered_ns = covers[cause].between(start_ns, end_ns)
    if cause not in ONLY_WITH:
        return covered_ns
    other = covers.get(ONLY_WITH[cause])
    return np.minimum(covered_ns, other.between(start_ns, end_ns)) if other else np.zeros_like(covered_ns)


def backlogs(spans_ns: Sequence[tuple[int, int]], since_ns: int, until_ns: int) -> list[tuple[int, int]]:
    """For each span (arrival, take-up), by arrival: the beginning and the end so far of the backlog that it is part of.

    since_ns, until_ns: of the backlog before them. Spans that overlap share one.
    """
    found = []
    for arrival_ns, taken_up_ns in spans_ns:
        if arrival_ns > until_ns:
            since_ns = arrival_ns
        until_ns = max(until_ns, taken_up_ns)
        found.append((since_ns, until_ns))
    return found
