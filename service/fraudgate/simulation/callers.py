"""The callers of a simulated service: they call, wait, leave, and see how each call ends."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import cast

import numpy as np

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
ENDS_TOGETHER = 128


class Call(asyncio.Future[Answer]):
    """The future of one call; it tells its caller at the instant at which it is set."""

    number = -1
    """Which call it is; -1 until the door has let it in."""
    tell: Callable[[int, Answer], None]

    def set_result(self, result: Answer, /) -> None:
        super().set_result(result)
        if self.number >= 0:
            self.tell(self.number, result)


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
        self._traffic, self._batcher = traffic, batcher
        # A payload is read as a message is, and the loop makes the door's futures.
        self._admit = cast(Callable[[Payload, int, int], Call], door.admit)
        self._clock, self._invariants = clock, invariants
        self._faults, self._happen, self._admit_ns = faults[::-1], happen, admit_ns
        self._arrival_ns: list[int] = [*traffic.arrival_ns.tolist(), FOREVER_NS]
        self._deadline_ns: list[int] = traffic.deadline_ns.tolist()
        deadline_ns = np.where(traffic.deadline_ns > 0, traffic.deadline_ns, FOREVER_NS)
        leaves_ns = np.where(traffic.leaves_ns > 0, traffic.leaves_ns, FOREVER_NS)
        self._until_ns: list[int] = np.minimum(deadline_ns, leaves_ns).tolist()
        self._leaving: list[tuple[int, int, Call]] = []
        self._next_call = 0
        self._find_others()
        self.late = 0
        """Answers that came when the caller's deadline had passed."""
        self.over = asyncio.Event()
        """Set when the last call has come."""

    def advance(self, until_ns: int | None, gave_work: Callable[[], bool]) -> bool:
        """See ``Outside``."""
        clock, now_ns = self._clock, self._clock.now_ns
        arrivals, last_ns = self._arrival_ns, FOREVER_NS if until_ns is None else until_ns
        while True:
            if self._invariants.broken is not None:
                raise self._invariants.broken
            arrival_ns, other_ns = arrivals[self._next_call], self._others_ns
            due_ns = arrival_ns if arrival_ns < other_ns else other_ns
            if due_ns > now_ns:
                if due_ns > last_ns or due_ns == FOREVER_NS or gave_work():
                    return due_ns < FOREVER_NS
                now_ns = due_ns
                if clock.now_ns < now_ns:
                    clock.now_ns = now_ns
            if due_ns == arrival_ns:
                self._call(self._next_call)
            else:
                self._happen_to_others(due_ns)

    def _happen_to_others(self, now_ns: int) -> None:
        """A fault begins, or a caller leaves."""
        if self._faults and self._faults[-1].at_ns <= now_ns:
            self._happen(self._faults.pop())
        else:
            _, number, call = heappop(self._leaving)
            self._leave(number, call)
        self._find_others()

    def _find_others(self) -> None:
        fault_ns = self._faults[-1].at_ns if self._faults else FOREVER_NS
        self._others_ns = min(fault_ns, self._leaving[0][0] if self._leaving else FOREVER_NS)

    def _call(self, number: int) -> None:
        self._next_call = self._invariants.step = number + 1
        clock, deadline_ns = self._clock, self._deadline_ns[number]
        clock.now_ns += self._admit_ns
        call = self._admit(self._traffic.payload(number), clock.now_ns, deadline_ns)
        if call.done():
            self._answered(number, call.result())
        else:
            call.number, call.tell = number, self._answered
            self._batcher.has_taken(clock.now_ns)
            until_ns = self._until_ns[number]
            if until_ns < FOREVER_NS:
                heappush(self._leaving, (until_ns, number, call))
                self._others_ns = min(self._others_ns, until_ns)
        if self._arrival_ns[self._next_call] == FOREVER_NS:
            self.over.set()

    def _leave(self, number: int, call: Call) -> None:
        """The caller goes, or the transport ends the call at its deadline, unless it has its answer."""
        if not call.done():
            call.cancel()
            is_deadline = 0 < self._deadline_ns[number] <= self._clock.now_ns
            self._ended(number, Status.DEADLINE_EXCEEDED if is_deadline else Status.CANCELLED, b"")

    def _answered(self, number: int, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self._ended(number, answer.status, b"")
        elif 0 < self._deadline_ns[number] <= self._clock.now_ns and self.drops_late:
            self.late += 1
            self._ended(number, Status.DEADLINE_EXCEEDED, b"")
        else:
            self._ended(number, Status.OK, answer.body)

    def _ended(self, number: int, status: int, body: bytes) -> None:
        ends = self._invariants.ends
        ends.append((number, status, self._clock.now_ns, body))
        if len(ends) >= ENDS_TOGETHER:
            self._invariants.check_ends()
