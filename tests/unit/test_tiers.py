"""The large tier beside everything else, what is told of it, and drift of the score as a reason to go back."""

import asyncio
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.control.patrol import Patrol
from fraudgate.drift.reference import SCORE, Bins
from fraudgate.drift.watch import DriftWatch, FeatureDrift
from fraudgate.engines.fleet import LARGE_SOUND_NS, PROBATION_NS, SCORES_MIN, Fleet, Gate, Large
from fraudgate.engines.report import FleetReport
from fraudgate.engines.routes import Tier
from fraudgate.errors import EngineFailed
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.ops.metrics import Metrics
from fraudgate.testing import FAKE_SCHEMA
from fraudgate.transaction import Fallback
from tests.unit.test_fleet import GATE, FakeEngine, Yard, amount_over_1000, promoted

LOW, HIGH = 0.01, 0.6


class Tiered(Yard):
    """A yard with a large engine, m/large of edition 2, that gives 0.9 to every row."""

    def __init__(self, ns_max: int = SECOND_NS) -> None:
        super().__init__()
        self.large = FakeEngine("large", lambda features: np.full(BATCH_ROWS_MAX, 0.9, np.float32))
        loaded = self.loaded(self.large)
        self.tier = Tier(loaded.member, LOW, HIGH, ns_max, self.bench.clock)
        live, clock = self.fleet.live, self.bench.clock
        self.fleet = Fleet(live, self.serve, clock, self.events.append, large=Large(loaded, self.tier))
        self.serve(live, (self.tier,))

    def within(self, rows: int) -> Any:
        """Which of the first rows the small engine scores within the band."""
        amounts = [self.transaction(number).amount_minor / 100 for number in range(rows)]
        score = amount_over_1000(np.array([amounts], np.float32).T)
        return (score >= LOW) & (score <= HIGH)


def metrics(fleet: Fleet) -> dict[tuple[str, ...], float]:
    """Every sample about engines, by its name and labels."""
    _, body = Metrics(Recorder(), Counters(), {"version": "1"}, fleet=fleet).render()
    samples = (sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples)
    wanted = ("model", "trial", "shadow", "tier", "build")
    return {
        (sample.name.removeprefix("fraudgate_"), *sample.labels.values()): sample.value
        for sample in samples
        if sample.name.split("_")[1] in wanted
    }


# -- the tier beside a trial -------------------------------------------------------------------------------------------


def test_an_engine_on_trial_is_compared_with_the_live_one_and_its_scores_have_tiers_too() -> None:
    yard = Tiered()
    yard.fleet.promote(yard.loaded(FakeEngine("2")), (100,), Gate(rows_min=128, ns_min=0))
    answers = yard.send(4)
    within = yard.within(len(answers))
    assert 0 < within.sum() < len(within)
    assert yard.fleet.live.name == "m/2", "the large engine's scores would have sent it away"
    assert (answers["edition"] == np.where(within, 2, 3)).all()
    assert (answers["score"][within] == np.float32(0.9)).all()
    assert set(yard.send()["edition"].tolist()) == {2, 3}, "the tier stays after the swap"


def test_the_drift_watch_sees_the_live_engines_own_scores() -> None:
    yard, own = Tiered(), Yard()
    for each in (yard, own):
        each.bench.pipeline._drift = DriftWatch(FAKE_SCHEMA.names, window_rows=1_000, reference_rows=64)
        each.send(40)
    one, other = (each.bench.pipeline._drift.report().features for each in (yard, own))
    assert one == other != ()


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ns_max", [SECOND_NS, -1])
def test_every_scored_row_belongs_to_one_tier_and_the_cost_is_time_over_rows(ns_max: int) -> None:
    yard = Tiered(ns_max)
    yard.send(8)
    rows, within = 8 * BATCH_ROWS_MAX, int(yard.within(8 * BATCH_ROWS_MAX).sum())
    tier = FleetReport.of(yard.fleet).tier
    assert tier is not None
    large = within if ns_max > 0 else 0
    assert (tier.small_rows, tier.large_rows, tier.pressed_rows) == (rows - within, large, within - large)
    assert (tier.large_share, tier.pressed_share) == (large / rows, (within - large) / rows)
    assert tier.small_decision_ns == tier.small_run_ns / (rows - large) > 0
    assert tier.large_decision_ns == (tier.large_run_ns / large if large else 0)
    told = metrics(yard.fleet)
    assert [told["tier_rows_total", name] for name in ("small", "large", "pressed")] == [
        rows - within,
        large,
        within - large,
    ]
    assert told["tier_run_seconds_total", "small"] == tier.small_run_ns / 1e9
    assert told["tier_decision_seconds", "large"] == tier.large_decision_ns / 1e9


@pytest.mark.parametrize("failure", [EngineFailed("gone"), ZeroDivisionError("ours"), MemoryError()])
def test_whatever_the_large_engine_raises_the_small_ones_answers_stand(failure: Exception) -> None:
    yard, alone = Tiered(), Yard()
    yard.large.failure = failure
    answers, expected = yard.send(4), alone.send(4)
    for field in ("decision", "score", "scored", "edition", "rules"):
        assert (answers[field] == expected[field]).all(), field
    within = yard.within(len(answers))
    assert (answers["fallback"] == np.where(within, Fallback.SMALL_MODEL, Fallback.NONE)).all()
    assert yard.tier.pressed == within.sum() > 0


def test_rows_without_a_score_belong_to_no_tier() -> None:
    yard = Tiered()
    yard.first.failure = EngineFailed("gone")
    assert set(yard.send()["fallback"].tolist()) == {Fallback.RULES_ONLY}
    assert (yard.tier.small, yard.tier.large, yard.tier.pressed) == (0, 0, 0)


def test_the_metrics_follow_what_is_live_and_on_trial() -> None:
    yard = Yard()
    assert metrics(yard.fleet) == {
        ("build_info", "m/1", "1"): 1,
        ("model_info", "m/1", "live"): 1,
        ("model_rollbacks_total",): 0,
        ("shadow_skipped_total",): 0,
    }
    yard.fleet.promote(yard.loaded(FakeEngine("2")), (25, 100), GATE)
    yard.send()
    told = metrics(yard.fleet)
    assert told["model_info", "m/2", "canary"] == 1
    assert (told["trial_rows", "m/2"], told["trial_share_percent", "m/2"]) == (BATCH_ROWS_MAX, 25)
    assert (told["trial_flips", "m/2"], told["trial_difference_mean", "m/2"]) == (0, 0)
    yard.send(4)
    told = metrics(yard.fleet)
    assert told["build_info", "m/2", "1"] == told["model_info", "m/2", "live"] == told["model_info", "m/1", "previous"]
    assert ("trial_rows", "m/2") not in told
    yard.fleet.rollback("by hand")
    assert metrics(yard.fleet)["model_rollbacks_total",] == 1


# -- the patrol and the large engine -----------------------------------------------------------------------------------


def test_a_large_engine_with_a_problem_is_dropped_and_its_rows_stay_with_the_small_one() -> None:
    yard = Tiered()
    yard.walk()
    assert yard.fleet.state_of("m/large") == "tier"
    yard.large.score = lambda features: np.full(BATCH_ROWS_MAX, 0.8, np.float32)
    yard.walk()
    yard.walk()
    assert [model for model, _ in yard.told()] == ["m/large"], "said once"
    assert "golden rows have other scores" in yard.told()[0][1]
    answers = yard.send()
    assert set(answers["edition"].tolist()) == {1}
    within = yard.within(len(answers))
    assert (answers["fallback"] == np.where(within, Fallback.SMALL_MODEL, Fallback.NONE)).all()
    assert metrics(yard.fleet)["model_info", "m/large", "dropped"] == 1
    assert (yard.fleet.live.name, yard.fleet.rollbacks) == ("m/1", 0)


def test_a_large_engine_that_is_sound_for_long_enough_is_asked_again() -> None:
    yard = Tiered(ns_max=100 * SECOND_NS)
    for failure in (EngineFailed("lost"), None, EngineFailed("lost"), None):
        yard.large.failure = failure
        yard.walk()
        yard.bench.clock.advance(LARGE_SOUND_NS // 2)
        assert yard.tier.dropped
    yard.walk()
    assert yard.tier.dropped
    yard.bench.clock.advance(LARGE_SOUND_NS // 2)
    yard.walk()
    assert not yard.tier.dropped
    assert [what.partition(",")[0] for _, what in yard.told()] == ["dropped", "has been sound for 10 s"]
    assert 2 in yard.send()["edition"].tolist()


def test_a_problem_without_an_engine_to_go_back_to_is_said_once_and_again_when_it_comes_back() -> None:
    yard = Yard()
    for failure in (EngineFailed("lost"), EngineFailed("still lost"), None, EngineFailed("lost again")):
        yard.first.failure = failure
        yard.walk()
    assert [what.rpartition(": ")[2] for _, what in yard.told()] == ["lost", "lost again"]


# -- drift of the score ------------------------------------------------------------------------------------------------


class FakeDrift:
    """A drift watch whose verdict on the score is given."""

    def __init__(self, verdict: Any) -> None:
        self.given = FeatureDrift(SCORE, 0.25, 0.5, 6_000, verdict)
        self.asked = 0

    def score(self) -> FeatureDrift:
        self.asked += 1
        return self.given


def walk(yard: Yard, drift: FakeDrift) -> None:
    asyncio.run(Patrol(yard.fleet, Counters(), drift).walk())  # type: ignore[arg-type]  # only ``score`` is asked


def test_scores_that_drift_after_a_promotion_bring_the_engine_before_it_back() -> None:
    yard, _ = promoted()
    walk(yard, FakeDrift("steady"))
    assert yard.fleet.live.name == "m/2"
    walk(yard, FakeDrift("drifted"))
    assert yard.fleet.live.name == "m/1"
    assert yard.told()[-2] == ("m/2", "rolled back: its scores have drifted: PSI 0.25, KS 0.50 over 6,000 rows")


def test_drift_is_asked_for_on_probation_only() -> None:
    drift, yard = FakeDrift("drifted"), Yard()
    walk(yard, drift)
    yard, _ = promoted()
    yard.bench.clock.advance(PROBATION_NS)
    walk(yard, drift)
    assert (drift.asked, yard.fleet.live.name) == (0, "m/2")
    yard.fleet.rollback("by hand")
    walk(yard, drift)
    assert (drift.asked, yard.fleet.live.name) == (0, "m/1"), "there is none to go back to"


def test_an_engine_without_a_published_reference_is_held_to_the_scores_of_its_trial() -> None:
    for batches, published in (
        (SCORES_MIN // BATCH_ROWS_MAX, None),
        (40, None),
        (40, Bins.of(SCORE, np.ones(9, "f4"))),
    ):
        yard = Yard()
        loaded = yard.loaded(FakeEngine("2"))
        loaded.scores = published
        yard.fleet.promote(loaded, (100,), Gate(batches * BATCH_ROWS_MAX, 0))
        scores = yard.send(batches)["score"]
        assert yard.fleet.live is loaded
        if published is not None or len(scores) < SCORES_MIN:
            assert loaded.scores is published
        else:
            made = loaded.scores
            assert made is not None
            assert (made.name, made.counts.tolist()) == (SCORE, Bins.of(SCORE, scores).counts.tolist())
