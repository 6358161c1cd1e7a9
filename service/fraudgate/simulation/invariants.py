"""What must hold whatever happens. The first thing that does not is kept, and ends the run."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.simulation.traffic import Traffic, numbers_of
from fraudgate.testing import FakeClock
from fraudgate.transaction import Answers, Columns, Int64, Status

NEVER_APPLIED = -1


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
        self.ends: list[tuple[int, int, int, bytes]] = []
        """Calls that ended and are not checked yet, as their callers see it: call, status, instant, bytes."""
        self.times_ended = np.zeros(calls, np.uint8)
        self.status = np.zeros(calls, np.uint8)
        self.ended_ns = np.zeros(calls, np.int64)
        self._applied_ns: Int64 = np.full(calls, NEVER_APPLIED, np.int64)  # by number: the stamp of the applied call
        self._applied_amount: Int64 = np.zeros(calls, np.int64)
        self.applied = 0
        self._hash = blake2b(digest_size=16)
        self._bodies: dict[int, bytes] = {}
        self._failed: set[tuple[int, int]] = set()  # batches that the store was made to refuse: first stamp, number
        self._internal_rows = 0
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

    def check_ends(self) -> None:
        """What must hold of the calls that ended since the last check, some hundred at a time."""
        if not self.ends:
            return
        calls, status, ended_ns, bodies = zip(*self.ends, strict=True)
        self.ends.clear()
        numbered = np.array((calls, status, ended_ns), np.int64)
        self._hash.update(numbered.tobytes())
        self._hash.update(b"".join(bodies))
        np.add.at(self.times_ended, numbered[0], 1)
        again = self.times_ended[numbered[0]] > 1
        if again.any():
            self.fail("every call ends exactly once", f"calls {numbered[0][again][:3].tolist()} ended again")
        self.status[numbered[0]], self.ended_ns[numbered[0]] = numbered[1:]
        good = numbered[:, numbered[1] == Status.OK]
        self._check_decided(good[0], good[2])
        for row in np.flatnonzero(self._traffic.retried[numbered[0]] & (numbered[1] == Status.OK)).tolist():
            number = int(self._traffic.number[calls[row]])
            if self._bodies.setdefault(number, bodies[row]) != bodies[row]:
                self.fail("a retry gets the same bytes", f"call {calls[row]}, transaction {number}")

    def _check_decided(self, calls: Int64, ended_ns: Int64) -> None:
        traffic = self._traffic
        deadline_ns, numbers = traffic.deadline_ns[calls], traffic.number[calls]
        unapplied = self._applied_ns[numbers] == NEVER_APPLIED
        other = self._applied_amount[numbers] != traffic.amount_minor[calls]
        for wrong, invariant in (
            ((deadline_ns > 0) & (ended_ns >= deadline_ns), "nothing ends OK after its deadline"),
            (unapplied, "a decision has an applied event"),
            (other & ~unapplied, "an id has one payload"),
        ):
            if wrong.any():
                self.fail(invariant, f"calls {calls[wrong][:3].tolist()}")

    def digest(self) -> str:
        """Of every end so far: call, status, instant and bytes."""
        return self._hash.hexdigest()

    # -- one batch -------------------------------------------------------------------------------------------------

    def applying(self, columns: Columns, rows: Sequence[int], now_ns: int) -> Int64:
        """The store is asked to apply rows; returns their numbers."""
        deadline_ns, arrival_ns = columns.deadline_ns[rows], columns.arrival_ns[rows]
        if ((deadline_ns != 0) & (deadline_ns <= now_ns)).any():
            self.fail("no expired or cancelled row reaches the engine", f"deadlines {deadline_ns.tolist()}")
        if self._budget_ns and (arrival_ns <= now_ns - self._budget_ns).any():
            self.fail("no row over its budget reaches the engine", f"stamps {arrival_ns.tolist()}")
        return numbers_of("".join([columns.transaction_id[row] for row in rows]).encode())

    def refusing(self, columns: Columns) -> None:
        """The store is made to refuse this batch."""
        self._failed.add((int(columns.arrival_ns[0]), int(numbers_of(columns.transaction_id[0].encode())[0])))

    def has_applied(self, columns: Columns, rows: Sequence[int], numbers: Int64) -> None:
        """The store has applied rows."""
        self.applied += len(rows)
        if (self._applied_ns[numbers] != NEVER_APPLIED).any() or len(set(numbers.tolist())) != len(numbers):
            self.fail("an event is applied once", f"transactions {numbers.tolist()}")
        amount_minor = columns.amount_minor[rows]
        if (amount_minor < 0).any():
            self.fail("no event of a refused row is applied", "an invalid one was")
        self._applied_ns[numbers], self._applied_amount[numbers] = columns.arrival_ns[rows], amount_minor

    def answered(self, ids: bytes, arrival_ns: Int64, answers: Answers) -> None:
        """A batch was answered: what the log is given, its ids one after the other."""
        numbers = numbers_of(ids)
        mine = self._applied_ns[numbers] == arrival_ns
        good = answers["status"] == Status.OK
        fresh = good & ~answers["replayed"]
        if (mine & ~good).any():
            self.fail("no event of a refused row is applied", f"transactions {numbers[mine & ~good].tolist()}")
        if (fresh & ~mine).any():
            self.fail("a decision has an applied event", f"transactions {numbers[fresh & ~mine].tolist()}")
        if (answers["arrival_ns"][fresh] != arrival_ns[fresh]).any():
            self.fail("an answer is of its own row", f"transactions {numbers.tolist()}")
        internal = int(np.count_nonzero(answers["status"] == Status.INTERNAL))
        self._internal_rows += internal
        if internal and (int(arrival_ns[0]), int(numbers[0])) not in self._failed:
            self.fail("nothing is lost", f"{internal} rows of a sound batch ended INTERNAL")
        self._check_editions(answers[fresh])

    def serving(self, editions: frozenset[int]) -> None:
        """From now on a batch that is taken up is decided by these."""
        self._editions.append((self._clock.now_ns, editions))

    def _check_editions(self, fresh: Answers) -> None:
        if not len(fresh):
            return
        taken_up_ns, used = int(fresh["taken_up_ns"][0]), set(fresh["edition"].tolist())
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
        self.check_ends()
        unended = np.flatnonzero(self.times_ended == 0)
        self.holds(
            not len(unended), "every call ends exactly once", f"{len(unended)} never did: {unended[:3].tolist()}"
        )
        ended_internal = int(np.count_nonzero(self.status == Status.INTERNAL))
        self.holds(ended_internal <= self._internal_rows, "nothing is lost", f"{ended_internal} ended INTERNAL")
        copy = counters.copy()
        decided, recorded = sum(copy.decisions.values()), recorder.since_start()["total"].count
        replays, refused = copy.totals["fraudgate_idempotent_replays_total"], sum(copy.refusals.values())
        self.holds(
            decided == self.applied == recorded,
            "recorded histogram count = decisions = applied events",
            f"{recorded}, {decided}, {self.applied}",
        )
        self.holds(
            decided + replays + refused == calls,
            "metrics add up to the calls",
            f"{decided} decided + {replays} replayed + {refused} refused of {calls}",
        )
        self.holds(not self._busy, "a slab has one batch at a time", "an engine never ended")
