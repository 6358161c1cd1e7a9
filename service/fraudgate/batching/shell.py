"""The asyncio shell around the batcher: the only thing that sleeps.

It keeps one timer, for the open batch's gate, and hands closed batches on, in order, while fewer than
``in_flight_max`` are running.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fraudgate.batching.batcher import Batcher, ClosedBatch
from fraudgate.clock import Clock
from fraudgate.limits import BATCHES_IN_FLIGHT_MAX, MILLISECOND_NS

Entry = TypeVar("Entry")
Result = TypeVar("Result")


class BatchShell(Generic[Entry]):
    """Runs ``run`` on each closed batch. ``run`` must not raise: what fails is answered, row by row."""

    def __init__(
        self,
        batcher: Batcher[Entry],
        run: Callable[[ClosedBatch[Entry]], Awaitable[None]],
        clock: Clock,
        in_flight_max: int = BATCHES_IN_FLIGHT_MAX,
    ) -> None:
        self.batcher = batcher
        self._run = run
        self._clock = clock
        self._in_flight_max = in_flight_max
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._pauses = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()

    def submit(self, entry: Entry, now_ns: int) -> bool:
        """Queue an entry that arrived at ``now_ns``; False when the queue is full."""
        if not self.batcher.add(entry, now_ns):
            return False
        deadline_ns = self.batcher.next_deadline_ns()
        if deadline_ns == 0 or self.batcher.policy == "eager":
            self._wake()
        elif deadline_ns is not None:
            self._set_timer(deadline_ns, now_ns)
        return True

    def _wake(self) -> None:
        """Pump in the loop's next round, once, so that entries of this round still join the batch."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def _set_timer(self, deadline_ns: int, now_ns: int) -> None:
        if self._timer is not None or len(self._tasks) >= self._in_flight_max:
            return  # it rings already, or the end of a running batch wakes the shell
        # uvloop's timers have whole milliseconds: round up, the boundary is drawn by stamps anyway.
        delay_ms = -((now_ns - deadline_ns) // MILLISECOND_NS)
        self._timer = self._loop.call_later(max(delay_ms, 1) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        self._woken = False
        if self._pauses:
            return  # the end of the pause wakes the shell
        now_ns = self._clock()
        while len(self._tasks) < self._in_flight_max:
            closed = self.batcher.poll(now_ns, idle=not self._tasks)
            if closed is None:
                break
            task = self._loop.create_task(self._run_batch(closed))
            self._tasks.add(task)
            task.add_done_callback(self._finished)
        deadline_ns = self.batcher.next_deadline_ns()
        if deadline_ns:
            self._set_timer(deadline_ns, now_ns)

    async def _run_batch(self, closed: ClosedBatch[Entry]) -> None:
        await self._run(closed)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.batcher.rows:
            self._wake()
        elif not self._tasks:
            self._empty.set()
        task.result()  # a raise here is our mistake: the loop's exception handler reports it

    @property
    def batches_in_flight(self) -> int:
        """Batches that are running now."""
        return len(self._tasks)

    async def between_batches(self, act: Callable[[], Result]) -> Result:
        """The result of ``act``, called while no batch is running; none is started before it has returned."""
        self._pauses += 1
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
            return act()
        finally:
            self._pauses -= 1
            self._wake()

    async def drain(self) -> None:
        """Close the open batch now and wait until everything queued is answered. Nothing may be submitted after."""
        self.batcher.close_open(self._clock())
        while self.batcher.rows or self._tasks:
            self._empty.clear()
            self._wake()
            await self._empty.wait()
