"""Which engine's score a row takes, where more than one is at work on a batch.

The live engine scores every batch. A route may then let another engine score the same slab, whole, and give some rows
that engine's score: so a score never depends on what shares the batch, whoever gave it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fraudgate.breaker import Breaker
from fraudgate.clock import Clock
from fraudgate.engines.base import Engine, Inference
from fraudgate.engines.trial import WHOLE_PERCENT, Trial, chosen
from fraudgate.guardrails.decision import UNSCORED, Thresholds
from fraudgate.tensors import Slab
from fraudgate.transaction import Bool, Columns, Fallback, Float32, Int64, UInt8


@dataclass(frozen=True, slots=True)
class Member:
    """An engine that may decide: where it runs, its thresholds, and the edition that names its decisions."""

    inference: Inference
    thresholds: Thresholds
    edition: int


@dataclass(slots=True)
class Verdict:
    """What each row of a batch is decided from: arrays of n rows."""

    score: Float32
    level: Int64
    """See ``Thresholds.levels``; by the thresholds of the engine that gave the score."""
    edition: npt.NDArray[np.uint32]
    fallback: UInt8
    """At least this bad."""

    @classmethod
    def of(cls, score: Float32, thresholds: Thresholds, edition: int) -> "Verdict":
        """The live engine's. The score is copied."""
        rows = len(score)
        editions, fallback = np.full(rows, edition, np.uint32), np.full(rows, Fallback.NONE, np.uint8)
        return cls(score.copy(), thresholds.levels(score), editions, fallback)

    def take(self, rows: Bool, member: Member, score: Float32) -> None:
        """Give these rows the score of another engine."""
        self.score[rows] = score[rows]
        self.level[rows] = member.thresholds.levels(score)[rows]
        self.edition[rows] = member.edition


class Batch(NamedTuple):
    """A batch on its way through the routes."""

    columns: Columns
    rows: list[int]
    """The rows of ``columns`` that are decided, in the slab's order."""
    slot: int
    slab: Slab
    taken_up_ns: int
    run_ns: int
    """What the live engine took for it, waiting included."""


class Route(Protocol):
    """One more engine at work on every batch."""

    async def run(self, batch: Batch, verdict: Verdict) -> None:
        """Change the verdict of those rows that this engine decides. Must not raise, whatever the engine does."""
        ...


@dataclass(slots=True)
class Canary:
    """An engine on trial that decides for a share of the customers."""

    member: Member
    trial: Trial
    share_percent: int
    clock: Clock
    watch: Callable[[], None]
    """Called when a batch has been compared."""

    async def run(self, batch: Batch, verdict: Verdict) -> None:
        started_ns = self.clock()
        try:
            score = (await self.member.inference.infer(batch.slot))[: len(batch.rows)]
        except Exception:  # whatever it raises, the live engine's answers stand
            self.trial.fail()
        else:
            self.trial.compare(verdict.score, score, self.clock() - started_ns)
            if not self.trial.problem():  # a score that speaks against its engine decides nothing any more
                verdict.take(self._chosen(batch), self.member, score)
        self.watch()

    def _chosen(self, batch: Batch) -> Bool:
        if self.share_percent >= WHOLE_PERCENT:
            return np.ones(len(batch.rows), np.bool_)
        customers, ids = batch.columns.ids["customer_id"], batch.columns.transaction_id
        return chosen((customers[row] or ids[row] for row in batch.rows), self.share_percent)


@dataclass(slots=True)
class Shadow:
    """An engine on trial that decides nothing: it runs on a thread of its own, on copies, and skips what it cannot keep
    up with."""

    engine: Engine
    trial: Trial
    clock: Clock
    watch: Callable[[], None]
    skipped: int = 0
    """Batches that came while the one before was being scored."""
    _slab: Slab = field(init=False)
    _thread: ThreadPoolExecutor = field(init=False)
    _running: "asyncio.Future[Float32] | None" = None
    _closed: bool = False

    def __post_init__(self) -> None:
        self._slab = Slab(self.engine.features)
        self.engine.bind([self._slab])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    async def run(self, batch: Batch, verdict: Verdict) -> None:
        if self._closed:  # while this batch was with the engines before
            return
        if self._running is not None:
            self.skipped += 1
            return
        np.copyto(self._slab.array, batch.slab.array)
        live, started_ns = verdict.score.copy(), self.clock()
        self._running = asyncio.get_running_loop().run_in_executor(self._thread, self.engine.run, 0)
        self._running.add_done_callback(lambda done: self._compare(done, live, started_ns))

    def _compare(self, done: "asyncio.Future[Float32]", live: Float32, started_ns: int) -> None:
        self._running = None
        if done.cancelled():
            return
        if done.exception() is not None:
            self.trial.fail()
        else:
            self.trial.compare(live, done.result()[: len(live)], self.clock() - started_ns)
        self.watch()

    def close(self) -> None:
        """Stop the thread after what it runs now; batches still come from those that were taken up before."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Tier:
    """A larger engine for scores within a band, while time remains; else those rows keep the small one's and say so."""

    member: Member
    low: float
    high: float
    ns_max: int
    """A batch that was taken up so long after a row's arrival keeps that batch to the small engine."""
    clock: Clock
    breaker: Breaker = field(default_factory=lambda: Breaker("large"))
    dropped: bool = False
    """The large engine is not asked: it has shown a problem."""
    small: int = 0
    """Rows outside the band, which the small engine decided."""
    large: int = 0
    """Rows that the large engine decided."""
    pressed: int = 0
    """Rows within the band that the small engine decided: the time was short, or the large one failed."""
    small_run_ns: int = 0
    large_run_ns: int = 0
    """All runs of the engine together, waiting included."""

    async def run(self, batch: Batch, verdict: Verdict) -> None:
        self.small_run_ns += batch.run_ns
        within: Bool = (verdict.score >= self.low) & (verdict.score <= self.high) & (verdict.level != UNSCORED)
        wanted = int(within.sum())
        self.small += int(np.count_nonzero(verdict.level != UNSCORED)) - wanted
        if not wanted:
            return
        score = await self._score(batch) if self._in_time(batch) and not self.dropped else None
        large = np.zeros_like(within)
        if score is not None:
            large = within & (self.member.thresholds.levels(score) != UNSCORED)
            verdict.take(large, self.member, score)
        verdict.fallback[within & ~large] = Fallback.SMALL_MODEL
        decided = int(large.sum())
        self.large += decided
        self.pressed += wanted - decided

    def _in_time(self, batch: Batch) -> bool:
        waited_ns: int = batch.taken_up_ns - int(batch.columns.earliest()[1])
        return waited_ns <= self.ns_max

    async def _score(self, batch: Batch) -> Float32 | None:
        """None where the large engine is away."""
        started_ns = self.clock()
        ticket = self.breaker.ask(started_ns)
        if not ticket:
            return None
        score = None
        try:
            score = (await self.member.inference.infer(batch.slot))[: len(batch.rows)]
        except Exception:  # whatever it raises, the small engine's answers stand
            return None
        finally:
            ended_ns = self.clock()
            self.large_run_ns += ended_ns - started_ns
            self.breaker.report(ticket, started_ns, ended_ns, failed=score is None)
        return score
