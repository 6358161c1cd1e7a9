"""The degradation ladder on a fake clock: each rung with the one above it taken away, and the way back up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.breaker import BreakerSettings, State
from fraudgate.drift.watch import DriftWatch
from fraudgate.errors import EngineFailed
from fraudgate.features.defaults import Defaults
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.guardrails.decision import UNSCORED
from fraudgate.guardrails.drafts import Head, draft_levels
from fraudgate.guardrails.inputs import inputs_of
from fraudgate.guardrails.static_policy import StaticPolicy
from fraudgate.ladder import LadderReport, LadderSettings
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BUDGET_NS, SECOND_NS
from fraudgate.ops.metrics import Metrics
from fraudgate.testing import FAKE_SCHEMA, FakeInference, FakeStore
from fraudgate.transaction import Answers, Columns, Decision, Fallback, Mark, open_batch
from tests.unit.pipelines import LARGE, Bench, marks, payload, statuses
from tests.unit.transactions import batch_of, numbered, transaction

APPROVE, REVIEW, DECLINE = Decision
SETTINGS = LadderSettings(BreakerSettings(failures_max=2, good_runs=2))


class Store(FakeStore):
    """It fails while it is away, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = 0
        self.take: Callable[[], None] = lambda: None

    def apply_and_gather(self, columns: Columns, rows: Any) -> Any:
        self.asked += 1
        self.take()
        if self.away:
            raise OSError("the store is away")
        return super().apply_and_gather(columns, rows)


class Engine(FakeInference):
    """Likewise; the scores are 0.1 unless told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.take: Callable[[], None] = lambda: None

    async def infer(self, slot: int) -> Any:
        self.take()
        if self.failure is not None:
            self.slots.append(slot)
            raise self.failure
        return await super().infer(slot)


class Stairs(Bench):
    """A bench with a ladder whose dependencies can be taken away."""

    def __init__(self, settings: LadderSettings = SETTINGS, policy: StaticPolicy | None = None) -> None:
        super().__init__(Engine(), Store(), settings=settings, policy=policy)
        self.sent = 0

    def send(self, rows: int = 1, **fields: Any) -> Answers:
        """A batch that has not been sent before."""
        self.sent += rows
        batch = [transaction(transaction_id=f"tx-{self.sent - row}", **fields) for row in range(rows)]
        return self.score(*batch, arrival_ns=self.clock.now_ns)

    def fallbacks(self, batches: int) -> list[int]:
        return [int(self.send()["fallback"][0]) for _ in range(batches)]

    def wait(self, seconds: float = 0.25) -> None:
        self.clock.advance(round(seconds * SECOND_NS))

    def without_rules(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The rule set raises from now on; its rows by batch that asked it."""
        asked: list[int] = []

        def fail(inputs: Any, bits: Any) -> int:
            asked.append(inputs.rows)
            raise ZeroDivisionError("rules")

        monkeypatch.setattr(type(self.rules), "fire", staticmethod(fail))
        return asked

    @property
    def states(self) -> list[str]:
        return [each.state for each in LadderReport.of(self.ladder).breakers]


# -- the store ---------------------------------------------------------------------------------------------------------


def test_without_the_store_the_defaults_decide_and_nothing_is_applied() -> None:
    stairs = Stairs()
    stairs.store.away = True
    rows = [transaction(transaction_id="a", attributes={"risk": 0.9}), transaction(transaction_id="b")]
    twin, bad = transaction(transaction_id="b"), transaction(transaction_id="bad", currency="")
    answers = stairs.score(*rows, twin, bad)
    assert statuses(answers) == ["OK", "OK", "OK", "INVALID_ARGUMENT"]
    assert answers["fallback"].tolist() == [Fallback.DEFAULTED_FEATURES] * 3 + [0]
    assert answers["scored"].tolist() == [True, True, True, False]
    assert answers["decision"].tolist() == [REVIEW, APPROVE, APPROVE, 0], "the rules see the request's own features"
    assert stairs.store.applied == []
    assert (stairs.totals["fraudgate_store_failures_total"], stairs.totals["fraudgate_unapplied_total"]) == (1, 2)
    assert stairs.log.kept[0].features[:2].tolist() == [
        [rows[0].amount_minor / 100, 0.9],
        [rows[1].amount_minor / 100, 0],
    ]
    stairs.store.away = False
    again = stairs.score(*rows)
    assert payload(again) == payload(answers[:2]), "the decision was made and kept"
    assert stairs.store.applied == []


def test_a_store_that_failed_again_and_again_is_not_asked_until_the_wait_is_over() -> None:
    stairs = Stairs()
    stairs.store.away = True
    assert stairs.fallbacks(5) == [Fallback.DEFAULTED_FEATURES] * 5
    assert (stairs.store.asked, stairs.states[0]) == (2, "open")
    stairs.store.away = False
    assert stairs.fallbacks(1) == [Fallback.DEFAULTED_FEATURES], "the wait is not over"
    stairs.wait()
    assert stairs.fallbacks(3) == [Fallback.NONE] * 3
    assert stairs.states == ["closed"] * 4
    assert stairs.totals["fraudgate_unapplied_total"] == 6
    assert len(stairs.store.applied) == 3
    assert [told.partition(":")[0] for told in stairs.told] == ["store open", "store half-open", "store closed"]


def test_a_store_over_its_allowance_was_applied_and_is_given_time() -> None:
    stairs = Stairs()
    stairs.store.take = lambda: stairs.clock.advance(BUDGET_NS)
    assert stairs.fallbacks(3) == [Fallback.NONE, Fallback.NONE, Fallback.DEFAULTED_FEATURES]
    assert len(stairs.store.applied) == 2
    assert "it took 50.0 ms" in stairs.told[0]


def test_drift_does_not_count_defaults() -> None:
    stairs = Stairs()
    drift = stairs.pipeline._drift = DriftWatch(FAKE_SCHEMA.names, window_rows=1_000, reference_rows=1_000)
    stairs.send(2)
    stairs.store.away = True
    stairs.send(3)
    assert drift.report().reference_rows == 2


SCHEMA = FeatureSchema.parse(
    """
    name = "every_kind"
    currency = "EUR"
    [[feature]]
    name = "AMOUNT"
    kind = "amount"
    [[feature]]
    name = "WEEKEND"
    kind = "weekend"
    [[feature]]
    name = "NIGHT"
    kind = "hours"
    from = 22
    to = 6
    [[feature]]
    name = "RISK"
    kind = "attribute"
    attribute = "risk"
    default = 0.5
    [[feature]]
    name = "LIMIT"
    kind = "profile"
    entity = "customer_id"
    default = 7.0
    [[feature]]
    name = "MEAN"
    kind = "window"
    entity = "customer_id"
    aggregate = "mean"
    width = "1d"
    label_delay = "1d"
    empty = 3.0
    """,
    "test_ladder.py",
)


@pytest.mark.parametrize("attributes", [True, False])
def test_defaults_are_what_a_store_that_knows_nothing_gives(attributes: bool) -> None:
    rows = numbered(8)
    for number, row in enumerate(rows):
        row.currency = ("EUR", "USD")[number % 2]
        row.event_time.seconds -= 40_000 * number
        if attributes and number % 3:
            row.attributes["risk"] = number / 8
    columns, chosen = open_batch(batch_of(rows)), [0, 1, 2, 3, 5, 7]
    found, stored = Defaults(SCHEMA).gather(columns, chosen), EmbeddedStore(SCHEMA).apply_and_gather(columns, chosen)
    assert found.values.tolist() == stored.values.tolist()
    assert (found.fallback == Fallback.DEFAULTED_FEATURES).all()


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [EngineFailed("gone"), ValueError("a bug")])
def test_an_engine_that_failed_again_and_again_is_not_asked_until_the_wait_is_over(failure: Exception) -> None:
    stairs = Stairs()
    stairs.inference.failure = failure
    assert stairs.fallbacks(5) == [Fallback.RULES_ONLY] * 5
    assert (len(stairs.inference.slots), stairs.states[2]) == (2, "open")
    answers = stairs.send(amount_minor=100_001)
    assert (answers["decision"].tolist(), answers["rules"].tolist()) == ([DECLINE], [LARGE | marks(Mark.RULES_ONLY)])
    stairs.wait()
    assert stairs.fallbacks(1) == [Fallback.RULES_ONLY], "the probe failed"
    stairs.wait()
    stairs.inference.failure = None
    assert stairs.fallbacks(1) == [Fallback.RULES_ONLY], "the second wait is twice as long"
    stairs.wait()
    assert stairs.fallbacks(3) == [Fallback.NONE] * 3
    assert stairs.ladder.rung == Fallback.NONE
    assert len(stairs.store.applied) == 11, "every one of them counts"


def test_an_engine_over_its_allowance_is_given_time() -> None:
    stairs = Stairs()
    stairs.inference.take = lambda: stairs.clock.advance(BUDGET_NS)
    assert stairs.fallbacks(3) == [Fallback.NONE, Fallback.NONE, Fallback.RULES_ONLY]


def test_scores_of_which_none_is_usable_are_a_failure_and_one_that_is_usable_is_none() -> None:
    stairs = Stairs()
    stairs.inference.script.extend([[np.nan, 0.1], [2.0, 0.1], [np.inf, 0.1], [np.nan, 2.0], [-1.0, np.nan]])
    assert [stairs.send(2)["scored"].tolist() for _ in range(3)] == [[False, True]] * 3
    assert stairs.states[2] == "closed"
    stairs.send(2)
    stairs.send(2)
    assert stairs.states[2] == "open"


def test_another_engine_is_asked_at_once() -> None:
    stairs = Stairs()
    stairs.inference.failure = EngineFailed("gone")
    stairs.fallbacks(3)
    stairs.pipeline.live = replace(stairs.pipeline.live, inference=FakeInference())
    assert stairs.fallbacks(2) == [Fallback.NONE] * 2


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_without_rules_the_policy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    stairs = Stairs()
    with monkeypatch.context() as broken:
        asked = stairs.without_rules(broken)
        first, second, third = (stairs.send() for _ in range(3))
        assert asked == [1, 1]
        assert [each["decision"].tolist() for each in (first, third)] == [[REVIEW]] * 2
        assert [each["fallback"].tolist() for each in (second, third)] == [[Fallback.STATIC_POLICY]] * 2
        assert first["rules"].tolist() == [marks(Mark.RULE_ERROR, Mark.STATIC_POLICY)]
        assert third["rules"].tolist() == [marks(Mark.STATIC_POLICY)], "they were not asked"
        assert third["scored"].all()
    stairs.wait()
    assert stairs.fallbacks(3) == [Fallback.NONE] * 3
    assert stairs.states == ["closed"] * 4


POLICIES = """
policy   currency amount score  decision
review   EUR      1      0.1    review
review   EUR      1      none   review
review   EUR      1      0.9    decline
500      EUR      500    0.1    approve
500      EUR      501    0.1    review
500      USD      1      0.1    review
500      EUR      1      none   approve
500      EUR      1      0.5    review
500      EUR      1      0.9    decline
500      EUR      501    0.9    decline
0        EUR      0      none   approve
0        EUR      1      none   review
"""


@pytest.mark.parametrize("line", POLICIES.strip().splitlines()[1:])
def test_the_policy_approves_what_it_is_told_to_and_hears_the_score(line: str) -> None:
    given, currency, amount, score, decision = line.split()
    policy = StaticPolicy("EUR", None if given == "review" else int(given))
    level = np.array([{"none": UNSCORED, "0.1": 0, "0.5": 1, "0.9": 2}[score]])
    columns = open_batch(batch_of([transaction(currency=currency, amount_minor=int(amount))]))
    inputs = inputs_of(columns, [0], np.zeros((1, 2)), np.zeros(1, np.float32), None)
    scores, fallback = np.zeros(1, np.float32), np.zeros(1, np.uint8)
    decided = draft_levels(level, columns, [0], scores, fallback, Head(1, 0, 0, 0, 0)).answers
    policy.overrule(inputs, decided)
    assert Decision(decided["decision"][0]).name.lower() == decision
    assert decided["fallback"][0] == Fallback.STATIC_POLICY
    bits = int(decided["rules"][0])
    assert bits & marks(Mark.STATIC_POLICY)
    assert not bits & marks(Mark.RULES_ONLY)


def test_without_engine_and_rules_the_policy_decides_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stairs = Stairs(policy=StaticPolicy("EUR", 1_000))
    stairs.inference.failure = EngineFailed("gone")
    stairs.without_rules(monkeypatch)
    small, large = stairs.send(amount_minor=1_000), stairs.send(amount_minor=1_001)
    assert [each["decision"].tolist() for each in (small, large)] == [[APPROVE], [REVIEW]]
    assert not small["scored"].any()
    assert stairs.fallbacks(2) == [Fallback.STATIC_POLICY] * 2
    assert stairs.ladder.rung == Fallback.STATIC_POLICY


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_all_the_way_down_and_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stairs = Stairs()
    assert stairs.fallbacks(1) == [Fallback.NONE]
    stairs.store.away = True
    assert stairs.fallbacks(3) == [Fallback.DEFAULTED_FEATURES] * 3
    stairs.inference.failure = EngineFailed("gone")
    assert stairs.fallbacks(3) == [Fallback.RULES_ONLY] * 3
    with monkeypatch.context() as broken:
        stairs.without_rules(broken)
        assert stairs.fallbacks(3) == [Fallback.STATIC_POLICY] * 3
        assert stairs.states == ["open", "closed", "open", "open"]
    stairs.wait(60)
    assert stairs.fallbacks(1) == [Fallback.RULES_ONLY]
    stairs.inference.failure = None
    stairs.wait(60)
    assert stairs.fallbacks(2) == [Fallback.DEFAULTED_FEATURES] * 2
    stairs.store.away = False
    stairs.wait(60)
    assert stairs.fallbacks(4) == [Fallback.NONE] * 4
    assert stairs.ladder.rung == Fallback.NONE


def test_what_is_told_of_it() -> None:
    stairs = Stairs()
    stairs.store.away = True
    stairs.fallbacks(3)
    report = LadderReport.of(stairs.ladder)
    assert report.rung == "defaulted_features"
    assert report.as_json()["breakers"][0] == {"dependency": "store", "state": "open", "changes": 1, "bad_runs": 2}
    assert [each.dependency for each in report.breakers] == ["store", "large", "engine", "rules"]
    _, body = Metrics(Recorder(), Counters(), {"version": "1"}, ladder=stairs.ladder).render()
    told = {
        (sample.name, sample.labels["dependency"]): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if "dependency" in sample.labels
    }
    assert told["fraudgate_rung", "store"] == State.OPEN == 2
    assert told["fraudgate_rung_changes_total", "store"] == 1
    assert told["fraudgate_bad_runs_total", "store"] == 2
    assert told["fraudgate_rung", "engine"] == 0
