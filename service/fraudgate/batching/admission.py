"""Admission: which transactions the queue takes. It does no IO and reads no clock; both front ends follow it.

A row that arrives now is answered, as far as can be told, after

    wait_ns = max(time to its gate, what is left of the unfinished batches) + one batch

where one batch is a moving average plus twice its mean deviation, so that an engine that jitters refuses earlier, plus
twice the lag of the door's own thread, whose time under a flood goes into refusing; and the first unfinished batch,
once overdue, is taken to last as long again as it is late. A row is refused when that

  * is past its deadline: ``deadline`` where no queue is to blame, ``overload`` where the batches ahead are
  * is over the part of the budget that its caller's priority may use: ``budget``, or ``priority`` where a caller of
    normal priority would have been taken
  * and, with the queue over half of what can be answered in time, when its caller has its share of that waiting
    already: ``fairness``. Shares are by weight among the callers heard of lately; those of the others are lent.

Priority and fairness act here only: what was admitted is batched in order of arrival.
"""

from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from fraudgate.batching.batcher import Ahead, Batcher
from fraudgate.limits import BUDGET_NS

ANONYMOUS = 0
"""The number of whoever shows no token."""
ACTIVE_NS = BUDGET_NS
"""A caller unheard of for twice as long lends its share to the others."""
DEVIATIONS = 2


class Priority(IntEnum):
    """How much of the budget a caller's rows may spend waiting."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Bounds(NamedTuple):
    """What admission decides by. Callers are numbered; 0 is whoever shows no token."""

    budget_ns: int
    """0 = none; then no priority and no prediction refuses, deadlines apart."""
    allowances_ns: tuple[int, int, int]
    """By ``Priority``: the part of the budget that its rows may use."""
    priorities: tuple[int, ...] = (Priority.NORMAL,)
    """By caller."""
    weights: tuple[int, ...] = (1,)
    """By caller, at least 1."""
    active_ns: int = ACTIVE_NS


class Verdict(NamedTuple):
    """Why a row is refused."""

    reason: str
    """As ``fraudgate_refusals_total{reason}`` has it."""
    retry_ns: int
    """After how long there is room again, as far as can be told; 0 where a retry is not advised."""


class Admission:
    """The rules above, over one batcher."""

    def __init__(self, bounds: Bounds, batcher: Batcher[Any]) -> None:
        self.bounds = bounds
        self._batcher = batcher
        self.batch_ns = 0
        """How long one batch takes: from the instant it could begin to its answers. A moving average."""
        self.deviation_ns = 0
        """Its mean deviation."""
        self.lag_ns = 0
        """How late the door's own thread comes: to a call that has arrived and to its answer. A moving average."""
        self.waiting = [0] * len(bounds.weights)
        """Rows in the batcher, by caller."""
        self._running: deque[int] = deque()  # boundaries of the batches in flight
        self._finished_ns = 0
        self._shares = _Shares(bounds.weights, bounds.active_ns)

    def __repr__(self) -> str:
        return f"<Admission [{self._batcher.rows} rows, {len(self._running)} running, {self.batch_ns / 1e6:.2f} ms]>"

    def set_batch_ns(self, batch_ns: int) -> None:
        """What a batch takes, as the warm-up found it."""
        self.batch_ns, self.deviation_ns = batch_ns, 0

    def wait_ns(self, now_ns: int) -> int:
        """How long a row that arrives now is expected to wait for its answer."""
        return self._wait_ns(self._batcher.ahead(now_ns), now_ns)[1]

    def refuse(self, now_ns: int, deadline_ns: int, caller: int) -> Verdict | None:
        """Why a row of this caller cannot be admitted now, or None. ``deadline_ns``: 0 = none."""
        active_weight = self._shares.heard(caller, now_ns)
        ahead = self._batcher.ahead(now_ns)
        alone_ns, wait_ns = self._wait_ns(ahead, now_ns)
        verdict = self._late(now_ns, deadline_ns, alone_ns, wait_ns) or self._spent(caller, alone_ns, wait_ns)
        if verdict is None:
            return None if active_weight == self.bounds.weights[caller] else self._unfair(caller, active_weight)
        if not self._batcher.rows and not self._running:
            # No batch runs that could correct it: a stall long over would shut the door for good.
            self.batch_ns //= 2
            self.deviation_ns //= 2
            self.lag_ns //= 2
        return verdict

    def admitted(self, caller: int) -> None:
        """A row of this caller was added to the batcher."""
        self.waiting[caller] += 1

    def taken(self, closed_ns: int, callers: Iterable[int]) -> None:
        """A batch left the batcher, with rows of these callers; it now runs."""
        self._running.append(closed_ns)
        for caller in callers:
            self.waiting[caller] -= 1

    def finished(self, now_ns: int) -> None:
        """The first batch that was taken is answered.

        Its time counts from where it could begin: at its boundary, or when the batch before it was done.
        """
        took_ns = max(now_ns - max(self._running.popleft(), self._finished_ns), 0)
        self._finished_ns = now_ns
        error_ns = took_ns - self.batch_ns
        self.batch_ns += error_ns // 8
        self.deviation_ns += (abs(error_ns) - self.deviation_ns) // 4

    def lagged(self, lag_ns: int) -> None:
        """The door came so late to a batch that was answered."""
        self.lag_ns += (lag_ns - self.lag_ns) // 4

    def _wait_ns(self, ahead: Ahead, now_ns: int) -> tuple[int, int]:
        """Until a row that arrives now is answered: if it were alone, and as it is."""
        batch_ns = self.batch_ns + DEVIATIONS * self.deviation_ns + 2 * self.lag_ns
        unfinished = len(self._running) + ahead.batches
        if not unfinished:
            return ahead.gate_ns + batch_ns, ahead.gate_ns + batch_ns
        first_ns = self._running[0] if self._running else ahead.closed_ns
        elapsed_ns = max(now_ns - max(first_ns, self._finished_ns), 0)
        busy_ns = abs(self.batch_ns - elapsed_ns) + (unfinished - 1) * self.batch_ns
        return ahead.gate_ns + batch_ns, max(ahead.gate_ns, busy_ns) + batch_ns

    @staticmethod
    def _late(now_ns: int, deadline_ns: int, alone_ns: int, wait_ns: int) -> Verdict | None:
        if not deadline_ns or now_ns + wait_ns <= deadline_ns:
            return None
        if now_ns + alone_ns > deadline_ns:
            return Verdict("deadline", 0)
        return Verdict("overload", now_ns + wait_ns - deadline_ns)

    def _spent(self, caller: int, alone_ns: int, wait_ns: int) -> Verdict | None:
        budget_ns, allowances_ns = self.bounds.budget_ns, self.bounds.allowances_ns
        if not budget_ns:
            return None
        if alone_ns > budget_ns:
            return Verdict("budget", alone_ns - budget_ns)
        allowance_ns = allowances_ns[self.bounds.priorities[caller]]
        if wait_ns <= max(allowance_ns, alone_ns):
            return None
        reason = "priority" if wait_ns <= allowances_ns[Priority.NORMAL] else "budget"
        return Verdict(reason, wait_ns - allowance_ns)

    def _unfair(self, caller: int, active_weight: int) -> Verdict | None:
        """Others are active, too."""
        rows, weight = self._batcher.rows, self.bounds.weights[caller]
        bound = self._rows_in_time(caller)
        if rows * 2 <= bound or self.waiting[caller] * active_weight < weight * bound:
            return None
        rows_over = min(rows - bound // 2, self.waiting[caller] - weight * bound // active_weight)
        return Verdict("fairness", (rows_over // self._batcher.batch_rows_max + 1) * self.batch_ns)

    def _rows_in_time(self, caller: int) -> int:
        """Rows that can wait and all be answered within the caller's part of the budget."""
        batcher, bounds = self._batcher, self.bounds
        if not bounds.budget_ns:
            return batcher.queue_rows_max
        batches = bounds.allowances_ns[bounds.priorities[caller]] // max(self.batch_ns, 1)
        return min(max(batches - 1, 1) * batcher.batch_rows_max, batcher.queue_rows_max)


class _Shares:
    """The weight of all callers heard of in this period or the one before, kept up in O(1) an arrival."""

    def __init__(self, weights: tuple[int, ...], active_ns: int) -> None:
        self._weights = weights
        self._active_ns = active_ns
        self._heard = [-2] * len(weights)  # the last period in which each was
        self._period = 0
        self._now_weight = self._before_weight = 0

    def heard(self, caller: int, now_ns: int) -> int:
        """A row of this caller arrived. The weight of all that are active, this one among them."""
        period = now_ns // self._active_ns
        if period <= self._period:
            period = self._period
        else:
            self._before_weight = self._now_weight if period == self._period + 1 else 0
            self._now_weight, self._period = 0, period
        heard, weight = self._heard[caller], self._weights[caller]
        if heard < period:
            if heard == period - 1:
                self._before_weight -= weight
            self._now_weight += weight
            self._heard[caller] = period
        return self._now_weight + self._before_weight
