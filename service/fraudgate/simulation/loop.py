"""An event loop on a fake clock, which something outside feeds: it never waits, and repeats itself exactly."""

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVarTuple, Unpack

from fraudgate.limits import SECOND_NS
from fraudgate.testing import FakeClock

Args = TypeVarTuple("Args")


class Outside(Protocol):
    """What happens to a service from outside, in the order of its time: calls, faults, callers that leave."""

    def advance(self, until_ns: int | None, gave_work: Callable[[], bool]) -> bool:
        """Let happen what is due, then move the clock to what happens next and let that happen, and so on.

        Until ``gave_work`` says that the loop has something to do, or ``until_ns``. False: nothing more ever happens.
        What this raises ends the loop.
        """


class Silence:
    """Nothing happens outside."""

    def advance(self, until_ns: int | None, gave_work: Callable[[], bool]) -> bool:
        """Nothing ever happens."""
        return False


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Where it would wait, the clock jumps to the next timer or to what happens next outside.

    Where it would wait for ever it raises RuntimeError. Time also passes when somebody moves the clock: that stands for
    work of the loop's thread, and what falls due meanwhile is late, as on a real one.
    """

    create_future: Callable[[], asyncio.Future[Any]]
    get_debug = staticmethod(bool)  # False; every future asks

    def __init__(self, clock: FakeClock) -> None:
        self.outside: Outside = Silence()
        self.scheduled = 0
        """Callbacks and timers that were ever asked for."""
        self._fake_clock = clock
        super().__init__(_Jump(self, clock))
        self.make_futures(asyncio.Future)

    def make_futures(self, kind: type[asyncio.Future[Any]]) -> None:
        """Every future is one of these from now on."""
        self.create_future = partial(kind, loop=self)

    def time(self) -> float:
        """The clock's time, in seconds."""
        return self._fake_clock.now_ns / SECOND_NS

    def call_soon(
        self, callback: Callable[[Unpack[Args]], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        self.scheduled += 1
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.scheduled += 1
        return super().call_at(when, callback, *args, context=context)


class _Jump(selectors.DefaultSelector):
    """Stands where the loop would wait for its sockets, of which it has none."""

    def __init__(self, loop: SimulatedLoop, clock: FakeClock) -> None:
        super().__init__()
        self._loop, self._clock = loop, clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        clock, loop, until_ns = self._clock, self._loop, None
        if timeout is not None:
            until_ns = clock.now_ns + (max(round(timeout * SECOND_NS), 1) if timeout > 0 else 0)
        scheduled = loop.scheduled
        more = loop.outside.advance(until_ns, lambda: loop.scheduled != scheduled)
        if loop.scheduled == scheduled:
            if until_ns is not None:
                clock.now_ns = max(clock.now_ns, until_ns)
            elif not more:
                raise RuntimeError("the simulation waits for something that can never happen")
        return []
