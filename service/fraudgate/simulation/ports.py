"""The adapters of a simulated service: the real ones, or as cheap as can be, that cost time and fail when told to."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from fraudgate.engines.base import EngineInfo, Thresholds
from fraudgate.engines.placement import InlineEngine
from fraudgate.errors import EngineFailed
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Gathered
from fraudgate.frontend.codec import Decoded
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.rules import RuleSet
from fraudgate.limits import INLINE_ENGINE_NS_MAX, MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.costs import Cost, Costs, Dice
from fraudgate.simulation.faults import Weather
from fraudgate.simulation.invariants import Invariants
from fraudgate.simulation.recount import Recount
from fraudgate.tensors import Slab
from fraudgate.testing import FakeClock
from fraudgate.transaction import Answers, Columns, Float32, Float64, Request, UInt64

STORE_DELAY_NS_MAX = 8 * MILLISECOND_NS
ENGINE_DELAY_NS_MAX = 20 * MILLISECOND_NS


class World:
    """What every port needs: the clock, what things cost, what is wrong, and who watches."""

    def __init__(
        self, clock: FakeClock, costs: Costs, random: np.random.Generator, weather: Weather, invariants: Invariants
    ) -> None:
        self.clock, self.costs, self.weather, self.invariants = clock, costs, weather, invariants
        self._dice = Dice(random, costs.spread)

    def spend(self, cost: Cost, rows: int) -> int:
        """The loop's thread works for so long; nanoseconds."""
        spent_ns = self.draw(cost, rows)
        self.clock.now_ns += spent_ns
        return spent_ns

    def draw(self, cost: Cost, rows: int) -> int:
        """How long something takes this time, nanoseconds."""
        return int((cost.batch_ns + cost.row_ns * rows) * self._dice())


class SimulatedStore(EmbeddedStore):
    """The embedded store itself, at times slow, at times refusing a batch."""

    def __init__(self, schema: FeatureSchema, coverage_start_ns: int, world: World, recount: Recount) -> None:
        super().__init__(schema, coverage_start_ns=coverage_start_ns)
        self._world, self.recount = world, recount
        self.latest = ""
        """The transaction that was applied last."""

    def apply_and_gather(self, columns: Columns, rows: Sequence[int]) -> Gathered:
        world, now_ns = self._world, self._world.clock.now_ns
        numbers = world.invariants.applying(columns, rows, now_ns)
        world.spend(world.costs.features, columns.rows)
        world.clock.now_ns += world.weather.delay_ns("store_slow", now_ns, STORE_DELAY_NS_MAX)
        if world.weather.is_on("store_failure", now_ns):
            raise RuntimeError("the simulated store refuses this batch")
        gathered = super().apply_and_gather(columns, rows)
        world.invariants.has_applied(columns, rows, numbers)
        self.recount.applied(columns, rows, gathered)
        self.latest = columns.transaction_id[rows[-1]]
        return gathered


class SimulatedEngine:
    """Scores by a fixed function of the features, so cheap that the service is what is simulated."""

    def __init__(self, version: str, features: int, skew: float, reverse: bool = False) -> None:
        """``skew``: how far its scores are from those of others; ``reverse``: a bad engine, it ranks the wrong way."""
        thresholds = Thresholds(review=0.6, decline=0.9)
        self.info = EngineInfo("simulated", version, version * 64, "fp32", "", thresholds, "cpu", "", "", False)
        self.features, self.run_ns = features, 1
        self._skew, self._reverse = skew, reverse
        self._slabs: list[Slab] = []

    def bind(self, slabs: Sequence[Slab]) -> None:
        """Slots 0..len(slabs)."""
        self._slabs = list(slabs)

    def run(self, slot: int) -> Float32:
        """Amount against a scale: float32[32]."""
        amount = self._slabs[slot].array[:, 0]
        score: Float32 = amount / (amount + np.float32(60.0 + self._skew))
        return np.float32(1.0) - score if self._reverse else score

    def contents(self, slot: int) -> bytes:
        """What the slab holds, to see whether it changes."""
        return self._slabs[slot].array.tobytes()


class SimulatedInference(InlineEngine):
    """Runs an engine for as long as it costs: on the loop's thread, or waiting for one of its own when it is slow."""

    def __init__(self, engine: SimulatedEngine, world: World, watched_slots: int) -> None:
        super().__init__(engine)
        self.engine, self._world, self._watched_slots = engine, world, watched_slots
        self._free_ns = 0

    async def infer(self, slot: int) -> Float32:
        """Scores of the slab, float32[32]. Raises EngineFailed."""
        engine, invariants = self.engine, self._world.invariants
        if slot >= self._watched_slots:  # golden rows: nobody else writes there
            await self._take_time()
            return self._scores(slot)
        invariants.engine_begins(slot, engine.contents(slot))
        try:
            await self._take_time()
            return self._scores(slot)
        finally:
            invariants.engine_ends(slot, engine.contents(slot))

    async def _take_time(self) -> None:
        world, now_ns = self._world, self._world.clock.now_ns
        takes_ns = world.draw(world.costs.engine, 0)
        takes_ns += world.weather.delay_ns("engine_slow", now_ns, ENGINE_DELAY_NS_MAX)
        if takes_ns < INLINE_ENGINE_NS_MAX:
            world.clock.now_ns += takes_ns
            return
        self._free_ns = max(self._free_ns, now_ns) + takes_ns  # one thread, one batch after the other
        await asyncio.sleep((self._free_ns - now_ns) / SECOND_NS)

    def _scores(self, slot: int) -> Float32:
        weather, now_ns = self._world.weather, self._world.clock.now_ns
        if weather.is_on("engine_failure", now_ns):
            raise EngineFailed("the simulated engine fails")
        scores = self.engine.run(slot)
        return scores * np.float32(np.nan) if weather.is_on("engine_unusable", now_ns) else scores


def costly(rules: RuleSet, world: World) -> RuleSet:
    """The same rules, which take time."""
    fire = rules.fire

    def spend_and_fire(inputs: RuleInputs, bits: UInt64) -> int:
        world.spend(world.costs.guardrails, len(bits))
        return fire(inputs, bits)

    return replace(rules, fire=spend_and_fire)


class SimulatedLog:
    """Stands for the batch log: sees every answered batch, and drops those of a time in which its writer is dead."""

    def __init__(self, world: World) -> None:
        self._world = world

    def append(self, batch: Request, features: Float64, answers: Answers, closed_ns: int, idle_ns: int) -> bool:
        """False: dropped. The record itself is not made, which would cost as much as all of the rules."""
        world, columns = self._world, cast(Decoded, batch).columns
        world.invariants.answered("".join(columns.transaction_id).encode(), columns.arrival_ns, answers)
        world.spend(world.costs.respond, len(answers))
        return not world.weather.is_on("log_crash", world.clock.now_ns)
