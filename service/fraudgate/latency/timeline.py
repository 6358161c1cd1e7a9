"""The timeline: what happened to the process and could have made a decision slow, with a beginning and an end.

Anything may note into it, from any thread; nothing is noted per request. Each cause has a ring of its own, so that a
frequent one does not push a rare one out.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from fraudgate.latency.budget import Budget
from fraudgate.latency.spans import Spans, spans_of
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import Answers, Int64

CAUSES = {
    "gc": "The garbage collector ran on the scoring loop.",
    "loop_stall": "The scoring loop was late for its own tick.",
    "swap": "The engines changed: live, on trial, back.",
    "log_write": "The batch log's writer waited for the disk.",
    "store_slow": "Features took longer than their allowance.",
    "engine_slow": "The engine took longer than its allowance.",
    "guard_slow": "The rules took longer than their allowance.",
    "snapshot": "The scoring loop stood still while the state was written.",
    "cpu_wait": "The scoring loop was ready to run, and others had the CPUs.",
    "front_wait": "The front end's thread was ready to run, and others had the CPUs.",
    "cpu_steal": "The whole process stood still: stopped, or its CPUs stolen by the host.",
    "interpreter": "A thread kept the interpreter: native code that did not let it go.",
    "lock": "The scoring loop was blocked: it neither ran nor waited for a CPU.",
    "busy_spin": "The scoring loop ran something other than batches.",
    "burst": "More arrived than could be decided, and twice as much as usual: full batches, one after the other.",
    "overload": "More arrived than could be decided, as much as usual: full batches, one after the other.",
    "engine_opening": "An engine was opened and checked.",
}
"""Every cause, and what it means."""

_LASTING_NS = 60 * SECOND_NS
EVENTS_MAX = 1_024
"""Of each cause."""


class Event(NamedTuple):
    """Something that lasted from ``start_ns`` to ``end_ns``, monotonic; the two are equal for a mere moment."""

    cause: str
    start_ns: int
    end_ns: int
    detail: str = ""


class Timeline:
    """The last events of each cause. Any thread notes, any reads."""

    def __init__(self, events_max: int = EVENTS_MAX) -> None:
        self._events: dict[str, deque[Event]] = {cause: deque(maxlen=events_max) for cause in CAUSES}

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(events)} {cause}" for cause, events in self._events.items() if events)
        return f"<Timeline [{counts or 'nothing'}]>"

    def note(self, cause: str, start_ns: int, end_ns: int, detail: str = "") -> None:
        """Keep an event; KeyError for a cause that ``CAUSES`` does not name. ``detail``: never of a customer."""
        self._events[cause].append(Event(cause, start_ns, end_ns, detail))

    def prolong(self, cause: str, start_ns: int, end_ns: int) -> None:
        """Keep an event, as one with the last of its cause where that lasted until ``start_ns``."""
        events = self._events[cause]
        if events and events[-1].end_ns == start_ns:
            events[-1] = events[-1]._replace(end_ns=end_ns)
        else:
            self.note(cause, start_ns, end_ns)

    def begin(self, cause: str, start_ns: int) -> Event:
        """Keep an event that goes on until ``end``: whoever looks meanwhile sees it."""
        begun = Event(cause, start_ns, start_ns + _LASTING_NS)
        self._events[cause].append(begun)
        return begun

    def end(self, begun: Event) -> None:
        """Forget what ``begin`` kept."""
        events = self._events[begun.cause]
        if events and events[-1] is begun:
            events.pop()
            return
        with suppress(ValueError):  # others have pushed it out
            events.remove(begun)

    @contextmanager
    def lasting(self, cause: str, clock: Callable[[], int]) -> Iterator[None]:
        """Note an event that lasts as long as what is done within, from its beginning on."""
        begun = self.begin(cause, clock())
        try:
            yield
        finally:
            self.end(begun)
            self.note(cause, begun.start_ns, clock())

    def touches(self, cause: str, start_ns: int, end_ns: int) -> bool:
        """Whether the last event of a cause touches ``start_ns..end_ns``."""
        events = self._events[cause]
        return bool(events) and events[-1].start_ns <= end_ns and events[-1].end_ns >= start_ns

    def since(self, start_ns: int) -> "Events":
        """The events that ended at ``start_ns`` or later."""
        copies = [events.copy() for events in self._events.values()]  # a deque's copy is one step of the interpreter
        return Events([event for events in copies for event in events if event.end_ns >= start_ns])


class Events:
    """A copy of some events, by start."""

    def __init__(self, events: list[Event]) -> None:
        self.events = sorted(events, key=lambda event: event.start_ns)
        self._start_ns: Int64 = np.array([event.start_ns for event in self.events], np.int64)
        self._end_ns: Int64 = np.array([event.end_ns for event in self.events], np.int64)

    def overlapping(self, start_ns: int, end_ns: int) -> list[Event]:
        """Those that touch ``start_ns..end_ns``, by start."""
        touching = (self._start_ns <= end_ns) & (self._end_ns >= start_ns)
        return [self.events[place] for place in np.flatnonzero(touching).tolist()]


class SlowRuns:
    """Notes batches whose store, engine or rules took longer than the budget file allows: three comparisons a batch."""

    def __init__(self, timeline: Timeline, budget: Budget) -> None:
        self._timeline = timeline
        allowed_ns = budget.allowed_ns
        self.worked_ns = self.rows = self.batches = 0
        """What the batches within their allowance took from take-up to decision, and how many there were."""
        self._until_ns = self._inferred_ns = 0
        self._allowed_ns = allowed_ns["features"], allowed_ns["inference"], allowed_ns["guardrails"]

    def record_batch(self, decided: Answers, spans: Spans | None = None) -> None:
        """Look at a batch of rows decided now: ANSWER_DTYPE[n], n >= 1. ``spans``: where they are known already."""
        _, taken_up_ns, gathered_ns, inferred_ns, answered_ns = spans or spans_of(decided)
        worked_ns, self._until_ns = answered_ns - max(taken_up_ns, self._until_ns), answered_ns
        begun_ns, self._inferred_ns = max(gathered_ns, self._inferred_ns), inferred_ns  # not behind another batch
        self.rows += len(decided)
        self.batches += 1
        features_ns, inference_ns, guardrails_ns = self._allowed_ns
        if gathered_ns - taken_up_ns > features_ns:
            self._timeline.note("store_slow", taken_up_ns, gathered_ns)
        elif inferred_ns - begun_ns <= inference_ns and answered_ns - inferred_ns <= guardrails_ns:
            self.worked_ns += worked_ns
        if inferred_ns - begun_ns > inference_ns:
            self._timeline.note("engine_slow", begun_ns, inferred_ns)
        if answered_ns - inferred_ns > guardrails_ns:
            self._timeline.note("guard_slow", inferred_ns, answered_ns)
