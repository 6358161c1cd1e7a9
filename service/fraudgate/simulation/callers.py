"""The callers of a simulated service: they call, wait, leave, and see how each call ends."""

import asyncio
from collections.abc import Callable
from typing import cast

import numpy as np

from fraudgate.frontend import refusals
from fraudgate.frontend.door import Door, Reply
from fraudgate.frontend.refusals import Refusal
from fraudgate.simulation.boundaries import WatchedBatcher
from fraudgate.simulation.faults import Fault
from fraudgate.simulation.invariants import Invariants
from fraudgate.simulation.traffic import Payload, Traffic
from fraudgate.testing import FakeClock
from fraudgate.transaction import Status

Answer = Reply | Refusal
FOREVER_NS = 1 << 62
SETTLED_TOGETHER = 512
_OK, _TIMED_OUT = int(Status.OK), int(Status.DEADLINE_EXCEEDED)
_set_result = asyncio.Future.set_result


class Call(asyncio.Future[Answer]):
    """The future of one call; it tells its caller at the instant at which it is set."""

    number = -1
    """Which call it is; -1 until the door has let it in."""
    callers: "Callers"

    def set_result(self, result: Answer, /) -> None:
        _set_result(self, result)
        if self.number >= 0:
            callers = self.callers
            callers.ends.append((self.number, callers.clock.now_ns, result))


class Callers:
    """Everything outside the service, in the order of its time. See ``loop.Outside``."""

    drops_late = True
    """Answers after the deadline, as transports do."""

    def __init__(
        self,
        traffic: Traffic,
        faults: list[Fault],
        door: Door,
        batcher: WatchedBatcher,
        clock: FakeClock,
        invariants: Invariants,
        happen: Callable[[Fault], None],
        admit_ns: int,
    ) -> None:
        self._traffic, self._batcher, self._payloads = traffic, batcher, traffic.payloads()
        # A payload is read as a message is, and the loop makes the door's futures.
        self._admit = cast(Callable[[Payload, int, int], Call], door.admit)
        self.clock, self._invariants = clock, invariants
        self._faults, self._happen, self._admit_ns = faults[::-1], happen, admit_ns
        self._arrival_ns: list[int] = [*traffic.arrival_ns.tolist(), FOREVER_NS]
        self._deadline_ns: list[int] = traffic.deadline_ns.tolist()
        self._plan_leaving()
        self.ends: list[tuple[int, int, Answer]] = []
        """Not settled yet: call, instant, how."""
        self._next_call = 0
        self._find_others()
        self.late = 0
        """Answers that came when the caller's deadline had passed."""
        self.over = asyncio.Event()
        """Set when the last call has come."""

    def _plan_leaving(self) -> None:
        """Which calls wait no longer than until some instant, in the order of those instants."""
        deadline_ns = np.where(self._traffic.deadline_ns > 0, self._traffic.deadline_ns, FOREVER_NS)
        leaves_ns = np.where(self._traffic.leaves_ns > 0, self._traffic.leaves_ns, FOREVER_NS)
        until_ns = np.minimum(deadline_ns, leaves_ns)
        order = np.argsort(until_ns, kind="stable")[: np.count_nonzero(until_ns < FOREVER_NS)]
        self._leaving: list[int] = order.tolist()
        self._leaving_ns: list[int] = [*until_ns[order].tolist(), FOREVER_NS]
        self._next_leaving = 0
        self._impatient: list[bool] = (until_ns < FOREVER_NS).tolist()
        self._waiting: dict[int, Call] = {}  # of the impatient ones

    def advance(self, until_ns: int | None, gave_work: Callable[[], bool]) -> bool:
        """See ``Outside``."""
        self._settle_whole()
        clock, now_ns, invariants = self.clock, self.clock.now_ns, self._invariants
        arrivals, last_ns = self._arrival_ns, FOREVER_NS if until_ns is None else until_ns
        while True:
            if invariants.broken is not None:
                raise invariants.broken
            arrival_ns, other_ns = arrivals[self._next_call], self._others_ns
            due_ns = arrival_ns if arrival_ns <= other_ns else other_ns
            if due_ns > now_ns:
                if due_ns > last_ns or due_ns == FOREVER_NS or gave_work():
                    return due_ns < FOREVER_NS
                now_ns = due_ns
                if clock.now_ns < now_ns:
                    clock.now_ns = now_ns
            if due_ns == arrival_ns:  # before others of the same instant: a caller comes before it leaves
                self._call(self._next_call)
            else:
                self._happen_to_others(due_ns)

    def _happen_to_others(self, now_ns: int) -> None:
        """A fault begins, or a caller leaves."""
        if self._faults and self._faults[-1].at_ns <= now_ns:
            self._happen(self._faults.pop())
        else:
            number = self._leaving[self._next_leaving]
            self._next_leaving += 1
            self._leave(number, self._waiting.pop(number, None))
        self._find_others()

    def _find_others(self) -> None:
        """When the next fault begins, or a caller leaves that still waits or has still to come."""
        place, leaving, waiting = self._next_leaving, self._leaving, self._waiting
        while place < len(leaving) and (number := leaving[place]) < self._next_call:
            call = waiting.get(number)
            if call is not None:
                if not call.done():
                    break
                del waiting[number]
            place += 1
        self._next_leaving = place
        self._others_ns = min(self._faults[-1].at_ns if self._faults else FOREVER_NS, self._leaving_ns[place])

    def _call(self, number: int) -> None:
        self._next_call = self._invariants.step = number + 1
        clock = self.clock
        clock.now_ns = now_ns = clock.now_ns + self._admit_ns
        call = self._admit(next(self._payloads), now_ns, self._deadline_ns[number])
        if call.done():
            self.ends.append((number, now_ns, call.result()))
        else:
            call.number, call.callers = number, self
            self._batcher.has_taken(now_ns)
            if self._impatient[number]:
                self._waiting[number] = call
        if self._arrival_ns[self._next_call] == FOREVER_NS:
            self.over.set()

    def _leave(self, number: int, call: Call | None) -> None:
        """The caller goes, or the transport ends the call at its deadline, unless it has its answer."""
        if call is not None and not call.done():
            call.cancel()
            now_ns = self.clock.now_ns
            is_deadline = 0 < self._deadline_ns[number] <= now_ns
            self.ends.append((number, now_ns, refusals.DEADLINE if is_deadline else refusals.CANCELLED))

    def settle(self) -> None:
        """What the callers saw of all calls that ended, and whether it may be so."""
        self._settle_whole()
        if self.ends:
            self._settle(self.ends)
            self.ends = []

    def _settle_whole(self) -> None:
        while len(self.ends) >= SETTLED_TOGETHER:
            together, self.ends = self.ends[:SETTLED_TOGETHER], self.ends[SETTLED_TOGETHER:]
            self._settle(together)

    def _settle(self, together: list[tuple[int, int, Answer]]) -> None:
        calls, ended_ns, answers = zip(*together, strict=True)
        bodies = [answer.body if type(answer) is Reply else b"" for answer in answers]
        status = [_OK if type(answer) is Reply else cast(Refusal, answer).status for answer in answers]
        ends = np.array((calls, status, ended_ns), np.int64)
        deadline_ns = self._traffic.deadline_ns[ends[0]]
        late = (ends[1] == _OK) & (deadline_ns > 0) & (deadline_ns <= ends[2])
        if self.drops_late and np.count_nonzero(late):
            ends[1, late] = _TIMED_OUT
            for place in late.nonzero()[0].tolist():
                bodies[place] = b""
            self.late += int(np.count_nonzero(late))
        self._invariants.ended(ends, bodies)
