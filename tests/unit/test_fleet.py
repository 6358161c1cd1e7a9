"""The fleet: shadow, canary, promotion and the way back, over a real pipeline on fake engines, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fraudgate.engines.base import EngineInfo
from fraudgate.engines.fleet import Event, Fleet, Gate, Loaded
from fraudgate.engines.loading import Opened, score_bits
from fraudgate.engines.placement import InlineEngine
from fraudgate.engines.repository import Thresholds
from fraudgate.engines.routes import Member, Tier
from fraudgate.engines.trial import chosen
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX, MILLISECOND_NS, SECOND_NS
from fraudgate.pipeline import Live
from fraudgate.tensors import Slab
from fraudgate.testing import run
from fraudgate.transaction import Answers, Fallback, Float32
from tests.unit.pipelines import START_NS, THRESHOLDS, Bench
from tests.unit.transactions import batch_of, transaction

Score = Callable[[Float32], Float32]


def amount_over_1000(features: Float32) -> Float32:
    """A score that differs from row to row: the amount in units, 0..1000."""
    return np.clip(features[:, 0] / 1_000, 0, 1).astype(np.float32)


@dataclass
class FakeEngine:
    """Scores slabs by a function that a test may replace."""

    version: str
    score: Score = amount_over_1000
    failure: Exception | None = None
    features: int = 2
    run_ns: int = 20_000
    slabs: list[Slab] = field(default_factory=list)

    @property
    def info(self) -> EngineInfo:
        thresholds = Thresholds(THRESHOLDS.review, THRESHOLDS.decline)
        return EngineInfo("m", self.version, "d" * 64, "int8", "f" * 64, thresholds, "cpu", "avx2", "1", True)

    def bind(self, slabs: Any) -> None:
        self.slabs = list(slabs)

    def run(self, slot: int) -> Float32:
        if self.failure is not None:
            raise self.failure
        return self.score(self.slabs[slot].array)


class Yard:
    """A pipeline whose engines a fleet changes."""

    def __init__(self) -> None:
        self.bench = Bench(budget_ns=0)
        self.events: list[Event] = []
        self.editions = 0
        self.first = FakeEngine("1")
        live = self.loaded(self.first)
        self.fleet = Fleet(live, self.serve, self.bench.clock, self.events.append)
        self.serve(live, ())
        self.sent = 0

    def loaded(self, engine: FakeEngine) -> Loaded:
        golden = Slab(2)
        golden.pack(np.column_stack((np.linspace(0, 900, BATCH_ROWS_MAX), np.zeros(BATCH_ROWS_MAX))))
        engine.bind([*self.bench.slabs, golden])
        slot = len(self.bench.slabs)
        opened = Opened(engine, InlineEngine(engine), slot, score_bits(engine.run(slot)))
        self.editions += 1
        return Loaded(opened, Member(opened.inference, THRESHOLDS, self.editions))

    def serve(self, loaded: Loaded, routes: tuple[Any, ...]) -> None:
        member = loaded.member
        self.bench.pipeline.live = Live(member.inference, member.thresholds, self.bench.rules, member.edition, routes)

    def send(self, batches: int = 1, rows: int = BATCH_ROWS_MAX) -> Answers:
        """The answers of so many batches, each row another customer and amount."""
        answers = []
        for _ in range(batches):
            made = [self.transaction(self.sent + row) for row in range(rows)]
            self.sent += rows
            answers.append(run(self.bench.clock, self.bench.pipeline.score(batch_of(made, START_NS))))
        return np.concatenate(answers)

    @staticmethod
    def transaction(number: int) -> Any:
        amount_minor = int(np.random.default_rng(number).random() ** 6 * 100_000)
        return transaction(transaction_id=f"tx-{number}", customer_id=f"c-{number}", amount_minor=amount_minor)

    def walk(self, unusable: bool = False) -> None:
        run(self.bench.clock, self.fleet.watch(unusable))

    def told(self) -> list[tuple[str, str]]:
        return [(event.model, event.what) for event in self.events]


GATE = Gate(rows_min=64, ns_min=0)


# -- the canary --------------------------------------------------------------------------------------------------------


def test_a_good_engine_goes_up_step_by_step_and_becomes_live() -> None:
    yard = Yard()
    yard.fleet.promote(yard.loaded(FakeEngine("2")), (5, 25, 50, 100), GATE)
    states = [yard.fleet.state_of("m/2")]
    while yard.fleet.live.name == "m/1":
        yard.send()
        if yard.fleet.state_of("m/2") != states[-1]:
            states.append(yard.fleet.state_of("m/2"))
    assert states == ["canary 5 %", "canary 25 %", "canary 50 %", "canary 100 %", "live"]
    assert yard.sent == 4 * GATE.rows_min
    assert (yard.fleet.state_of("m/1"), yard.fleet.previous is not None) == ("previous", True)
    assert set(yard.send()["edition"].tolist()) == {2}
    assert yard.bench.pipeline.live.routes == (), "one engine again"


def test_a_canary_decides_for_the_chosen_customers_only() -> None:
    yard = Yard()
    yard.fleet.promote(
        yard.loaded(FakeEngine("2", lambda features: amount_over_1000(features) * np.float32(0.999))), (25, 100)
    )
    answers = yard.send(4)
    mine = chosen([f"c-{number}" for number in range(len(answers))], 25)
    assert 0 < mine.sum() < len(mine)
    assert (answers["edition"] == np.where(mine, 2, 1)).all()
    amounts = [yard.transaction(number).amount_minor / 100 for number in range(len(answers))]
    first = amount_over_1000(np.array([amounts, amounts], np.float32).T)
    assert (answers["score"] == np.where(mine, first * np.float32(0.999), first)).all()


def test_time_holds_a_step_back_too() -> None:
    yard = Yard()
    yard.fleet.promote(yard.loaded(FakeEngine("2")), (5, 100), Gate(rows_min=1, ns_min=SECOND_NS))
    yard.send(20)
    assert yard.fleet.state_of("m/2") == "canary 5 %"
    yard.bench.clock.advance(SECOND_NS)
    yard.send()
    assert yard.fleet.state_of("m/2") == "canary 100 %"


@pytest.mark.parametrize("failure", [EngineFailed("gone"), ZeroDivisionError("ours")])
def test_a_canary_that_fails_decides_nothing_and_is_gone(failure: Exception) -> None:
    yard = Yard()
    engine = FakeEngine("2")
    yard.fleet.promote(yard.loaded(engine), (100,), GATE)
    engine.failure = failure
    answers = yard.send()
    assert (set(answers["edition"].tolist()), answers["scored"].all()) == ({1}, True)
    assert yard.fleet.state_of("m/2") == ""
    assert yard.told()[-1] == ("m/2", "rolled back: it failed on 1 batches")


BAD: dict[str, Score] = {
    "constant": lambda features: np.full(BATCH_ROWS_MAX, 0.01, np.float32),
    "not a number": lambda features: np.full(BATCH_ROWS_MAX, np.nan, np.float32),
    "over one": lambda features: np.full(BATCH_ROWS_MAX, 1.5, np.float32),
    "the other way round": lambda features: 1 - amount_over_1000(features),
    "shifted": lambda features: np.minimum(amount_over_1000(features) + np.float32(0.1), 1),
    "by slot": lambda features: np.linspace(0, 0.4, BATCH_ROWS_MAX, dtype=np.float32),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_engine_decides_for_a_hundred_rows_at_most(kind: str) -> None:
    yard = Yard()
    engine = FakeEngine("2")
    yard.fleet.promote(yard.loaded(engine), (100,), GATE)
    engine.score = BAD[kind]  # it was sound when it was loaded
    answers = yard.send(8)
    assert int((answers["edition"] == 2).sum()) <= 100
    assert yard.fleet.live.name == "m/1"
    assert yard.fleet.state_of("m/2") == ""
    assert yard.fleet.rollbacks == 1
    assert set(yard.send()["edition"].tolist()) == {1}


# -- the way back ------------------------------------------------------------------------------------------------------


def promoted() -> tuple[Yard, FakeEngine]:
    """A yard whose second engine is live."""
    yard, engine = Yard(), FakeEngine("2")
    yard.fleet.promote(yard.loaded(engine), (100,), GATE)
    yard.send(2)
    assert yard.fleet.live.name == "m/2"
    return yard, engine


def test_by_hand_the_engine_before_it_is_live_with_the_next_batch() -> None:
    yard, _ = promoted()
    assert yard.fleet.rollback("by hand").name == "m/1"
    assert set(yard.send()["edition"].tolist()) == {1}
    assert yard.told()[-2:] == [("m/2", "rolled back: by hand"), ("m/1", "live again")]
    with pytest.raises(EngineRefused, match="no engine was live before"):
        yard.fleet.rollback("again")


def test_a_rollback_during_a_trial_ends_the_trial() -> None:
    yard = Yard()
    yard.fleet.promote(yard.loaded(FakeEngine("2")))
    assert yard.fleet.rollback("by hand").name == "m/1"
    assert yard.fleet.state_of("m/2") == ""


def test_golden_rows_that_move_bring_the_engine_before_it_back() -> None:
    yard, engine = promoted()
    yard.walk()
    assert yard.fleet.live.name == "m/2"
    engine.score = lambda features: amount_over_1000(features) * np.float32(0.9999)
    yard.walk()
    assert yard.fleet.live.name == "m/1"
    assert "golden rows have other scores" in yard.told()[-2][1]


def test_an_engine_that_fails_brings_the_one_before_it_back() -> None:
    yard, engine = promoted()
    engine.failure = EngineFailed("device lost")
    assert set(yard.send()["fallback"].tolist()) == {Fallback.RULES_ONLY}
    yard.walk()
    assert yard.fleet.live.name == "m/1"
    assert not (yard.send()["fallback"] == Fallback.RULES_ONLY).any()


def test_an_engine_that_raises_what_it_should_not_goes_too() -> None:
    yard, engine = promoted()
    engine.failure = ZeroDivisionError()
    yard.walk()
    assert yard.fleet.live.name == "m/1"
    assert yard.told()[-2] == ("m/2", "rolled back: ZeroDivisionError()")


def test_unusable_scores_bring_the_engine_before_it_back() -> None:
    yard, _ = promoted()
    yard.walk(unusable=True)
    assert yard.fleet.live.name == "m/1"


@pytest.mark.parametrize(("took_ns", "runs"), [(2 * MILLISECOND_NS, 5), (60 * MILLISECOND_NS, 2), (SECOND_NS, 2)])
def test_an_engine_that_has_become_slow_brings_the_one_before_it_back(took_ns: int, runs: int) -> None:
    yard, engine = promoted()

    def slow(features: Float32) -> Float32:
        yard.bench.clock.advance(took_ns)
        return amount_over_1000(features)

    engine.score = slow
    for _ in range(runs - 1):
        yard.walk()
    engine.score = amount_over_1000
    yard.walk()
    engine.score = slow
    for _ in range(runs):
        assert yard.fleet.live.name == "m/2", "a few slow runs are the machine's, more in a row are the engine's"
        yard.walk()
    assert yard.fleet.live.name == "m/1"


def test_without_an_engine_to_go_back_to_it_is_said_loudly_and_goes_on() -> None:
    yard = Yard()
    yard.first.failure = EngineFailed("device lost")
    yard.walk()
    assert yard.fleet.live.name == "m/1"
    assert "there is no engine to go back to: device lost" in yard.told()[-1][1]


def test_a_problem_of_the_live_engine_ends_the_trial_beside_it() -> None:
    yard, engine = promoted()
    yard.fleet.promote(yard.loaded(FakeEngine("3")))
    engine.failure = EngineFailed("device lost")
    yard.walk()
    assert (yard.fleet.live.name, yard.fleet.state_of("m/3")) == ("m/1", "")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [(), (5,), (50, 25, 100), (0, 100), (5, 5, 100), (5, 100, 101)])
def test_stages_rise_to_the_whole(stages: tuple[int, ...]) -> None:
    yard = Yard()
    with pytest.raises(EngineRefused, match="stages must rise"):
        yard.fleet.promote(yard.loaded(FakeEngine("2")), stages)
    assert yard.fleet.state_of_trial() == ""


def test_the_live_engine_is_not_tried_against_itself() -> None:
    yard = Yard()
    with pytest.raises(EngineRefused, match="live already"):
        yard.fleet.promote(yard.loaded(FakeEngine("1")))


# -- tiers -------------------------------------------------------------------------------------------------------------


def tiered(low: float, high: float, ns_max: int = SECOND_NS) -> tuple[Yard, FakeEngine, Tier]:
    yard, large = Yard(), FakeEngine("large", lambda features: np.full(BATCH_ROWS_MAX, 0.9, np.float32))
    tier = Tier(yard.loaded(large).member, low, high, ns_max, yard.bench.clock)
    yard.serve(yard.fleet.live, (tier,))
    return yard, large, tier


def test_scores_within_the_band_are_the_large_engines() -> None:
    yard, _, tier = tiered(0.1, 0.6)
    answers = yard.send(4)
    amounts = [yard.transaction(number).amount_minor / 100 for number in range(len(answers))]
    small = amount_over_1000(np.array([amounts, amounts], np.float32).T)
    within = (small >= 0.1) & (small <= 0.6)
    assert 0 < within.sum() < len(within)
    assert (answers["score"] == np.where(within, np.float32(0.9), small)).all()
    assert (answers["edition"] == np.where(within, 2, 1)).all()
    assert (tier.large, tier.pressed) == (int(within.sum()), 0)
    assert set(answers["fallback"].tolist()) == {Fallback.NONE}


def test_under_pressure_the_small_engine_decides_alone_and_says_so() -> None:
    yard, _, tier = tiered(0.0, 1.0, ns_max=-1)
    answers = yard.send()
    assert set(answers["fallback"].tolist()) == {Fallback.SMALL_MODEL}
    assert (set(answers["edition"].tolist()), tier.large, tier.pressed) == ({1}, 0, BATCH_ROWS_MAX)


@pytest.mark.parametrize("bad", [np.nan, 2.0])
def test_where_the_large_engine_has_no_usable_score_the_small_one_decides(bad: float) -> None:
    yard, large, tier = tiered(0.0, 1.0)
    large.score = lambda features: np.full(BATCH_ROWS_MAX, bad, np.float32)
    answers = yard.send()
    assert answers["scored"].all()
    assert set(answers["fallback"].tolist()) == {Fallback.SMALL_MODEL}
    large.failure = EngineFailed("gone")
    assert set(yard.send()["fallback"].tolist()) == {Fallback.SMALL_MODEL}
    assert tier.pressed == 2 * BATCH_ROWS_MAX


def test_a_score_does_not_depend_on_what_shares_the_batch() -> None:
    alone = [tiered(0.1, 0.6)[0] for _ in range(8)]
    for number, yard in enumerate(alone):
        yard.sent = number
    together = tiered(0.1, 0.6)[0].send(rows=8)
    assert [yard.send(rows=1)["score"][0] for yard in alone] == together["score"].tolist()
