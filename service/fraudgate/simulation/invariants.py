"""What must hold whatever happens. The first thing that does not is kept, and ends the run."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.simulation.traffic import Traffic, numbers_of
from fraudgate.testing import FakeClock
from fraudgate.transaction import Answers, Bool, Columns, Fallback, Int64, Status, UInt32

NEVER_APPLIED = -1
# Plain integers: an IntEnum costs NumPy microseconds.
_OK, _INTERNAL = int(Status.OK), int(Status.INTERNAL)
_DEFAULTED, _RULES_ONLY = int(Fallback.DEFAULTED_FEATURES), int(Fallback.RULES_ONLY)


class Broken(Exception):  # noqa: N818 - it says what happened
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str, step: int, now_ns: int) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail, self.step, self.now_ns = invariant, detail, step, now_ns


class Invariants:
    """Watches calls from their arrival to their end, by what the ports of the service see."""

    def __init__(self, traffic: Traffic, clock: FakeClock, budget_ns: int) -> None:
        self._traffic, self._clock, self._budget_ns = traffic, clock, budget_ns
        calls = len(traffic)
        self.step = 0
        """Calls that have come."""
        self.broken: Broken | None = None
        self.times_ended = np.zeros(calls, np.uint8)
        self.status = np.zeros(calls, np.uint8)
        self.ended_ns = np.zeros(calls, np.int64)
        self._applied_ns: Int64 = np.full(calls, NEVER_APPLIED, np.int64)  # by number: the stamp of the applied call
        self._amount_minor: Int64 = np.zeros(calls, np.int64)
        self._defaulted_ns: Int64 = np.full(calls, NEVER_APPLIED, np.int64)  # of calls that no store was asked for
        self.applied = self.defaulted_rows = 0
        self._hash = blake2b(digest_size=16)
        self._bodies: dict[int, bytes] = {}
        self._editions: list[tuple[int, frozenset[int]]] = []
        self._busy: dict[int, bytes] = {}

    def fail(self, invariant: str, detail: str) -> None:
        """An invariant does not hold now; the first one counts."""
        if self.broken is None:
            self.broken = Broken(invariant, detail, self.step, self._clock.now_ns)

    def holds(self, condition: Any, invariant: str, detail: str = "") -> None:
        if not condition:
            self.fail(invariant, detail)

    # -- calls -----------------------------------------------------------------------------------------------------

    def ended(self, ends: Int64, bodies: list[bytes]) -> None:
        """What must hold of calls that ended: int64[3, n], call, status and instant as their callers see it."""
        calls, status, ended_ns = ends
        self._hash.update(ends.tobytes())
        self._hash.update(b"".join(bodies))
        np.add.at(self.times_ended, calls, 1)
        again = self.times_ended[calls] > 1
        if _any(again):
            self.fail("every call ends exactly once", f"calls {calls[again][:3].tolist()} ended again")
        self.status[calls], self.ended_ns[calls] = status, ended_ns
        good = status == _OK
        self._check_decided(calls[good], ended_ns[good])
        for row in np.flatnonzero(self._traffic.retried[calls] & good).tolist():
            number = int(self._traffic.number[calls[row]])
            if self._bodies.setdefault(number, bodies[row]) != bodies[row]:
                self.fail("a retry gets the same bytes", f"call {calls[row]}, transaction {number}")

    def _check_decided(self, calls: Int64, ended_ns: Int64) -> None:
        traffic = self._traffic
        deadline_ns, numbers = traffic.deadline_ns[calls], traffic.number[calls]
        unapplied = np.maximum(self._applied_ns[numbers], self._defaulted_ns[numbers]) == NEVER_APPLIED
        other = self._amount_minor[numbers] != traffic.amount_minor[calls]
        for wrong, invariant in (
            ((deadline_ns > 0) & (ended_ns >= deadline_ns), "nothing ends OK after its deadline"),
            (unapplied, "a decision has an applied event, or declared defaults"),
            (other & ~unapplied, "an id has one payload"),
        ):
            if _any(wrong):
                self.fail(invariant, f"calls {calls[wrong][:3].tolist()}")

    def digest(self) -> str:
        """Of every end so far: call, status, instant and bytes."""
        return self._hash.hexdigest()

    # -- one batch -------------------------------------------------------------------------------------------------

    def applying(self, columns: Columns, rows: Sequence[int], now_ns: int) -> Int64:
        """The store is asked to apply rows; returns their numbers."""
        deadline_ns, arrival_ns = _chosen(columns.deadline_ns, rows), _chosen(columns.arrival_ns, rows)
        if _any((deadline_ns != 0) & (deadline_ns <= now_ns)):
            self.fail("no expired or cancelled row reaches the engine", f"deadlines {deadline_ns.tolist()}")
        if self._budget_ns and _any(arrival_ns <= now_ns - self._budget_ns):
            self.fail("no row over its budget reaches the engine", f"stamps {arrival_ns.tolist()}")
        return numbers_of("".join([columns.transaction_id[row] for row in rows]).encode())

    def has_applied(self, columns: Columns, rows: Sequence[int], numbers: Int64) -> None:
        """The store has applied rows."""
        self.applied += len(rows)
        self._take(columns, rows, numbers, self._applied_ns)

    def defaulted(self, columns: Columns, rows: Sequence[int]) -> None:
        """Rows are decided on declared defaults, because the store failed or was not asked."""
        self.defaulted_rows += len(rows)
        numbers = numbers_of("".join([columns.transaction_id[row] for row in rows]).encode())
        self._take(columns, rows, numbers, self._defaulted_ns)

    def _take(self, columns: Columns, rows: Sequence[int], numbers: Int64, taken_ns: Int64) -> None:
        before_ns = np.maximum(self._applied_ns[numbers], self._defaulted_ns[numbers])
        if _any(before_ns != NEVER_APPLIED) or len(set(numbers.tolist())) != len(numbers):
            self.fail("an event is applied once", f"transactions {numbers.tolist()}")
        amount_minor = _chosen(columns.amount_minor, rows)
        if _any(amount_minor < 0):
            self.fail("no event of a refused row is applied", "an invalid one was")
        taken_ns[numbers], self._amount_minor[numbers] = _chosen(columns.arrival_ns, rows), amount_minor

    def answered(self, ids: bytes, arrival_ns: Int64, answers: Answers) -> None:
        """A batch was answered: what the log is given, its ids one after the other."""
        numbers = numbers_of(ids)
        defaulted = self._defaulted_ns[numbers] == arrival_ns
        mine = defaulted | (self._applied_ns[numbers] == arrival_ns)
        status, fallback, replayed = answers["status"], answers["fallback"], answers["replayed"]
        good = status == _OK
        fresh = good & ~replayed
        if _any(mine != fresh):
            self._check_applied(numbers, mine, good, fresh)
        if _any(defaulted) and _any(defaulted & good & (fallback < _DEFAULTED)):
            self.fail("an answer says its rung", f"transactions {numbers[defaulted].tolist()} had declared defaults")
        unscored = fresh & ~answers["scored"]
        if _any(unscored) and _any(unscored & (fallback < _RULES_ONLY)):
            self.fail("an answer says its rung", f"transactions {numbers[fresh].tolist()} had no score")
        if _any(fresh & (answers["arrival_ns"] != arrival_ns)):
            self.fail("an answer is of its own row", f"transactions {numbers.tolist()}")
        if _INTERNAL in status.tolist():
            self.fail("nothing is lost", f"rows among {numbers.tolist()} ended INTERNAL")
        self._check_editions(answers["taken_up_ns"][fresh], answers["edition"][fresh])

    def _check_applied(self, numbers: Int64, mine: Bool, good: Bool, fresh: Bool) -> None:
        """``mine``: applied, or decided on defaults, as this very call."""
        if _any(mine & ~good):
            self.fail("no event of a refused row is applied", f"transactions {numbers[mine & ~good].tolist()}")
        if _any(fresh & ~mine):
            which = numbers[fresh & ~mine].tolist()
            self.fail("a decision has an applied event, or declared defaults", f"transactions {which}")

    def serving(self, editions: frozenset[int]) -> None:
        """From now on a batch that is taken up is decided by these."""
        self._editions.append((self._clock.now_ns, editions))

    def _check_editions(self, fresh_ns: Int64, editions: UInt32) -> None:
        """Of the rows decided now: when they were taken up, and by what they were decided."""
        if not len(fresh_ns):
            return
        taken_up_ns, used = int(fresh_ns[0]), set(editions.tolist())
        place = len(self._editions) - 1
        while place and self._editions[place][0] > taken_up_ns:
            place -= 1
        live = set(self._editions[place][1])
        while place and self._editions[place][0] == taken_up_ns:  # before or after the change: both in one instant
            place -= 1
            live |= self._editions[place][1]
        if not used <= live:
            self.fail("every decision's engine was live at its take-up", f"{sorted(used)} of {sorted(live)}")

    def engine_begins(self, slot: int, contents: bytes) -> None:
        """An engine starts to read a slab."""
        if slot in self._busy:
            self.fail("a slab has one batch at a time", f"slot {slot}")
        self._busy[slot] = contents

    def engine_ends(self, slot: int, contents: bytes) -> None:
        """It has read it."""
        if self._busy.pop(slot, None) != contents:
            self.fail("a slab has one batch at a time", f"slot {slot} was written to while an engine read it")

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, counters: Counters, recorder: Recorder) -> None:
        """Everything has ended: the sums."""
        calls = len(self._traffic)
        unended = np.flatnonzero(self.times_ended == 0)
        self.holds(
            not len(unended), "every call ends exactly once", f"{len(unended)} never did: {unended[:3].tolist()}"
        )
        ended_internal = int(np.count_nonzero(self.status == _INTERNAL))
        self.holds(not ended_internal, "nothing is lost", f"{ended_internal} ended INTERNAL")
        copy = counters.copy()
        decided, recorded = sum(copy.decisions.values()), recorder.since_start()["total"].count
        replays, refused = copy.totals["fraudgate_idempotent_replays_total"], sum(copy.refusals.values())
        self.holds(
            decided == self.applied + self.defaulted_rows == recorded,
            "recorded histogram count = decisions = applied events + those by defaults",
            f"{recorded}, {decided}, {self.applied} + {self.defaulted_rows}",
        )
        self.holds(
            decided + replays + refused == calls,
            "metrics add up to the calls",
            f"{decided} decided + {replays} replayed + {refused} refused of {calls}",
        )
        self.holds(not self._busy, "a slab has one batch at a time", "an engine never ended")


def _any(wrong: Bool) -> bool:
    """Whether it is so of any: ``wrong.any()`` takes ten times as long for a few rows."""
    return b"\1" in wrong.tobytes()


def _chosen(column: Int64, rows: Sequence[int]) -> Int64:
    """The values of these rows, which ascend: mostly all."""
    return column if len(rows) == len(column) else column[rows]
