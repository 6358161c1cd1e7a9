"""The patrol: ten times a second it has the fleet prove its engines once more, and looks at the scores of a new one."""

import asyncio
from contextlib import suppress

from fraudgate.drift.watch import DriftWatch
from fraudgate.engines.fleet import Fleet
from fraudgate.latency.recorder import Counters
from fraudgate.transaction import Fallback

PERIOD_SECONDS = 0.1
UNUSABLE_ROWS_MIN = 32
"""Fewer decisions between two rounds say nothing about the engine."""


class Patrol:
    """Watches one fleet, from ``start`` to ``stop``, on the scoring loop."""

    def __init__(self, fleet: Fleet, counters: Counters, drift: DriftWatch | None = None) -> None:
        self._fleet, self._counters, self._drift = fleet, counters, drift
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
        drift = await self._drift_of_scores()
        await self._fleet.watch(new >= UNUSABLE_ROWS_MIN and 2 * bad > new, drift)

    async def _drift_of_scores(self) -> str:
        """How those of a live engine on probation have drifted, or empty."""
        live = self._fleet.live
        if self._drift is None or not self._fleet.on_probation:
            return ""
        score = await asyncio.to_thread(self._drift.score)
        if score is None or score.verdict != "drifted" or live is not self._fleet.live:
            return ""
        return f"its scores have drifted: PSI {score.psi:.2f}, KS {score.ks:.2f} over {score.rows:,} rows"
