"""The asyncio shell around a batcher: the only thing that sleeps.

It keeps one timer, for the open batch's gate, and runs closed batches, in order, at most ``in_flight_max`` at once. A
batch runs at once, inside the loop's callback, up to where it first has to wait; only then it becomes a task.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from fraudgate.batching.batcher import Batcher, ClosedBatch, Policy
from fraudgate.clock import Clock
from fraudgate.limits import BATCHES_IN_FLIGHT_MAX, MILLISECOND_NS

Entry = TypeVar("Entry")
Closed = TypeVar("Closed")
Closed_co = TypeVar("Closed_co", covariant=True)
Result = TypeVar("Result")
Running = Coroutine[Any, Any, None]

_ROUND_BATCHES_MAX = 8
"""Batches that never wait are started one after the other: a round of the loop costs a twentieth of one."""


class Batches(Protocol[Closed_co]):
    """Where closed batches come from: a ``Batcher``, or a front end that batches by itself and then calls ``wake``."""

    @property
    def rows(self) -> int: ...
    @property
    def policy(self) -> Policy: ...
    def poll(self, now_ns: int, idle: bool = False) -> Closed_co | None: ...
    def next_deadline_ns(self) -> int | None: ...
    def close_open(self, now_ns: int) -> None: ...


class BatchRunner(Generic[Closed]):
    """Runs ``run`` on each closed batch. ``run`` must not raise: what fails is answered, row by row."""

    def __init__(
        self,
        batcher: Batches[Closed],
        run: Callable[[Closed], Running],
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

    def wake(self) -> None:
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
        """Start what is due; at most ``_ROUND_BATCHES_MAX``, then the loop goes round."""
        self._woken = False
        for _ in range(_ROUND_BATCHES_MAX):
            if self._pauses or len(self._tasks) >= self._in_flight_max:
                return  # the end of the pause, or of a running batch, wakes the shell
            now_ns = self._clock()
            closed = self.batcher.poll(now_ns, idle=not self._tasks)
            if closed is None:
                self._rest(now_ns)
                return
            self._start(closed)
        self.wake()

    def _rest(self, now_ns: int) -> None:
        """Nothing is closed: wait for the gate, if a batch is open."""
        deadline_ns = self.batcher.next_deadline_ns()
        if deadline_ns:
            self._set_timer(deadline_ns, now_ns)
        if not self._tasks and not self.batcher.rows:
            self._empty.set()

    def _start(self, closed: Closed) -> None:
        running, context = self._run(closed), copy_context()  # one context for both halves of it
        try:
            waits_for = context.run(running.send, None)
        except StopIteration:
            return
        except Exception:
            self.wake()  # our mistake, which the loop's exception handler reports; the other batches go on
            raise
        task = self._loop.create_task(_resume(running, waits_for), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wake()
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
            self.wake()

    async def drain(self) -> None:
        """Close the open batch now and wait until everything queued is answered. Nothing may be submitted after."""
        self.batcher.close_open(self._clock())
        while self.batcher.rows or self._tasks:
            self._empty.clear()
            self.wake()
            await self._empty.wait()


class BatchShell(BatchRunner[ClosedBatch[Entry]], Generic[Entry]):
    """A runner over a ``Batcher`` in Python, which is filled here."""

    batcher: Batcher[Entry]

    def submit(self, entry: Entry, now_ns: int) -> bool:
        """Queue an entry that arrived at ``now_ns``; False when the queue is full."""
        if not self.batcher.add(entry, now_ns):
            return False
        deadline_ns = self.batcher.next_deadline_ns()
        if deadline_ns == 0 or self.batcher.policy == "eager":
            self.wake()
        elif deadline_ns is not None:
            self._set_timer(deadline_ns, now_ns)
        return True


async def _resume(running: Running, waits_for: object) -> None:
    """The rest of a coroutine that was started by hand and waits for a future."""
    await _resumed(running, waits_for)


@types.coroutine
def _resumed(running: Running, waits_for: object) -> Generator[object, object, None]:
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # a cancellation is the coroutine's to handle
            step: Callable[[], object] = partial(running.throw, error)
        else:
            step = partial(running.send, value)
        try:
            waits_for = step()
        except StopIteration:
            return
