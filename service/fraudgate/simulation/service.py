"""A whole service, put together as ``assembly`` does it, over simulated adapters and a fake clock."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from fraudgate.batching.admission import Admission
from fraudgate.config import Config
from fraudgate.control.patrol import Patrol
from fraudgate.editions import Edition, Editions
from fraudgate.engines.fleet import Fleet, Gate, Loaded
from fraudgate.engines.loading import Opened, score_bits
from fraudgate.engines.routes import Canary, Member, Route
from fraudgate.errors import EngineRefused, UnknownTransaction
from fraudgate.features.currency import EXPONENTS
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Outcome
from fraudgate.frontend import callers
from fraudgate.frontend.door import Door
from fraudgate.guardrails.decision import Thresholds
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleSet
from fraudgate.idempotency import IdempotencyTable
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import DAY_SECONDS, GATE_NS, MILLISECOND_NS, QUEUE_ROWS_MAX, SECOND_NS, SLABS
from fraudgate.pipeline import Live, Pipeline
from fraudgate.simulation.boundaries import WatchedBatcher
from fraudgate.simulation.faults import Fault
from fraudgate.simulation.ports import SimulatedEngine, SimulatedInference, SimulatedLog, SimulatedStore, World, costly
from fraudgate.simulation.recount import Recount
from fraudgate.simulation.rungs import WatchedLadder
from fraudgate.simulation.traffic import CUSTOMER_IDS, FIRST_EVENT_SECONDS, TERMINAL_IDS
from fraudgate.tensors import Slab
from fraudgate.validation import Validator

IDEMPOTENCY_ENTRIES = 1 << 17
"""Many times the calls between a retry and what it repeats; the ring wraps within a long run."""
SAMPLED_EVERY = 250
"""One customer and one terminal of so many is recounted."""
STAGES_PERCENT, GATE = (50, 100), Gate(256, 20 * MILLISECOND_NS)
BAD_SHARE, ROLLBACK_SHARE = 0.2, 0.4
"""Of swaps: a bad engine is promoted; an operator goes back. Else a good one is promoted."""


class SimulatedService:
    """Door, batcher, pipeline, store, table, rules, recorder, fleet and patrol. Made on the loop that runs it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.schema = FeatureSchema.named("handbook")
        self.recorder, self.counters = Recorder(world.clock.now_ns), Counters()
        self._rules = RuleSet.load(DEFAULT_RULES, self.schema.names)
        self._editions = Editions()
        self._slabs = [Slab(len(self.schema.names)) for _ in range(SLABS)]
        self.store = _store(self.schema, world)
        self.ladder = WatchedLadder(self.schema, self.counters, world)
        live = self._loaded(skew=0.0)
        self.pipeline = Pipeline(
            live=self._live(live),
            store=self.store,
            slabs=self._slabs,
            validator=Validator(EXPONENTS.keys()),
            idempotency=IdempotencyTable(IDEMPOTENCY_ENTRIES),
            recorder=self.recorder,
            counters=self.counters,
            log=SimulatedLog(world),
            clock=world.clock,
            event_time_ns_max=lambda: 1 << 62,
            ladder=self.ladder,
        )
        self.batcher = WatchedBatcher(world.invariants, GATE_NS, QUEUE_ROWS_MAX)
        defaults = Config()
        admission = Admission(callers.bounds(defaults, callers.known(defaults)), self.batcher)
        self.door = Door(
            self.pipeline, self.batcher, self._editions, self.recorder, self.counters, world.clock, admission
        )
        self.door.batch_ns = world.costs.full_batch_ns
        self.fleet = Fleet(live, self._serve, world.clock, lambda _event: None)
        self.patrol = Patrol(self.fleet, self.counters)
        self._serve(live, ())

    def _loaded(self, skew: float, reverse: bool = False) -> Loaded:
        engine = SimulatedEngine("0", len(self.schema.names), skew, reverse)
        number = self._editions.add(Edition("run", "simulated", "0", "0" * 64, "fp32", self._rules.table))
        engine.info = engine.info._replace(version=str(number), engine_digest=f"{number:064x}")
        golden = Slab(engine.features)
        golden.pack(np.linspace(0, 200, 32 * engine.features).reshape(32, -1))
        engine.bind([*self._slabs, golden])
        inference = SimulatedInference(engine, self.world, SLABS)
        opened = Opened(engine, inference, SLABS, score_bits(engine.run(SLABS)))
        thresholds = engine.info.thresholds
        return Loaded(opened, Member(inference, Thresholds(thresholds.review, thresholds.decline), number))

    def _live(self, loaded: Loaded, routes: tuple[Route, ...] = ()) -> Live:
        member = loaded.member
        return Live(member.inference, member.thresholds, costly(self._rules, self.world), member.edition, routes)

    def _serve(self, live: Loaded, routes: tuple[Route, ...]) -> None:
        self.pipeline.live = self._live(live, routes)
        trials = [route.member.edition for route in routes if isinstance(route, Canary)]
        self.world.invariants.serving(frozenset([live.member.edition, *trials]))

    def happen(self, fault: Fault) -> None:
        """A fault begins, or an operator does something."""
        world = self.world
        world.weather.begin(fault, world.clock.now_ns)
        if fault.kind == "stall":
            world.clock.now_ns += fault.lasts_ns
        elif fault.kind == "swap":
            self._swap(fault.share)
        elif fault.kind == "outcome":
            self._report_fraud()

    def _swap(self, share: float) -> None:
        with suppress(EngineRefused):  # there is nothing to go back to
            if share < BAD_SHARE:
                self.fleet.promote(self._loaded(skew=0.0, reverse=True), STAGES_PERCENT, GATE)
            elif share < ROLLBACK_SHARE:
                self.fleet.rollback("the operator asked")
            else:
                self.fleet.promote(self._loaded(skew=share), STAGES_PERCENT, GATE)

    def _report_fraud(self) -> None:
        latest = self.store.latest
        if latest:
            with suppress(UnknownTransaction):
                self.store.apply_outcome(Outcome(latest, True))
                self.store.recount.report(latest)


def _store(schema: FeatureSchema, world: World) -> SimulatedStore:
    sample = frozenset([*CUSTOMER_IDS[::SAMPLED_EVERY], *TERMINAL_IDS[::SAMPLED_EVERY]])
    covered_ns = (FIRST_EVENT_SECONDS - 45 * DAY_SECONDS) * SECOND_NS
    return SimulatedStore(schema, covered_ns, world, Recount(schema, sample, world.invariants))


class Tally(NamedTuple):
    """What a service has counted."""

    decisions: int
    replays: int
    refusals: dict[str, int]
    batches: int
    rollbacks: int
    engine_failures: int
    defaulted: int
    breaker_changes: int
    log_dropped: int


def tally(service: SimulatedService) -> Tally:
    """The counters of a service, now."""
    copy = service.counters.copy()
    return Tally(
        sum(copy.decisions.values()),
        copy.totals["fraudgate_idempotent_replays_total"],
        dict(sorted(copy.refusals.items())),
        service.counters.batches,
        service.fleet.rollbacks,
        copy.totals["fraudgate_engine_failures_total"],
        copy.totals["fraudgate_unapplied_total"],
        service.ladder.changes,
        copy.totals["fraudgate_batch_log_dropped_total"],
    )
