"""A seeded stream of card traffic through batcher, pipeline, windows and a real engine, on a fake clock.

The same arrivals give the same batches and the same answers, bit for bit; and batching, overlap and neighbours change
no decision: every row is answered as if it had been scored alone, one after the other.
"""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from fraudgate.batching.batcher import Batcher, ClosedBatch
from fraudgate.batching.shell import BatchShell
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.placement import InlineEngine
from fraudgate.features.currency import EXPONENTS
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.frontend.codec import request_batch, request_columns
from fraudgate.guardrails.decision import Thresholds
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleSet
from fraudgate.idempotency import IdempotencyTable
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BATCH_ROWS_MAX, DAY_SECONDS, MILLISECOND_NS, SECOND_NS, SLABS
from fraudgate.pipeline import Live, Pipeline
from fraudgate.simulator import simulate
from fraudgate.tensors import Slab
from fraudgate.testing import FakeClock, FakeLog, Kept, run
from fraudgate.transaction import Answers, Fallback, Float32, Status
from fraudgate.v1.scoring_pb2 import Transaction
from fraudgate.validation import Validator
from tests.unit.onnx_graphs import engine_of, int8_graph
from tests.unit.transactions import transaction

SEED = 20_260_101
START_NS = 10**12
FIRST_DAY_NS = 1_522_540_800 * SECOND_NS  # 1 April 2018
SCHEMA = FeatureSchema.named("handbook")
RULES = RuleSet.load(DEFAULT_RULES, SCHEMA.names)
ENGINE: OnnxEngine = engine_of(int8_graph(SEED))
HOW = ("decision", "fallback", "scored", "score", "replayed", "error_field", "edition", "rules", "status")
"""Fields that depend neither on the clock nor on the batch."""


class Arrival(NamedTuple):
    transaction: Transaction
    arrival_ns: int


def traffic() -> list[Arrival]:
    """Some 1,500 payments; among them retries, retries with another payload, late events and invalid rows."""
    random = np.random.default_rng(SEED)
    made: list[Transaction] = []
    for row in simulate(SEED, customers=12, terminals=9, days=70).to_pylist():
        del row["is_fraud"]
        event_time_ns = int(row.pop("event_time").timestamp()) * SECOND_NS
        event_time_ns -= random.choice([0, 0, 0, 5, 3 * DAY_SECONDS], p=[0.3, 0.3, 0.3, 0.08, 0.02]) * SECOND_NS
        made.append(bare(event_time_ns=int(event_time_ns), **row))
        if random.random() < 0.05:
            made.append(made[-random.integers(1, min(len(made), 60) + 1)])
        if random.random() < 0.03:
            made.append(spoiled(made[-1], random))
    gaps_ns = random.exponential(150_000, len(made)) * random.choice([0.02, 1, 4], len(made))
    stamps_ns = START_NS + gaps_ns.cumsum().astype(np.int64)
    return [Arrival(*pair) for pair in zip(made, stamps_ns.tolist(), strict=True)]


def bare(**fields: object) -> Transaction:
    return transaction(card_id="", merchant_id="", device_id="", ip_address="", **fields)


def spoiled(good: Transaction, random: np.random.Generator) -> Transaction:
    """The same transaction_id with another payload, valid or not."""
    bad = Transaction()
    bad.CopyFrom(good)
    match random.integers(3):
        case 0:
            bad.amount_minor += 1
        case 1:
            bad.amount_minor = -1
        case 2:
            bad.transaction_id, bad.customer_id = "\n", ""
    return bad


class SlowEngine:
    """An engine that takes a seeded while, so that batches overlap and pile up behind it."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)

    async def infer(self, slot: int) -> Float32:
        await asyncio.sleep(float(self._random.choice([0.0, 0.001, 0.004, 0.012])))
        return ENGINE.run(slot)


@dataclass
class Service:
    """Everything between the front end and the log."""

    rows_max: int = BATCH_ROWS_MAX
    slow: bool = False
    clock: FakeClock = field(default_factory=lambda: FakeClock(START_NS))
    closed: list[ClosedBatch[Arrival]] = field(default_factory=list)

    def __post_init__(self) -> None:
        slabs = [Slab(len(SCHEMA.names)) for _ in range(SLABS)]
        ENGINE.bind(slabs)
        self.log, self.counters = FakeLog(), Counters()
        self.batcher: Batcher[Arrival] = Batcher(5 * MILLISECOND_NS, self.rows_max)
        inference = SlowEngine() if self.slow else InlineEngine(ENGINE)
        self.pipeline = Pipeline(
            live=Live(inference, Thresholds(0.4, 0.6), RULES, 1),
            store=EmbeddedStore(SCHEMA, coverage_start_ns=FIRST_DAY_NS),
            slabs=slabs,
            validator=Validator(EXPONENTS.keys()),
            idempotency=IdempotencyTable(8_192),
            recorder=Recorder(),
            counters=self.counters,
            log=self.log,
            clock=self.clock,
            event_time_ns_max=lambda: 2**62,
            budget_ns=0,
        )

    async def score(self, closed: ClosedBatch[Arrival]) -> None:
        arrivals = [entry.arrival_ns for entry in closed.entries]
        columns = request_columns([entry.transaction for entry in closed.entries], arrivals, [0] * len(arrivals))
        self.closed.append(closed)
        await self.pipeline.score(request_batch(columns), closed.closed_ns, closed.idle_ns, columns)

    async def replay(self, arrivals: list[Arrival]) -> None:
        """Each batch at the instant it closes; an engine that takes no time."""
        for arrival in arrivals:
            await self.take_up_to(arrival.arrival_ns)
            assert self.batcher.add(arrival, arrival.arrival_ns)
        await self.take_up_to(arrivals[-1].arrival_ns + self.batcher.gate_ns)

    async def take_up_to(self, now_ns: int) -> None:
        while (deadline_ns := self.batcher.next_deadline_ns()) is not None and deadline_ns <= now_ns:
            self.clock.now_ns = max(deadline_ns, self.clock.now_ns)
            closed = self.batcher.poll(self.clock.now_ns)
            assert closed is not None
            await self.score(closed)
        self.clock.now_ns = now_ns

    async def serve(self, arrivals: list[Arrival]) -> list[Arrival]:
        """Through the shell, in virtual time. Returns the arrivals with the stamps that the clock gave them."""
        shell = BatchShell(self.batcher, self.score, self.clock)
        stamped = []
        for arrival in arrivals:
            if (wait_ns := arrival.arrival_ns - self.clock.now_ns) > 0:
                await asyncio.sleep(wait_ns / SECOND_NS)
            stamped.append(arrival._replace(arrival_ns=self.clock.now_ns))
            assert shell.submit(stamped[-1], self.clock.now_ns)
        await shell.drain()
        return stamped

    @property
    def kept(self) -> list[Kept]:
        return self.log.kept

    @property
    def answers(self) -> Answers:
        return np.concatenate([kept.answers for kept in self.kept])

    @property
    def features(self) -> np.ndarray:
        return np.concatenate([kept.features for kept in self.kept])

    @property
    def composition(self) -> list[list[int]]:
        """The arrival stamps of each batch."""
        return [[entry.arrival_ns for entry in closed.entries] for closed in self.closed]


def replayed(arrivals: list[Arrival], rows_max: int = BATCH_ROWS_MAX) -> Service:
    service = Service(rows_max)
    run(service.clock, service.replay(arrivals))
    return service


@pytest.fixture(scope="module")
def arrivals() -> list[Arrival]:
    return traffic()


@pytest.fixture(scope="module")
def batched(arrivals: list[Arrival]) -> Service:
    return replayed(arrivals)


def test_the_stream_is_worth_replaying(arrivals: list[Arrival], batched: Service) -> None:
    answers = batched.answers
    assert len(answers) == len(arrivals) > 1_500
    sizes = [len(kept.answers) for kept in batched.kept]
    assert max(sizes) == BATCH_ROWS_MAX
    assert min(sizes) < 8
    statuses = {Status(status) for status in answers["status"]}
    assert statuses == {Status.OK, Status.INVALID_ARGUMENT, Status.ALREADY_EXISTS}
    assert {*answers["decision"]} == {0, 1, 2, 3}
    assert {Fallback.STALE_FEATURES, Fallback.NONE} <= {*answers["fallback"]}
    assert answers["replayed"].sum() > 50
    assert len({*answers["score"].tolist()}) > 500
    assert len({*answers["rules"].tolist()}) > 4


def test_the_same_arrivals_give_the_same_batches_and_answers(arrivals: list[Arrival], batched: Service) -> None:
    again = replayed(arrivals)
    assert again.composition == batched.composition
    assert again.answers.tobytes() == batched.answers.tobytes()
    assert again.features.tobytes() == batched.features.tobytes()
    assert [kept.closed_ns for kept in again.kept] == [kept.closed_ns for kept in batched.kept]
    assert again.counters.copy() == batched.counters.copy()


@pytest.mark.parametrize("rows_max", [1, 5])
def test_every_row_is_answered_as_if_it_were_alone(arrivals: list[Arrival], batched: Service, rows_max: int) -> None:
    alone = replayed(arrivals, rows_max)
    assert max(len(kept.answers) for kept in alone.kept) == rows_max
    assert_same_decisions(alone, batched)
    assert alone.answers["sequence"].tolist() == batched.answers["sequence"].tolist()


@pytest.fixture(scope="module")
def overlapped(arrivals: list[Arrival]) -> tuple[Service, Service]:
    """Through the shell with an engine that lags: batches wait, and two are in flight. And its replay."""
    service = Service(slow=True)
    stamped = run(service.clock, service.serve(arrivals))
    return service, replayed(stamped)


def test_a_lagging_engine_does_not_move_boundaries(overlapped: tuple[Service, Service]) -> None:
    served, again = overlapped
    assert served.composition == again.composition
    instants = [[(closed.closed_ns, closed.idle_ns) for closed in service.closed[:-1]] for service in overlapped]
    assert instants[0] == instants[1], "the last batch is closed by the drain"
    waited = [kept.answers["taken_up_ns"].max() - kept.closed_ns for kept in served.kept]
    assert max(waited) > 2 * MILLISECOND_NS, "some batches had to wait"


def test_overlapping_batches_change_no_decision(overlapped: tuple[Service, Service], batched: Service) -> None:
    served, again = overlapped
    assert_same_decisions(served, again)
    assert_same_decisions(served, batched)


def test_overlapping_batches_are_numbered_in_their_order(overlapped: tuple[Service, Service]) -> None:
    served, again = overlapped
    assert served.answers["sequence"].tolist() == again.answers["sequence"].tolist()


def assert_same_decisions(one: Service, other: Service) -> None:
    for name in HOW:
        left, right = one.answers[name], other.answers[name]
        assert left.tobytes() == right.tobytes(), f"{name} differs first in row {np.flatnonzero(left != right)[:1]}"
    assert one.features.tobytes() == other.features.tobytes()
