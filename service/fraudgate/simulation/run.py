"""One simulated run, from a seed to its result."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np

from fraudgate.limits import BUDGET_NS
from fraudgate.simulation import faults
from fraudgate.simulation.callers import Call, Callers
from fraudgate.simulation.costs import MEASURED, Cost, Costs
from fraudgate.simulation.faults import Weather
from fraudgate.simulation.invariants import Broken, Invariants
from fraudgate.simulation.loop import Silence, SimulatedLoop
from fraudgate.simulation.ports import World
from fraudgate.simulation.profiles import Profile
from fraudgate.simulation.service import SimulatedService, Tally, tally
from fraudgate.simulation.traffic import START_NS, Traffic, draw
from fraudgate.testing import FakeClock
from fraudgate.transaction import Int64, Status

PROGRESS_SECONDS = 0.1
DRAIN_SECONDS_MAX = 10.0
"""Both of simulated time."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has shown."""

    seed: int
    profile: str
    calls: int
    digest: str
    broken: Broken | None
    simulated_ns: int
    wall_ns: int
    statuses: dict[str, int]
    latency_ns: Int64
    """Of the calls that ended OK, as their callers see it, int64[n]."""
    late: int
    faults: dict[str, int]
    recounted: int
    tally: Tally


Tick = Callable[[int], None]


def simulate(
    seed: int, calls: int, name: str, profile: Profile, costs: Costs = MEASURED, tick: Tick = lambda _calls: None
) -> Result:
    """Run ``calls`` calls; ``tick`` is told now and then how many have come. An invariant that breaks ends the run."""
    started_ns = monotonic_ns()
    streams = np.random.default_rng(seed).spawn(3)
    traffic = draw(streams[0], calls, profile)
    plan = faults.plan(streams[1], profile, START_NS, int(traffic.arrival_ns[-1]))
    if profile.engine_ns:
        costs = costs._replace(engine=Cost(profile.engine_ns))
    clock = FakeClock(START_NS)
    world = World(clock, costs, streams[2], Weather(), Invariants(traffic, clock, BUDGET_NS))
    run = _Run(world, traffic, plan, tick)
    broken = run.to_its_end()
    return run.result(seed, name, broken, monotonic_ns() - started_ns)


class _Run:
    def __init__(self, world: World, traffic: Traffic, plan: list[faults.Fault], tick: Tick) -> None:
        self._world, self._traffic, self._plan, self._tick = world, traffic, plan, tick
        self._service: SimulatedService
        self._callers: Callers

    def to_its_end(self) -> Broken | None:
        """The invariant that broke, if one did."""
        world = self._world
        with quiet(), asyncio.Runner(loop_factory=self._loop) as runner:
            try:
                runner.run(self._main())
            except Broken as broken:
                self._abandon(runner)
                return broken
        return world.invariants.broken

    def _abandon(self, runner: asyncio.Runner) -> None:
        """Nothing more happens and nobody watches; what waits is decided, so that every batch ends where it began."""
        loop = runner.get_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.outside = Silence()
        loop.set_exception_handler(lambda _loop, _context: None)
        with suppress(TimeoutError):  # a service that is broken may never get there
            runner.run(asyncio.wait_for(self._service.door.shell.drain(), DRAIN_SECONDS_MAX))

    def _loop(self) -> SimulatedLoop:
        loop = SimulatedLoop(self._world.clock)
        loop.set_exception_handler(self._unhandled)
        return loop

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self._world.invariants.fail("nothing is raised on the loop", f"{context.get('exception')!r}")

    async def _main(self) -> None:
        world, loop = self._world, asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        service = self._service = SimulatedService(world)
        self._callers = callers = Callers(
            self._traffic,
            self._plan,
            service.door,
            service.batcher,
            world.clock,
            world.invariants,
            service.happen,
            world.costs.admit_ns,
        )
        loop.make_futures(Call)
        service.patrol.start()
        loop.outside = callers
        while not callers.over.is_set():
            await asyncio.sleep(PROGRESS_SECONDS)
            self._tick(world.invariants.step)
        await service.door.shell.drain()
        await service.patrol.stop()
        loop.outside = Silence()
        callers.settle()
        world.invariants.finish(service.counters, service.recorder)

    def result(self, seed: int, name: str, broken: Broken | None, wall_ns: int) -> Result:
        """Everything that was seen."""
        watched, traffic = self._world.invariants, self._traffic
        ended = watched.times_ended > 0
        good = ended & (watched.status == Status.OK)
        counts = np.bincount(watched.status[ended])
        return Result(
            seed=seed,
            profile=name,
            calls=len(traffic),
            digest=watched.digest(),
            broken=broken,
            simulated_ns=self._world.clock.now_ns - START_NS,
            wall_ns=wall_ns,
            statuses={Status(code).name: int(count) for code, count in enumerate(counts) if count},
            latency_ns=watched.ended_ns[good] - traffic.arrival_ns[good],
            late=self._callers.late,
            faults=self._world.weather.seen,
            recounted=self._service.store.recount.compared,
            tally=tally(self._service),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the service's log, as what it says of faults is known, and without the collector, as in a service."""
    logger, collects = logging.getLogger("fraudgate"), gc.isenabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        yield
    finally:
        logger.setLevel(level)
        if collects:
            gc.enable()
