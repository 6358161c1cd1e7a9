"""Exemplars: the slowest decisions of an interval, kept whole, and what happened while they were made.

One thread, the scoring loop, records; any thread may read. Batches wait until they are looked at 32 at a time, as in
``latency.recorder``, and a row costs one comparison with the slowest kept so far. Nothing here names a person: a
decision has its own id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fraudgate.editions import Editions, decision_id
from fraudgate.latency.budget import Budget
from fraudgate.latency.causes import explain
from fraudgate.latency.progress import Progress
from fraudgate.latency.recorder import Waiting
from fraudgate.latency.spans import Spans, spans_of
from fraudgate.latency.timeline import Event, Events, Timeline
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import ANSWER_DTYPE, Answers, Fallback, Int64, joined

KEPT = 100
ROLLING_NS = 10 * SECOND_NS
_STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")
_STAGES = ("queue", "features", "inference", "guardrails", "total")


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One slow decision. Stamps and stages are nanoseconds; ``batch`` is the number of its batch since the start."""

    decision_id: str
    engine: str
    fallback: str
    batch: int
    batch_rows: int
    arrival_ns: int
    stages_ns: dict[str, int]
    events: tuple[Event, ...]
    cause: str = ""
    """Why it took longer than the budget, see ``latency.causes``; empty where it did not."""


_Numbered = tuple[int, Answers]
"""A batch and its number since the start."""


@dataclass(slots=True)
class _Rows:
    """Rows with the numbers of their batches; ANSWER_DTYPE[n] and int64[n]."""

    rows: Answers
    batches: Int64

    @classmethod
    def none(cls) -> "_Rows":
        return cls(np.zeros(0, ANSWER_DTYPE), np.zeros(0, np.int64))

    @classmethod
    def of(cls, batches: Sequence[_Numbered]) -> "_Rows":
        numbers = [number for number, _ in batches]
        return cls(joined(batch for _, batch in batches), np.repeat(numbers, [len(batch) for _, batch in batches]))

    def at(self, places: Int64) -> "_Rows":
        return _Rows(self.rows[places], self.batches[places])

    def plus(self, other: "_Rows") -> "_Rows":
        return _Rows(np.concatenate((self.rows, other.rows)), np.concatenate((self.batches, other.batches)))

    @property
    def total_ns(self) -> Int64:
        difference: Int64 = self.rows["answered_ns"] - self.rows["arrival_ns"]
        return difference


class Slowest:
    """The ``kept`` slowest of the rows that were added; of equals, those that came first."""

    def __init__(self, kept: int = KEPT, batches_from: int = 0) -> None:
        """``batches_from``: rows of batches before this one belong to an earlier interval."""
        self._kept, self._batches_from = kept, batches_from
        self.floor_ns = int(np.iinfo(np.int64).min)
        """Of a full house: the fastest that is in it. Rows that took no longer need not be added."""
        self._rows = _Rows.none()

    def add(self, rows: _Rows) -> None:
        wanted = (rows.total_ns > self.floor_ns) & (rows.batches >= self._batches_from)
        both = self._rows.plus(rows.at(np.flatnonzero(wanted)))
        total_ns = both.total_ns
        order = np.argsort(-total_ns, kind="stable")[: self._kept]
        self._rows = both.at(order)
        if len(order) == self._kept:
            self.floor_ns = int(total_ns[order[-1]])

    def with_added(self, rows: _Rows) -> _Rows:
        """What it would hold with these, slowest first; changes nothing."""
        copy = Slowest(self._kept, self._batches_from)
        copy.floor_ns, copy._rows = self.floor_ns, self._rows
        copy.add(rows)
        return copy._rows


class Exemplars:
    """The slowest decisions since the last ``cut``, and those of the last 10 to 20 s."""

    def __init__(
        self,
        timeline: Timeline,
        editions: Editions,
        kept: int = KEPT,
        budget: Budget | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._budget, self._progress = budget or Budget.default(), progress or Progress()
        self._timeline, self._editions, self._kept = timeline, editions, kept
        self._batches = 0
        self._interval, self._rolling, self._rolled = Slowest(kept), Slowest(kept), Slowest(kept)
        self._rolling_until_ns = 0
        self._floor_ns = self._interval.floor_ns
        self._waiting: Waiting[_Numbered] = Waiting(self._add_up)

    def record_batch(self, decided: Answers, spans: Spans | None = None) -> None:
        """Look at rows decided now: ANSWER_DTYPE[n], n >= 1, which nobody may change from here on."""
        spans = spans or spans_of(decided)
        if spans[0] > self._floor_ns or spans[4] >= self._rolling_until_ns:
            self._waiting.put((self._batches, decided))
        self._batches += 1

    def _add_up(self, batches: list[_Numbered]) -> None:
        rows = joined(batch for _, batch in batches)
        answered_ns = rows["answered_ns"]
        if answered_ns[-1] >= self._rolling_until_ns:
            self._rolled, self._rolling = self._rolling, Slowest(self._kept)
            self._rolling_until_ns = int(answered_ns[-1]) + ROLLING_NS
        if (answered_ns - rows["arrival_ns"]).max() > min(self._interval.floor_ns, self._rolling.floor_ns):
            numbered = _Rows.of(batches)
            self._interval.add(numbered)
            self._rolling.add(numbered)
        self._floor_ns = min(self._interval.floor_ns, self._rolling.floor_ns)

    def cut(self) -> list[Exemplar]:
        """The slowest since the last cut, slowest first; the next interval begins here. One thread at a time."""
        with self._waiting.still:
            waiting = self._waiting_rows()
            slowest = self._interval.with_added(waiting)
            told = int(waiting.batches[-1]) + 1 if len(waiting.rows) else 0  # a batch may have come since: it is next's
            self._interval = Slowest(self._kept, batches_from=told)
            self._floor_ns = self._interval.floor_ns
        return self._told(slowest)

    def recent(self, now_ns: int) -> list[Exemplar]:
        """The slowest that were decided in the last 10 to 20 s, slowest first."""
        with self._waiting.still:
            waiting = self._waiting_rows()
            both = self._rolled.with_added(_Rows.none()).plus(self._rolling.with_added(waiting))
        recent = both.rows["answered_ns"] >= now_ns - 2 * ROLLING_NS
        return self._told(Slowest(self._kept).with_added(both.at(np.flatnonzero(recent))))

    def _waiting_rows(self) -> _Rows:
        waiting = self._waiting.seen()
        return _Rows.of(waiting) if waiting else _Rows.none()

    def _told(self, slowest: _Rows) -> list[Exemplar]:
        if not len(slowest.rows):
            return []
        events = self._timeline.since(int(slowest.rows["arrival_ns"].min()))
        stamps = np.array([slowest.rows[name] for name in _STAMPS])
        stages = np.concatenate((np.diff(stamps, axis=0), slowest.total_ns[None])).T.tolist()
        causes = self._causes(stamps, events)
        told = []
        for row, batch, stages_ns, cause in zip(slowest.rows, slowest.batches.tolist(), stages, causes, strict=True):
            edition = self._editions[int(row["edition"])]
            arrival_ns = int(row["arrival_ns"])
            told.append(
                Exemplar(
                    decision_id=decision_id(edition.run_id, int(row["sequence"])),
                    engine=f"{edition.model_name}/{edition.model_version}",
                    fallback=Fallback(int(row["fallback"])).name.lower(),
                    batch=batch,
                    batch_rows=int(row["batch_rows"]),
                    arrival_ns=arrival_ns,
                    stages_ns=dict(zip(_STAGES, stages_ns, strict=True)),
                    events=tuple(events.overlapping(arrival_ns, int(row["answered_ns"]))),
                    cause=cause,
                )
            )
        return told

    def _causes(self, stamps_ns: Int64, events: Events) -> list[str]:
        """Of each row; empty for those within the budget."""
        late = stamps_ns[-1] - stamps_ns[0] > self._budget.total_ns
        causes = explain(stamps_ns, stamps_ns[0], events.events, self._budget, self._progress.measures())
        return [cause if over else "" for cause, over in zip(causes, late.tolist(), strict=True)]
