"""A pipeline on public fakes, scored in virtual time: one that would wait for ever raises instead."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fraudgate.drift.watch import DriftWatch
from fraudgate.features.currency import EXPONENTS
from fraudgate.guardrails.decision import Thresholds
from fraudgate.guardrails.rules import RuleSet
from fraudgate.guardrails.static_policy import StaticPolicy
from fraudgate.idempotency import IdempotencyTable
from fraudgate.ladder import Ladder, LadderSettings
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BUDGET_NS, SLABS
from fraudgate.pipeline import Inference, Live, Pipeline
from fraudgate.tensors import Slab
from fraudgate.testing import FAKE_SCHEMA, FakeClock, FakeInference, FakeLog, FakeStore, run
from fraudgate.transaction import Answers, Float32, Mark, Status
from fraudgate.v1.scoring_pb2 import Transaction
from fraudgate.validation import Validator
from tests.unit.transactions import EVENT_TIME_NS, batch_of

RULES = """
- {id: large, action: block, when: amount_minor > 100000, code: LARGE, text: Large.}
- {id: trusted, action: allow, when: has(attributes.trusted) && score < 0.95, code: TRUSTED, text: Trusted.}
- {id: risky, action: review, when: features.RISK >= 0.8, code: RISKY, text: Risky.}
- {id: foreign, action: review, when: currency == "USD" && customer_id == "c-9", code: FOREIGN, text: Foreign.}
- {id: shaky, action: review, when: amount_minor == 777 && attributes.absent > 1.0, code: SHAKY, text: Shaky.}
"""
LARGE, TRUSTED, RISKY, FOREIGN, SHAKY = (1 << bit for bit in range(5))
THRESHOLDS = Thresholds(review=0.5, decline=0.875)
START_NS = 1_000_000_000


def marks(*given: Mark) -> int:
    return sum(1 << mark for mark in given)


@dataclass
class Bench:
    """A pipeline whose clock moves by one nanosecond at each reading, so that every stamp differs."""

    inference: Any = field(default_factory=FakeInference)
    store: Any = field(default_factory=FakeStore)
    idempotency: IdempotencyTable | None = field(default_factory=lambda: IdempotencyTable(2_048))
    budget_ns: int = BUDGET_NS
    clock: FakeClock = field(default_factory=lambda: FakeClock(START_NS, step_ns=1))
    drift: DriftWatch | None = None
    settings: LadderSettings | None = None
    policy: StaticPolicy | None = None

    def __post_init__(self) -> None:
        self.rules = RuleSet.parse(RULES, "rules.yaml", FAKE_SCHEMA.names)
        self.recorder, self.counters, self.log = Recorder(), Counters(), FakeLog()
        self.told: list[str] = []
        self.ladder = Ladder(
            FAKE_SCHEMA, self.counters, self.clock, self.settings, self.policy, lambda change: self.told.append(change)
        )
        self.slabs = [Slab(len(FAKE_SCHEMA.names)) for _ in range(SLABS)]
        self.pipeline = Pipeline(
            live=self.live(self.inference),
            store=self.store,
            slabs=self.slabs,
            validator=Validator(EXPONENTS.keys()),
            idempotency=self.idempotency,
            recorder=self.recorder,
            counters=self.counters,
            log=self.log,
            clock=self.clock,
            event_time_ns_max=lambda: EVENT_TIME_NS,
            budget_ns=self.budget_ns,
            drift=self.drift,
            ladder=self.ladder,
        )

    def live(self, inference: Inference, edition: int = 1, thresholds: Thresholds = THRESHOLDS) -> Live:
        return Live(inference, thresholds, self.rules, edition)

    def score(
        self, *transactions: Transaction, deadlines_ns: Sequence[int] = (), arrival_ns: int = START_NS - 100
    ) -> Answers:
        """Score one batch that arrived 100 ns before the clock's start."""
        return run(self.clock, self.pipeline.score(batch_of(transactions, arrival_ns, deadlines_ns)))

    @property
    def refusals(self) -> dict[str, int]:
        return {reason: count for reason, count in self.counters.copy().refusals.items() if count}

    @property
    def totals(self) -> dict[str, int]:
        return {name: count for name, count in self.counters.copy().totals.items() if count}

    @property
    def decided(self) -> int:
        """Decisions counted."""
        return sum(self.counters.copy().decisions.values())


def statuses(answers: Answers) -> list[str]:
    return [Status(status).name for status in answers["status"]]


def payload(answers: Answers) -> list[tuple[Any, ...]]:
    """What a caller learns of each row, ``replayed`` aside."""
    return [row.tolist() for row in answers[[name for name in answers.dtype.names or () if name != "replayed"]]]


def bits_of(scores: Float32) -> list[int]:
    return [int(bits) for bits in np.ascontiguousarray(scores).view(np.uint32)]
