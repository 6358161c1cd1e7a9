"""The patrol: ten times a second it has the fleet prove its engines once more."""

import asyncio
from contextlib import suppress

from fraudgate.engines.fleet import Fleet
from fraudgate.latency.recorder import Counters
from fraudgate.transaction import Fallback

PERIOD_SECONDS = 0.1
UNUSABLE_ROWS_MIN = 32
"""Fewer decisions between two rounds say nothing about the engine."""


class Patrol:
    """Watches one fleet, from ``start`` to ``stop``, on the scoring loop."""

    def __init__(self, fleet: Fleet, counters: Counters) -> None:
        self._fleet, self._counters = fleet, counters
        self._rows = self._unusable = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.walk()

    async def walk(self) -> None:
        """One round."""
        decisions = self._counters.copy().decisions
        rows = sum(decisions.values())
        unusable = sum(count for (_, fallback), count in decisions.items() if fallback == Fallback.RULES_ONLY)
        new, bad = rows - self._rows, unusable - self._unusable
        self._rows, self._unusable = rows, unusable
        await self._fleet.watch(unusable=new >= UNUSABLE_ROWS_MIN and 2 * bad > new)
