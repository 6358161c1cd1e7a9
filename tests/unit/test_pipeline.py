"""The way of a batch, on fakes: who is decided and who is not, and what survives when something fails on the way."""

import asyncio
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from fraudgate.drift.watch import DriftWatch
from fraudgate.engines.placement import InlineEngine
from fraudgate.errors import EngineFailed
from fraudgate.guardrails.decision import Thresholds
from fraudgate.idempotency import IdempotencyTable, payload_digests
from fraudgate.limits import BATCH_ROWS_MAX, BUDGET_NS
from fraudgate.pipeline import CANCELLED_NS
from fraudgate.tensors import Slab
from fraudgate.testing import FAKE_SCHEMA, FakeInference, run
from fraudgate.transaction import Answers, Decision, Fallback, Mark, open_batch
from fraudgate.v1.scoring_pb2 import Transaction
from fraudgate.validation import PROBLEMS
from tests.unit.onnx_graphs import engine_of, fp32_graph
from tests.unit.pipelines import FOREIGN, LARGE, RISKY, START_NS, TRUSTED, Bench, bits_of, marks, payload, statuses
from tests.unit.transactions import EVENT_TIME_NS, batch_of, numbered, transaction

STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")
APPROVE, REVIEW, DECLINE = Decision


# -- a batch on which nothing is wrong ---------------------------------------------------------------------------------


def test_the_score_decides() -> None:
    bench = Bench(FakeInference([0.1, 0.5, 0.87, 0.875, 1.0, 0.0]))
    answers = bench.score(*numbered(6))
    assert statuses(answers) == ["OK"] * 6
    assert answers["decision"].tolist() == [APPROVE, REVIEW, REVIEW, DECLINE, DECLINE, APPROVE]
    assert answers["score"].tolist() == np.array([0.1, 0.5, 0.87, 0.875, 1.0, 0.0], np.float32).tolist()
    review, decline = marks(Mark.SCORE_REVIEW), marks(Mark.SCORE_DECLINE)
    assert answers["rules"].tolist() == [0, review, review, decline, decline, 0]
    assert answers["scored"].all()
    assert not answers["replayed"].any()
    assert answers["fallback"].tolist() == [Fallback.NONE] * 6
    assert answers["batch_rows"].tolist() == [6] * 6
    assert bench.store.applied == [f"tx-{i}" for i in range(6)]


def test_drift_sees_every_decision_once_with_the_features_it_was_made_from() -> None:
    drift = DriftWatch(FAKE_SCHEMA.names, window_rows=6, reference_rows=2)
    bench = Bench(FakeInference([0.5, 0.5], EngineFailed("gone")), drift=drift)
    good = numbered(2)
    bench.score(*good)
    bench.score(*good, transaction(transaction_id="bad", amount_minor=-1))  # two replays and an invalid row
    assert drift.report().window_rows == 0
    bench.score(*(transaction(transaction_id=f"rules {n}") for n in range(3)))
    bench.score(transaction(transaction_id="far", amount_minor=10**9))
    report = drift.report()
    assert (report.source, report.reference_rows, report.window_rows, report.unscored_rows) == ("live", 2, 4, 3)
    rows = {each.feature: each.rows for each in report.features}
    assert rows == {"AMOUNT": 4, "RISK": 4, "score": 1}


def test_rules_go_before_the_score() -> None:
    bench = Bench(FakeInference([0.1, 0.99, 0.92, 0.1]))
    answers = bench.score(
        transaction(transaction_id="a", amount_minor=100_001),
        transaction(transaction_id="b", attributes={"trusted": 1.0}),
        transaction(transaction_id="c", attributes={"trusted": 1.0}),
        transaction(transaction_id="d", attributes={"risk": 0.8}),
    )
    decline = marks(Mark.SCORE_DECLINE)
    assert answers["decision"].tolist() == [DECLINE, DECLINE, APPROVE, REVIEW]
    assert answers["rules"].tolist() == [LARGE, decline, TRUSTED | decline, RISKY]


def test_the_store_says_how_good_the_features_are() -> None:
    bench = Bench()
    bench.store.fallbacks = {"tx-1": Fallback.DEFAULTED_FEATURES, "tx-2": Fallback.STALE_FEATURES}
    answers = bench.score(*numbered(3))
    assert answers["fallback"].tolist() == [Fallback.NONE, Fallback.DEFAULTED_FEATURES, Fallback.STALE_FEATURES]


def test_features_are_packed_in_row_order() -> None:
    bench = Bench()
    bench.score(
        *(transaction(transaction_id=f"tx-{i}", amount_minor=100 * i, attributes={"risk": i / 8}) for i in range(5))
    )
    slab = bench.slabs[bench.inference.slots[0]].array
    assert slab[:5].tolist() == [[i, i / 8] for i in range(5)]
    assert not slab[5:].any()


def test_the_four_stages_share_their_stamps() -> None:
    bench = Bench()
    answers = bench.score(*numbered(3), arrival_ns=START_NS - 250)
    stamps = np.array([answers[name] for name in STAMPS])
    assert (np.diff(stamps, axis=0) > 0).all(), "every stage took time on this clock"
    assert (stamps == stamps[:, :1]).all(), "the rows of a batch share them"
    assert answers["taken_up_ns"].tolist() == [START_NS] * 3
    found = bench.recorder.since_start()
    recorded = {stage: (found[stage].count, found[stage].max_ns) for stage in found if found[stage].count}
    assert recorded == {
        "queue": (3, 250),
        "features": (3, 1),
        "inference": (3, 1),
        "guardrails": (3, 1),
        "total": (3, 253),
    }


def test_the_clock_is_read_once_a_stage() -> None:
    bench = Bench()
    bench.score(*numbered(32))
    assert bench.clock.readings == 4


def test_sequence_numbers_count_decisions_only() -> None:
    bench = Bench()
    first = bench.score(*numbered(3))
    second = bench.score(transaction(transaction_id=""), *numbered(2, start=2), transaction(transaction_id="x"))
    assert first["sequence"].tolist() == [0, 1, 2]
    assert second["sequence"].tolist() == [0, 2, 3, 4], "invalid: none; tx-2: its first answer's"


def test_columns_that_come_along_are_used_as_they_are() -> None:
    batch = batch_of(numbered(4), START_NS)
    one, other = Bench(), Bench()
    opened = run(one.clock, one.pipeline.score(batch, columns=open_batch(batch)))
    assert payload(opened) == payload(run(other.clock, other.pipeline.score(batch)))


def test_what_a_native_front_end_adds_to_the_columns_changes_no_answer() -> None:
    """Digests of all rows and ``plain`` texts come along; rows that are dead, invalid or retries need them too."""
    rows = [*numbered(3), transaction(transaction_id="x", currency="eur"), *numbered(3)]
    deadlines_ns = [0, 0, 0, 0, 0, START_NS, 0]
    batches = [batch_of(rows, START_NS, deadlines_ns), batch_of(numbered(5, 1, amount_minor=1), START_NS)]
    one, other = Bench(), Bench()
    for batch in batches:
        columns = open_batch(batch)
        columns.plain, columns.digests = True, payload_digests(columns, range(columns.rows))
        answers = run(one.clock, one.pipeline.score(batch, columns=columns))
        assert payload(answers) == payload(run(other.clock, other.pipeline.score(batch)))
    assert one.counters.copy() == other.counters.copy()
    assert one.refusals.keys() == {"deadline", "invalid", "conflict"}


def test_digests_that_come_along_are_the_ones_compared() -> None:
    bench = Bench()
    batch = batch_of(numbered(3), START_NS)
    for digests, said in (
        ([b"1" * 16, b"2" * 16, b"3" * 16], "OK"),
        ([b"1" * 16, b"4" * 16, b"3" * 16], "ALREADY_EXISTS"),
    ):
        columns = open_batch(batch)
        columns.digests = digests
        answers = run(bench.clock, bench.pipeline.score(batch, columns=columns))
        assert statuses(answers) == ["OK", said, "OK"]


def test_what_is_kept_in_the_log() -> None:
    bench = Bench()
    batch = batch_of(numbered(2), START_NS - 5)
    answers = run(bench.clock, bench.pipeline.score(batch, closed_ns=17, idle_ns=16))
    (kept,) = bench.log.kept
    assert kept.batch.equals(batch)
    assert kept.features.tolist() == [[12.5, 0.0]] * 2
    assert kept.answers.tobytes() == answers.tobytes()
    assert (kept.closed_ns, kept.idle_ns) == (17, 16)


def test_rows_that_were_not_gathered_have_no_features_in_the_log() -> None:
    bench = Bench()
    bench.score(transaction(currency="eur"), *numbered(2), transaction(transaction_id="tx-0"))
    (kept,) = bench.log.kept
    assert kept.batch.num_rows == 4
    assert np.isnan(kept.features[[0, 3]]).all()
    assert kept.features[1:3].tolist() == [[12.5, 0.0]] * 2
    bench.score(transaction(transaction_id="tx-0"))
    assert kept.features.shape == (4, 2)
    assert np.isnan(bench.log.kept[1].features).all(), "a batch of retries gathers nothing"


def test_decisions_and_batches_are_counted() -> None:
    bench = Bench(FakeInference([0.1, 0.6, 0.95]))
    bench.score(*numbered(3))
    bench.score(*numbered(3))
    counts = bench.counters.copy()
    assert [counts.decisions[decision, Fallback.NONE] for decision in Decision] == [1, 1, 1]
    assert bench.decided == 3, "replays are counted apart"
    assert (bench.counters.batches, counts.batch_rows[3]) == (1, 1)
    assert bench.totals == {"fraudgate_idempotent_replays_total": 3}
    assert bench.recorder.since_start()["total"].count == 3


def test_only_what_is_decided_now_is_recorded() -> None:
    bench = Bench(FakeInference([0.95], [0.1]))
    bench.score(transaction(transaction_id="known"))
    bench.score(
        transaction(transaction_id="gone"),
        transaction(transaction_id="known"),
        transaction(transaction_id="new"),
        transaction(transaction_id="bad", amount_minor=-1),
        deadlines_ns=[CANCELLED_NS, 0, 0, 0],
    )
    recorded = bench.recorder.since_start()
    assert [recorded[stage].count for stage in ("queue", "features", "inference", "guardrails", "total")] == [2] * 5
    counts = bench.counters.copy()
    assert {key: count for key, count in counts.decisions.items() if count} == {
        (DECLINE, Fallback.NONE): 1,
        (APPROVE, Fallback.NONE): 1,
    }
    assert counts.batch_rows[1] == 2


def test_rules_read_the_rows_they_decide() -> None:
    """Rows that were dropped leave gaps; amounts, currencies, ids, features and attributes move up together."""
    bench = Bench(FakeInference([0.9, 0.9, 0.1, 0.1]))
    answers = bench.score(
        transaction(transaction_id="bad", currency="eur"),
        transaction(transaction_id="trusted", attributes={"trusted": 1.0}),
        transaction(transaction_id="gone", amount_minor=100_001),
        transaction(transaction_id="plain"),
        transaction(transaction_id="large", amount_minor=100_001),
        transaction(transaction_id="foreign", currency="USD", customer_id="c-9"),
        deadlines_ns=[0, 0, CANCELLED_NS, 0, 0, 0],
    )
    assert answers["decision"].tolist() == [0, APPROVE, 0, DECLINE, DECLINE, REVIEW]
    fired = [int(bits) & (LARGE | TRUSTED | FOREIGN) for bits in answers["rules"]]
    assert fired == [0, TRUSTED, 0, 0, LARGE, FOREIGN]


def test_attributes_that_no_schema_names_are_counted_once() -> None:
    bench = Bench()
    named = transaction(transaction_id="a", attributes={"risk": 0.5})
    other = transaction(transaction_id="b", attributes={"risk": 0.5, "x": 1.0, "y": 2.0})
    bench.score(named, other, other)
    assert bench.totals["fraudgate_ignored_attributes_total"] == 2


def test_entries_evicted_early_are_counted() -> None:
    table = IdempotencyTable(1_088)
    bench = Bench(idempotency=table)
    for start in range(0, 1_120, BATCH_ROWS_MAX):
        bench.score(*numbered(BATCH_ROWS_MAX, start))
    assert bench.totals == {"fraudgate_idempotency_evicted_early_total": 32}


# -- rows that are dropped before the event is applied -----------------------------------------------------------------

DEAD = {
    "the caller is gone": (CANCELLED_NS, START_NS, "CANCELLED", "cancelled"),
    "the deadline has passed": (START_NS - 1, START_NS, "DEADLINE_EXCEEDED", "deadline"),
    "the deadline is now": (START_NS, START_NS, "DEADLINE_EXCEEDED", "deadline"),
    "a nanosecond is left": (START_NS + 1, START_NS, "OK", ""),
    "the budget is spent": (0, START_NS - BUDGET_NS, "RESOURCE_EXHAUSTED", "budget"),
    "a nanosecond of the budget is left": (0, START_NS - BUDGET_NS + 1, "OK", ""),
    "a caller who is gone is not told of the budget": (CANCELLED_NS, 1, "CANCELLED", "cancelled"),
    "the deadline goes before the budget": (1, 1, "DEADLINE_EXCEEDED", "deadline"),
}


@pytest.mark.parametrize("case", DEAD)
def test_dead_rows(case: str) -> None:
    deadline_ns, arrival_ns, status, reason = DEAD[case]
    bench = Bench()
    answers = bench.score(transaction(), deadlines_ns=[deadline_ns], arrival_ns=arrival_ns)
    assert statuses(answers) == [status]
    assert bench.refusals == ({reason: 1} if reason else {})
    if status != "OK":
        assert_no_trace(bench)
        assert (answers["decision"][0], answers["fallback"][0], answers["scored"][0]) == (0, 0, False)


def assert_no_trace(bench: Bench) -> None:
    assert bench.store.applied == []
    assert bench.inference.slots == [], "never reaches the engine"
    assert bench.decided == 0
    assert bench.recorder.since_start()["total"].count == 0
    assert bench.idempotency is None or len(bench.idempotency) == 0, "its id stays free"


def test_dead_rows_leave_their_neighbours_alone() -> None:
    bench = Bench(FakeInference([0.1, 0.95]))
    deadlines_ns = [CANCELLED_NS, 0, START_NS - 1, START_NS + 10**9]
    answers = bench.score(*numbered(4), deadlines_ns=deadlines_ns)
    assert statuses(answers) == ["CANCELLED", "OK", "DEADLINE_EXCEEDED", "OK"]
    assert answers["decision"].tolist() == [0, APPROVE, 0, DECLINE]
    assert answers["batch_rows"].tolist() == [0, 2, 0, 2]
    assert bench.store.applied == ["tx-1", "tx-3"]
    assert np.isnan(bench.log.kept[0].features[[0, 2]]).all()
    assert bench.score(*numbered(1))["replayed"].tolist() == [False], "the id of a dropped row stays free"


def test_no_budget_is_no_limit() -> None:
    bench = Bench(budget_ns=0)
    assert statuses(bench.score(transaction(), arrival_ns=0)) == ["OK"]
    assert statuses(bench.score(transaction(transaction_id="b"), arrival_ns=0, deadlines_ns=[CANCELLED_NS])) == [
        "CANCELLED"
    ]


def test_invalid_rows_get_their_problem_and_leave_no_trace() -> None:
    bench = Bench()
    bad = transaction(transaction_id="bad", amount_minor=-1)
    answers = bench.score(*numbered(1), bad, transaction(transaction_id="late", event_time_ns=EVENT_TIME_NS + 1))
    assert statuses(answers) == ["OK", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert [PROBLEMS[number][0] for number in answers["error_field"]] == ["", "amount_minor", "event_time"]
    assert bench.store.applied == ["tx-0"]
    assert bench.refusals == {"invalid": 2}
    again = bench.score(transaction(transaction_id="bad"))
    assert (statuses(again), again["replayed"].tolist()) == (["OK"], [False])


def test_a_row_that_is_dead_and_invalid_is_dead() -> None:
    bench = Bench()
    answers = bench.score(transaction(currency=""), transaction(), deadlines_ns=[CANCELLED_NS, 0])
    assert statuses(answers) == ["CANCELLED", "OK"]
    assert answers["error_field"].tolist() == [0, 0]
    assert bench.refusals == {"cancelled": 1}


@pytest.mark.parametrize("idempotency", [True, False])
def test_a_batch_of_which_nothing_is_left(idempotency: bool) -> None:
    bench = Bench(idempotency=IdempotencyTable(2_048) if idempotency else None)
    answers = bench.score(transaction(), transaction(amount_minor=-1), deadlines_ns=[CANCELLED_NS, 0])
    assert statuses(answers) == ["CANCELLED", "INVALID_ARGUMENT"]
    assert_no_trace(bench)
    assert len(bench.log.kept) == 1, "the arrival log is complete"


# -- retries -----------------------------------------------------------------------------------------------------------


def test_a_retry_gets_the_same_answer_and_moves_nothing() -> None:
    bench = Bench(FakeInference([0.1, 0.95]))
    first = bench.score(*numbered(2))
    bench.pipeline.live = bench.live(FakeInference(default=0.6), edition=2)
    again = bench.score(*numbered(2)[::-1])
    assert payload(again[::-1]) == payload(first), "also its stamps, its edition and its number"
    assert again["replayed"].all()
    assert bench.store.applied == ["tx-0", "tx-1"]


def test_twins_in_one_batch() -> None:
    bench = Bench(FakeInference([0.2, 0.7]))
    one, two = numbered(2)
    answers = bench.score(one, two, one, two, one)
    assert answers["replayed"].tolist() == [False, False, True, True, True]
    assert payload(answers[2:]) == payload(answers[[0, 1, 0]])
    assert bench.store.applied == ["tx-0", "tx-1"]
    assert answers["batch_rows"].tolist() == [2] * 5


def test_another_payload_conflicts() -> None:
    bench = Bench()
    answers = bench.score(transaction(), transaction(amount_minor=1), transaction())
    assert statuses(answers) == ["OK", "ALREADY_EXISTS", "OK"]
    assert answers["decision"].tolist() == [APPROVE, 0, APPROVE]
    later = bench.score(transaction(customer_id="other"))
    assert statuses(later) == ["ALREADY_EXISTS"]
    assert bench.refusals == {"conflict": 2}
    assert bench.store.applied == ["tx-1"]


def test_a_dead_retry_is_dead() -> None:
    bench = Bench()
    bench.score(transaction())
    assert statuses(bench.score(transaction(), deadlines_ns=[CANCELLED_NS])) == ["CANCELLED"]


def test_without_idempotency_every_row_counts() -> None:
    bench = Bench(idempotency=None)
    answers = bench.score(transaction(), transaction(), transaction(amount_minor=1))
    assert statuses(answers) == ["OK"] * 3
    assert not answers["replayed"].any()
    assert answers["sequence"].tolist() == [0, 1, 2]
    assert bench.store.applied == ["tx-1"] * 3


# -- failures after the event was applied: the rows are decided --------------------------------------------------------


def test_an_engine_that_fails_leaves_the_decision_to_the_rules() -> None:
    bench = Bench(FakeInference(EngineFailed("gone")))
    answers = bench.score(transaction(), transaction(transaction_id="large", amount_minor=100_001))
    assert statuses(answers) == ["OK", "OK"]
    assert answers["decision"].tolist() == [REVIEW, DECLINE]
    assert answers["rules"].tolist() == [marks(Mark.RULES_ONLY), LARGE | marks(Mark.RULES_ONLY)]
    assert answers["fallback"].tolist() == [Fallback.RULES_ONLY] * 2
    assert not answers["scored"].any()
    assert not answers["score"].any()
    assert bench.totals == {"fraudgate_engine_failures_total": 1}
    assert bench.score(transaction())["replayed"].tolist() == [True], "the decision is kept"


def test_a_rule_that_needs_the_score_fails_without_it() -> None:
    bench = Bench(FakeInference(EngineFailed("gone")))
    answers = bench.score(transaction(attributes={"trusted": 1.0}))
    assert answers["decision"].tolist() == [REVIEW]
    assert answers["rules"].tolist() == [marks(Mark.RULE_ERROR, Mark.RULES_ONLY)]
    assert bench.totals["fraudgate_rule_errors_total"] == 1


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1, np.inf, -np.inf, np.nextafter(np.float32(1), np.float32(2))])
def test_an_unusable_score_never_looks_like_one(score: float) -> None:
    bench = Bench(FakeInference([0.0, score, 1.0]))
    bench.store.fallbacks = {"tx-0": Fallback.STALE_FEATURES, "tx-1": Fallback.STALE_FEATURES}
    answers = bench.score(*numbered(3))
    assert answers["scored"].tolist() == [True, False, True]
    assert answers["score"].tolist() == [0.0, 0.0, 1.0]
    assert answers["decision"].tolist() == [APPROVE, REVIEW, DECLINE]
    assert answers["fallback"].tolist() == [Fallback.STALE_FEATURES, Fallback.RULES_ONLY, Fallback.NONE]
    assert answers["rules"].tolist() == [0, marks(Mark.RULES_ONLY), marks(Mark.SCORE_DECLINE)]


def test_a_feature_beyond_float32_warns_nobody() -> None:
    bench = Bench(FakeInference([0.1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = bench.score(transaction(attributes={"risk": 1e300}))
    assert answers["rules"].tolist() == [RISKY]
    assert bench.slabs[bench.inference.slots[0]].array[0, 1] == np.inf
    assert bench.totals == {}


def test_a_rule_that_fails_on_a_row_lifts_that_row() -> None:
    bench = Bench()
    answers = bench.score(transaction(), transaction(transaction_id="shaky", amount_minor=777))
    assert answers["decision"].tolist() == [APPROVE, REVIEW]
    assert answers["rules"].tolist() == [0, marks(Mark.RULE_ERROR)]
    assert bench.totals == {"fraudgate_rule_errors_total": 1}


def test_rules_that_raise_lift_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(FakeInference([0.1, 0.6, 0.95]))
    monkeypatch.setattr(type(bench.rules), "fire", raising(ZeroDivisionError("rules")))
    answers = bench.score(*numbered(3))
    assert statuses(answers) == ["OK"] * 3
    assert answers["decision"].tolist() == [REVIEW, REVIEW, DECLINE]
    assert (answers["rules"] >> np.uint64(Mark.RULE_ERROR) & np.uint64(1)).all()
    assert answers["scored"].all()
    assert bench.totals == {"fraudgate_rule_errors_total": 3}


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_args: object, **_named: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("dead_neighbour", [False, True])
def test_a_bug_after_apply_sends_every_row_to_a_person(monkeypatch: pytest.MonkeyPatch, dead_neighbour: bool) -> None:
    bench = Bench()
    rows = [*numbered(2), transaction(transaction_id="dead", amount_minor=-1)][: 2 + dead_neighbour]
    with monkeypatch.context() as broken:
        broken.setattr(Slab, "write", raising(ValueError("a bug")))
        answers = bench.score(*rows)
    decided = answers[:2]
    assert statuses(decided) == ["OK", "OK"]
    assert decided["decision"].tolist() == [REVIEW] * 2
    assert decided["rules"].tolist() == [marks(Mark.RULE_ERROR, Mark.STATIC_POLICY)] * 2
    assert decided["fallback"].tolist() == [Fallback.STATIC_POLICY] * 2
    assert not decided["scored"].any()
    assert (decided["batch_rows"].tolist(), decided["edition"].tolist()) == ([2, 2], [1, 1])
    assert (np.diff([decided[name] for name in STAMPS], axis=0) >= 0).all()
    assert payload(bench.score(*numbered(2))) == payload(decided), "decided once and for all"
    for start in (10, 20, 30):
        assert statuses(bench.score(*numbered(1, start))) == ["OK"], "the slab is free again"


# -- failures before the event was applied: the callers may retry ------------------------------------------------------


def test_a_store_that_raises_frees_the_ids() -> None:
    bench = Bench()
    bench.store.failure = OSError("disk")
    answers = bench.score(*numbered(2), transaction(transaction_id="bad", currency=""))
    assert statuses(answers) == ["INTERNAL", "INTERNAL", "INVALID_ARGUMENT"]
    assert answers["decision"].tolist() == [0, 0, 0]
    assert bench.refusals == {"internal": 2, "invalid": 1}
    assert bench.totals == {"fraudgate_store_failures_total": 1}
    assert_no_trace(bench)
    assert np.isnan(bench.log.kept[0].features).all()
    again = bench.score(*numbered(2))
    assert statuses(again) == ["OK", "OK"]
    assert not again["replayed"].any()


def test_twins_of_a_failed_row_fail_with_it_and_may_retry() -> None:
    bench = Bench()
    bench.score(transaction(transaction_id="known"))
    bench.store.failure = OSError("disk")
    one, two = numbered(2)
    known = transaction(transaction_id="known")
    answers = bench.score(one, known, one, two, one, transaction(transaction_id="tx-1", amount_minor=1))
    assert statuses(answers) == ["INTERNAL", "OK", "INTERNAL", "INTERNAL", "INTERNAL", "ALREADY_EXISTS"]
    assert answers["replayed"].tolist() == [False, True, False, False, False, False]
    assert answers["decision"].tolist() == [0, APPROVE, 0, 0, 0, 0]
    assert bench.refusals == {"internal": 4, "conflict": 1}
    again = bench.score(one, two, one)
    assert statuses(again) == ["OK"] * 3
    assert again["replayed"].tolist() == [False, False, True]


def test_a_store_that_raises_without_idempotency() -> None:
    bench = Bench(idempotency=None)
    bench.store.failure = OSError("disk")
    assert statuses(bench.score(*numbered(2))) == ["INTERNAL"] * 2
    assert statuses(bench.score(*numbered(2))) == ["OK"] * 2


def test_a_mistake_of_ours_before_apply_frees_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.counters, "count", failing)
    odd = transaction(attributes={"x": 1.0})
    with pytest.raises(OSError, match="a mistake of ours"):
        bench.score(odd)
    assert_no_trace(bench)
    monkeypatch.undo()
    again = bench.score(odd)
    assert (statuses(again), again["replayed"].tolist()) == (["OK"], [False])


def failing(*_: object) -> None:
    raise OSError("a mistake of ours")


# -- failures of the books ---------------------------------------------------------------------------------------------


def test_a_log_that_raises_costs_no_decision() -> None:
    bench = Bench()
    bench.log.failure = OSError("disk full")
    answers = bench.score(*numbered(2))
    assert statuses(answers) == ["OK", "OK"]
    assert bench.totals == {"fraudgate_recording_failures_total": 1}
    assert payload(bench.score(*numbered(2))) == payload(answers)


def test_a_recorder_that_raises_costs_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.recorder, "record_batch", raising(ZeroDivisionError()))
    answers = bench.score(*numbered(2))
    assert statuses(answers) == ["OK", "OK"]
    assert answers["decision"].tolist() == [APPROVE, APPROVE]
    assert bench.totals == {"fraudgate_recording_failures_total": 1}


def test_a_full_log_is_counted() -> None:
    bench = Bench()
    bench.log.full = True
    bench.score(*numbered(2))
    assert bench.totals == {"fraudgate_batch_log_dropped_total": 1}


# -- two batches in flight ---------------------------------------------------------------------------------------------


def test_two_batches_are_in_flight_and_answered_in_order() -> None:
    bench = Bench(FakeInference([0.1], [0.6]))
    finished: list[str] = []

    async def score(name: str, made: list[Transaction]) -> Answers:
        answers = await bench.pipeline.score(batch_of(made, START_NS))
        finished.append(name)
        return answers

    async def main() -> tuple[Answers, Answers]:
        release_first, release_second = bench.inference.hold(), bench.inference.hold()
        first = asyncio.create_task(score("first", numbered(1)))
        second = asyncio.create_task(score("second", numbered(1, start=1)))
        await asyncio.sleep(0)
        assert bench.store.applied == ["tx-0", "tx-1"], "gathering of one overlaps inference of the other"
        assert sorted(bench.inference.slots) == [0, 1], "each in a slab of its own"
        release_second()
        await asyncio.sleep(0.001)
        assert finished == [], "the second is scored, and waits for the first"
        release_first()
        return await first, await second

    one, two = run(bench.clock, main())
    assert finished == ["first", "second"]
    assert (one["decision"].tolist(), two["decision"].tolist()) == ([APPROVE], [REVIEW])
    assert [kept.answers["decision"].tolist() for kept in bench.log.kept] == [[APPROVE], [REVIEW]]
    assert {*one["sequence"], *two["sequence"]} == {0, 1}


def in_flight(bench: Bench, first: list[Transaction], second: list[Transaction]) -> tuple[Answers, Answers]:
    """The answers of two batches, the second taken up while the first waits for its engine."""

    async def main() -> tuple[Answers, Answers]:
        release = bench.inference.hold()
        one = asyncio.create_task(bench.pipeline.score(batch_of(first, START_NS)))
        two = asyncio.create_task(bench.pipeline.score(batch_of(second, START_NS)))
        await asyncio.sleep(0.001)
        assert not two.done()
        release()
        return await one, await two

    return run(bench.clock, main())


def test_a_twin_of_an_unanswered_batch_gets_its_answer() -> None:
    bench = Bench(FakeInference([0.95, 0.3]))
    other = transaction(transaction_id="tx-1", amount_minor=2)
    first, second = in_flight(bench, numbered(2), [*numbered(1), transaction(transaction_id="new"), other])
    assert statuses(second) == ["OK", "OK", "ALREADY_EXISTS"]
    assert payload(second[:1]) == payload(first[:1])
    assert second["replayed"].tolist() == [True, False, False]
    assert bench.store.applied == ["tx-0", "tx-1", "new"]


def test_a_twin_of_a_batch_that_came_to_nothing_gets_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    assert bench.idempotency is not None
    monkeypatch.setattr(bench.idempotency, "store", failing)

    async def main() -> Answers:
        release = bench.inference.hold()
        one = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1), START_NS)))
        two = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1), START_NS)))
        await asyncio.sleep(0.001)
        release()
        with pytest.raises(OSError, match="a mistake of ours"):
            await one
        return await two

    answers = run(bench.clock, main())
    assert (statuses(answers), answers["decision"].tolist(), answers["scored"].tolist()) == (["INTERNAL"], [0], [False])


def test_a_batch_of_retries_only_waits_for_its_turn() -> None:
    bench = Bench(FakeInference([0.95]))
    first, second = in_flight(bench, numbered(1), numbered(1))
    assert payload(second) == payload(first)
    assert len(bench.inference.slots) == 1


def test_the_twin_of_a_batch_whose_engine_fails() -> None:
    bench = Bench(FakeInference(EngineFailed("gone")))
    first, second = in_flight(bench, numbered(1), numbered(1))
    assert first["fallback"].tolist() == [Fallback.RULES_ONLY]
    assert payload(second) == payload(first)


def test_a_batch_whose_store_fails_waits_its_turn_too() -> None:
    bench = Bench()

    async def main() -> tuple[Answers, Answers, Answers]:
        release = bench.inference.hold()
        one = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1), START_NS)))
        await asyncio.sleep(0)
        bench.store.failure = OSError("disk")
        two = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1, start=1), START_NS)))
        three = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1, start=1), START_NS)))
        await asyncio.sleep(0.001)
        assert not two.done()
        release()
        return await asyncio.gather(one, two, three)

    one, two, three = run(bench.clock, main())
    assert [statuses(answers) for answers in (one, two, three)] == [["OK"], ["INTERNAL"], ["OK"]]
    assert not three["replayed"].any(), "the id was free again when its retry was taken up"


def test_the_engine_that_was_live_at_take_up_decides_and_is_named() -> None:
    old, new = FakeInference([0.6]), FakeInference([0.6])
    bench = Bench(old)

    async def main() -> tuple[Answers, Answers]:
        release = old.hold()
        one = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1), START_NS)))
        await asyncio.sleep(0)
        bench.pipeline.live = bench.live(new, edition=2, thresholds=Thresholds(0.7, 0.8))
        two = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1, start=1), START_NS)))
        await asyncio.sleep(0.001)
        release()
        return await one, await two

    one, two = run(bench.clock, main())
    assert (one["edition"].tolist(), two["edition"].tolist()) == ([1], [2])
    assert (one["decision"].tolist(), two["decision"].tolist()) == ([REVIEW], [APPROVE])


def test_a_batch_that_cannot_be_opened_does_not_hold_up_the_next() -> None:
    bench = Bench()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is
        run(bench.clock, bench.pipeline.score(batch_of(numbered(1)).select(["transaction_id"])))
    assert statuses(bench.score(*numbered(1))) == ["OK"]


def test_a_batch_whose_task_is_cancelled_does_not_hold_up_the_next() -> None:
    bench = Bench()

    async def main() -> Answers:
        bench.inference.hold()
        one = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1), START_NS)))
        await asyncio.sleep(0)
        two = asyncio.create_task(bench.pipeline.score(batch_of(numbered(1, start=1), START_NS)))
        await asyncio.sleep(0)
        one.cancel()
        return await two

    assert statuses(run(bench.clock, main())) == ["OK"]


# -- composition -------------------------------------------------------------------------------------------------------


def test_a_decision_does_not_depend_on_what_shares_its_batch() -> None:
    """A real engine; the store has no windows, so the order of the rows does not matter either."""
    random = np.random.default_rng(3)
    rows = [
        transaction(
            transaction_id=f"tx-{i}",
            amount_minor=int(random.integers(0, 120_000)),
            attributes={"risk": float(random.normal()), **({"trusted": 1.0} if i % 5 == 0 else {})},
        )
        for i in range(96)
    ]
    by_fill = [decisions(rows, fill, order) for fill, order in ((32, 1), (1, 1), (7, -1), (31, 1), (2, -1))]
    assert len({kind for _, kind, *_ in by_fill[0].values()}) == 3, "all three decisions are among them"
    assert all(found == by_fill[0] for found in by_fill)


def decisions(rows: list[Transaction], fill: int, order: int) -> dict[str, tuple[int, ...]]:
    """(score bits, decision, rules, fallback) by transaction, scored in batches of ``fill`` rows."""
    engine = engine_of(fp32_graph(seed=1, features=2))
    bench = Bench(InlineEngine(engine))
    engine.bind(bench.slabs)
    found = {}
    rows = rows[::order]
    for start in range(0, len(rows), fill):
        part = rows[start : start + fill]
        answers = bench.score(*part, arrival_ns=bench.clock.now_ns)
        fields = (answers[name].tolist() for name in ("decision", "rules", "fallback"))
        for made, *values in zip(part, bits_of(answers["score"]), *fields, strict=True):
            found[made.transaction_id] = tuple(values)
    return found
