"""Recording on the scoring loop: no clock, and never a wait.

One thread, the scoring loop, records. Any thread may read: a reader copies the counts and derives everything from its
copy, so what it sees is coherent within a stage. Decided batches wait until they are added up 32 at a time; a reader
adds those that wait to its own copy, and while it copies, they wait longer. Nothing is ever set back to zero: ``reset``
keeps a copy and later reports are differences from it, so no value is lost or counted twice, and ``/metrics`` stays
monotonic.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from fraudgate import wheel
from fraudgate.latency.histogram import (
    CELLS,
    SHARES,
    Distribution,
    Filled,
    LatencyReport,
    Packed,
    index_of,
    indices_of,
    summarise,
)
from fraudgate.latency.spans import Spans, spans_of
from fraudgate.limits import BATCH_ROWS_MAX, BUDGET_NS
from fraudgate.transaction import Answers, Decision, Fallback, Int64, UInt8, joined

STAGES = (
    *("queue", "features", "inference", "guardrails", "total", "respond", "whole"),
    *("refuse", "loop_stall", "gc_pause"),
)
"""``total`` ends with the decision, ``whole`` with its bytes: ``latency.ledger`` checks the stages with it."""

TOTALS = {
    "fraudgate_idempotency_evicted_early_total": "Answers forgotten before their lifetime because the table was full.",
    "fraudgate_rule_errors_total": "Rows on which a rule failed; each was lifted to at least REVIEW.",
    "fraudgate_ignored_attributes_total": "Attributes that no schema names: validated, counted and ignored.",
    "fraudgate_idempotent_replays_total": "Retries that got the stored answer of an earlier attempt.",
    "fraudgate_engine_failures_total": "Batches whose engine failed; rules alone decided them.",
    "fraudgate_store_failures_total": "Batches that the feature store refused.",
    "fraudgate_unapplied_total": "Transactions decided without the feature store: no window counts them.",
    "fraudgate_recording_failures_total": "Batches that were decided but could not be recorded.",
    "fraudgate_outcomes_total": "Outcomes taken, repeats included.",
    "fraudgate_native_panics_total": "Panics in native code; each failed one call.",
    "fraudgate_connections_total": "Connections that the native front end accepted.",
    "fraudgate_connections_refused_total": "Connections closed at once because ingress.connections_max were open.",
    "fraudgate_connections_broken_total": "Connections closed because the peer broke HTTP/2, TLS or a limit.",
    "fraudgate_connections_stalled_total": "Connections closed because the peer did not read, ping or shake hands.",
    "fraudgate_answers_unread_total": "Answers given up because the peer left them unread for too long.",
    "fraudgate_late_unread_total": "Decisions over the budget only because the peer left their bytes unread.",
    "fraudgate_traces_dropped_total": "Transactions without their trace because the collector lags behind.",
    "fraudgate_ledger_mismatch_total": "Decisions whose stages and whole differ by more than 50 us.",
    "fraudgate_connections_paused_total": "Times a connection was not read for a while: too much was refused on it.",
    "fraudgate_expired_reached_engine_total": "Rows decided although their deadline had passed at take-up: never.",
    "fraudgate_batch_log_dropped_total": "Batches that the batch log dropped because its writer lagged behind.",
}
"""Every named total and its help text; all of them are exported from the start, at 0."""

LEVELS = {
    "fraudgate_queue_rows": "Transactions that wait for a batch or in one.",
    "fraudgate_predicted_wait_seconds": "How long a transaction that arrived now would wait for its answer.",
}
"""Every named level and its help text. The second is the native front end's alone."""

LATE_UNREAD = "fraudgate_late_unread_total"

_STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")
"""Each of the first four stages lies between two of them, in order; ``total`` between the first and the last."""

_STAGES_OF_ROWS = len(_STAMPS)  # those four and ``total``

_WAITING_MAX = 32
_T = TypeVar("_T")


class Waiting(Generic[_T]):
    """What is recorded but not added up: NumPy adds many batches up for little more than one.

    One thread puts; any may read. The one that puts never waits: nothing is added up while a reader holds ``still``.
    """

    def __init__(self, add_up: Callable[[list[_T]], None], waiting_max: int = _WAITING_MAX) -> None:
        self.still = Lock()
        self._add_up, self._waiting_max = add_up, waiting_max
        self._things: list[_T] = []

    def put(self, thing: _T) -> None:
        """Record it: its values must not change any more."""
        self._things.append(thing)
        if len(self._things) >= self._waiting_max and self.still.acquire(blocking=False):
            try:
                self.settle()
            finally:
                self.still.release()

    def settle(self) -> None:
        """Add up what waits; for the one that puts, while it holds ``still``."""
        assert self.still.locked()
        if self._things:
            things, self._things = self._things, []
            self._add_up(things)

    def seen(self) -> list[_T]:
        """What waits now; for a reader that holds ``still`` and has copied, or will copy, what is added up."""
        assert self.still.locked()
        return self._things.copy()


class Recorder:
    """HDR histograms of every stage, in nanoseconds. One thread writes; see the module for readers."""

    def __init__(self, now_ns: int = 0, budget_ns: int = BUDGET_NS, native: bool = True) -> None:
        """``now_ns``: when recording starts, on the clock that ``report`` and ``reset`` are later given.

        native: let the native kernel count, batch by batch, where it is installed; the counts are the same.
        """
        self.budget_ns = budget_ns
        self.watchers: list[Callable[[Answers, Spans], None]] = []
        """Told of every decided batch, on the scoring loop."""
        self.spent_watchers: list[Callable[[tuple[int, int]], None]] = []
        """Told of every row that was refused at take-up: its arrival, and that."""
        self._cells = {stage: np.zeros(CELLS, np.int64) for stage in (*STAGES, *SHARES)}
        self._views = {stage: cells.data for stage, cells in self._cells.items()}  # faster than NumPy for one
        self._base: tuple[int, Mapping[str, Filled]] = (now_ns, {})
        self._resetting = Lock()  # between readers only; recording never takes it
        kernel = wheel.kernel("StageKernel") if native else None
        self._kernel = kernel and kernel([self._cells[stage] for stage in STAGES[:_STAGES_OF_ROWS]])
        self._waiting: Waiting[Answers] = Waiting(self._add_up)

    def __repr__(self) -> str:
        total = self.since_start()["total"]
        return f"<Recorder [{total.count:,} decisions, p99 {total.percentile(99) / 1e6:.3f} ms]>"

    def record_batch(self, decided: Answers) -> None:
        """Record the five stages of rows decided now: ANSWER_DTYPE[n], which nobody may change from here on."""
        still = self._waiting.still
        if self._kernel is not None and still.acquire(blocking=False):
            try:
                self._waiting.settle()  # of batches that were decided while a reader copied
                spans: Spans = self._kernel.add(decided.tobytes())
            finally:
                still.release()
        else:
            self._waiting.put(decided)
            spans = spans_of(decided)
        for watch in self.watchers:
            watch(decided, spans)

    def record_spent(self, arrival_ns: int, taken_up_ns: int) -> None:
        """Tell of a row whose budget was spent before it was taken up."""
        for watch in self.spent_watchers:
            watch((arrival_ns, taken_up_ns))

    def _add_up(self, batches: Sequence[Answers]) -> None:
        for stage, indices in _stage_indices(batches).items():
            np.add.at(self._cells[stage], indices, 1)

    def record(self, stage: str, values_ns: Int64) -> None:
        """Record int64[n]. Below 0 counts as 0, above the range as its top; both are counted apart."""
        np.add.at(self._cells[stage], indices_of(values_ns), 1)

    def record_repeated(self, stage: str, value_ns: int, count: int) -> None:
        """Record one value ``count`` times: a batch's rows share most of their stamps."""
        self._views[stage][index_of(value_ns)] += count

    def record_one(self, stage: str, value_ns: int) -> None:
        self._views[stage][index_of(value_ns)] += 1

    def cells(self, stage: str) -> Int64:
        """The recording array of a stage, int64[CELLS], for native code that counts into it by itself."""
        return self._cells[stage]

    def since_start(self) -> dict[str, Distribution]:
        """A copy of every stage, over all time."""
        return _distributions(self._copy(), {})

    def since_reset(self) -> dict[str, Distribution]:
        """A copy of every stage, since the last reset."""
        _, base = self._base  # before the copy, which must not be the older one
        return _distributions(self._copy(), base)

    def report(self, now_ns: int) -> LatencyReport:
        """Percentiles of every stage since the last reset."""
        start_ns, base = self._base
        return summarise(_distributions(self._copy(), base), self.budget_ns, now_ns - start_ns)

    def reset(self, now_ns: int) -> LatencyReport:
        """Start a new interval at ``now_ns``; returns the report of the one that ends."""
        with self._resetting:
            start_ns, base = self._base
            copy = self._copy()
            self._base = (now_ns, copy)
        return summarise(_distributions(copy, base), self.budget_ns, now_ns - start_ns)

    def advance(self, seen: Mapping[str, Int64], scratch: Int64) -> dict[str, Packed]:
        """What every stage recorded that is not yet in ``seen``, int64[CELLS] each; then it is. scratch: one such."""
        with self._waiting.still:
            waiting = self._waiting.seen()
            indices = _stage_indices(waiting) if waiting else {}
            return {
                stage: _advanced(cells, seen[stage], scratch, indices.get(stage))
                for stage, cells in self._cells.items()
            }

    def _copy(self) -> dict[str, Filled]:
        with self._waiting.still:
            copy = {stage: Filled.copy(cells) for stage, cells in self._cells.items()}
            waiting = self._waiting.seen()
        if waiting:
            copy |= {stage: copy[stage].plus(indices) for stage, indices in _stage_indices(waiting).items()}
        return copy


def _advanced(cells: Int64, seen: Int64, scratch: Int64, waiting: Int64 | None) -> Packed:
    np.subtract(cells, seen, out=scratch)
    if waiting is not None:
        np.add.at(scratch, waiting, 1)
    grown = Filled.copy(scratch)
    seen[grown.indices] += grown.counts
    return Packed.of(Distribution.of(grown))


class Increments:
    """What every stage recorded between one ``take`` and the next, for a reader that comes often.

    It makes no copies of everything since the start, which grow for minutes, and leave holes between what is kept.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._scratch = recorder, np.zeros(CELLS, np.int64)
        self._seen = {stage: np.zeros(CELLS, np.int64) for stage in (*STAGES, *SHARES)}

    def take(self) -> dict[str, Packed]:
        """The first: since the start."""
        return self._recorder.advance(self._seen, self._scratch)


def _stage_indices(batches: Sequence[Answers]) -> dict[str, Int64]:
    """The cells of decided rows by stage."""
    rows = joined(batches)
    stamps = np.array([rows[name] for name in _STAMPS])
    indices = indices_of(np.concatenate((np.diff(stamps, axis=0), stamps[-1:] - stamps[:1])))
    return dict(zip(STAGES, indices, strict=False))


def _distributions(copy: Mapping[str, Filled], base: Mapping[str, Filled]) -> dict[str, Distribution]:
    return {stage: Distribution.of(filled.since(base[stage]) if base else filled) for stage, filled in copy.items()}


class CountersCopy(NamedTuple):
    """What the counters held at one instant, since the start."""

    decisions: dict[tuple[Decision, Fallback], int]
    refusals: dict[str, int]
    batch_rows: tuple[int, ...]  # batch_rows[n]: batches of n rows
    totals: dict[str, int]
    over_budget: dict[str, int]
    """By cause, see ``latency.causes``."""


class Counters:
    """Monotonic counts. Each method belongs to one thread at a time, each named total to the thread that counts it."""

    def __init__(self, native: bool = True) -> None:
        """native: let the native kernel count decisions where it is installed; the counts are the same."""
        self.batches = 0
        self._decisions = np.zeros(256, np.int64)  # by decision << 3 | fallback
        self._waiting: Waiting[tuple[UInt8, UInt8]] = Waiting(self._add_up)
        self._count_native = wheel.kernel("count_decisions") if native else None
        self._refusals: dict[str, int] = {}
        self._batch_rows = [0] * (BATCH_ROWS_MAX + 1)
        self._totals = dict.fromkeys(TOTALS, 0)
        self._over_budget: dict[str, int] = {}
        self._sources: list[Callable[[], Mapping[str, int]]] = []
        self.levels: Callable[[], Mapping[str, float]] = dict
        """What goes up and down, by name in ``LEVELS``; any thread may call it."""

    def __repr__(self) -> str:
        copy = self.copy()
        decided, refused = sum(copy.decisions.values()), sum(copy.refusals.values())
        return f"<Counters [{decided:,} decisions, {refused:,} refusals, {self.batches:,} batches]>"

    def count_decisions(self, decision: UInt8, fallback: UInt8) -> None:
        """Count rows by (decision, fallback), both uint8[n]; rows whose decision is 0 have none and are left out."""
        self._waiting.put((decision, fallback))

    def count_decided(self, decided: Answers) -> None:
        """Count a batch of rows decided now: ANSWER_DTYPE[n]."""
        self.batches += 1
        self._batch_rows[len(decided)] += 1
        if self._count_native is None:
            self.count_decisions(decided["decision"], decided["fallback"])
        else:
            self._count_native(self._decisions, decided.tobytes())  # one step of the interpreter: no reader sees half

    def _add_up(self, columns: Sequence[tuple[UInt8, UInt8]]) -> None:
        self._decisions += _decisions(columns)

    def count_refusal(self, reason: str, n: int = 1) -> None:
        """Count transactions that ended with a status; ``reason`` is a constant of ours, never a client's text."""
        self._refusals[reason] = self._refusals.get(reason, 0) + n

    def count_batch(self, rows: int) -> None:
        self.batches += 1
        self._batch_rows[rows] += 1

    def count_over_budget(self, cause: str) -> None:
        """Count a transaction that took longer than the budget, whether it was decided or then refused."""
        self._over_budget[cause] = self._over_budget.get(cause, 0) + 1

    def count(self, name: str, n: int = 1) -> None:
        """Add to a total named in ``TOTALS``; KeyError for another name."""
        self._totals[name] += n

    def add_source(self, source: Callable[[], Mapping[str, int]]) -> None:
        """Count what native code counts, too: refusals by reason, and totals named in ``TOTALS``, since its start."""
        self._sources.append(source)

    def copy(self) -> CountersCopy:
        with self._waiting.still:
            counted = self._decisions.copy()
            waiting = self._waiting.seen()
        if waiting:
            counted += _decisions(waiting)
        decisions = {(d, f): int(counted[d << 3 | f]) for d in Decision for f in Fallback}
        refusals, totals = dict(self._refusals), dict(self._totals)
        for source in self._sources:
            for name, n in source().items():
                if name in totals:
                    totals[name] += n
                elif n:
                    refusals[name] = refusals.get(name, 0) + n
        over_budget = dict(self._over_budget)
        if totals[LATE_UNREAD]:
            over_budget["slow_client"] = totals[LATE_UNREAD]
        return CountersCopy(decisions, refusals, tuple(self._batch_rows), totals, over_budget)


def _decisions(columns: Sequence[tuple[UInt8, UInt8]]) -> Int64:
    """Rows by decision << 3 | fallback, int64[256]."""
    decision, fallback = map(np.concatenate, zip(*columns, strict=True))
    return np.bincount(decision << 3 | fallback, minlength=256)
