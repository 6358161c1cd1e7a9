"""The timeline: what happened to the process and could have made a decision slow, with a beginning and an end.

Anything may note into it, from any thread; nothing is noted per request. Each cause has a ring of its own, so that a
frequent one does not push a rare one out.
"""

from collections import deque
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from fraudgate.latency.budget import Budget
from fraudgate.transaction import ANSWER_DTYPE, Answers, Int64

CAUSES = {
    "gc": "The garbage collector ran on the scoring loop.",
    "loop_stall": "The scoring loop was late for its own tick.",
    "swap": "The engines changed: live, on trial, back.",
    "log_write": "The batch log's writer waited for the disk.",
    "store_slow": "Features took longer than their allowance.",
    "engine_slow": "The engine took longer than its allowance.",
    "guard_slow": "The rules took longer than their allowance.",
}
"""Every cause, and what it means."""

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


_STAMPS = Struct("<4q")
_STAMPS_OFFSET = 0 if ANSWER_DTYPE.fields is None else ANSWER_DTYPE.fields["taken_up_ns"][1]


class SlowRuns:
    """Notes batches whose store, engine or rules took longer than the budget file allows: three comparisons a batch."""

    def __init__(self, timeline: Timeline, budget: Budget) -> None:
        self._timeline = timeline
        allowed_ns = budget.allowed_ns
        self._allowed_ns = allowed_ns["features"], allowed_ns["inference"], allowed_ns["guardrails"]

    def record_batch(self, decided: Answers) -> None:
        """Look at a batch of rows decided now: ANSWER_DTYPE[n], n >= 1, which share these stamps."""
        row: Any = decided  # a buffer, which its type does not say before Python 3.12
        taken_up_ns, gathered_ns, inferred_ns, answered_ns = _STAMPS.unpack_from(row, _STAMPS_OFFSET)
        features_ns, inference_ns, guardrails_ns = self._allowed_ns
        if gathered_ns - taken_up_ns > features_ns:
            self._timeline.note("store_slow", taken_up_ns, gathered_ns)
        if inferred_ns - gathered_ns > inference_ns:
            self._timeline.note("engine_slow", gathered_ns, inferred_ns)
        if answered_ns - inferred_ns > guardrails_ns:
            self._timeline.note("guard_slow", inferred_ns, answered_ns)
