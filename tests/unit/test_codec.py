"""Protobuf to columns, columns to Arrow and back, and answer rows to the bytes that clients parse."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.editions import Edition, Editions
from fraudgate.frontend.codec import Renderer, delimited, event_time_ns, request_batch, request_columns
from fraudgate.guardrails.reasons import Rendered, RuleTexts, mark_texts
from fraudgate.transaction import (
    ANSWER_DTYPE,
    ENTITIES,
    EVENT_TIME_MISSING_NS,
    EVENT_TIME_OUTSIDE_NS,
    REQUEST_SCHEMA,
    Answers,
    Columns,
    Decision,
    Fallback,
    Mark,
    open_batch,
)
from fraudgate.v1 import scoring_pb2
from tests.unit.transactions import EVENT_TIME_NS, numbered, transaction

# -- requests ----------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
transactions = st.builds(
    transaction,
    transaction_id=texts,
    currency=texts,
    amount_minor=st.integers(-(2**63), 2**63 - 1),
    event_time_ns=st.none() | st.integers(0, 4_000_000_000_000_000_000),
    attributes=st.just({}) | st.dictionaries(texts, st.floats(), max_size=3),
    **dict.fromkeys(ENTITIES, texts),
)


def same(one: Columns, other: Columns) -> bool:
    """Whether they hold the same rows; what a front end may have added to them does not count."""
    for name in set(Columns.__slots__) - {"plain", "digests", "native"}:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype == np.int64
            left, right = left.tolist(), right.tolist()
        elif name == "attributes" and left is not None:
            left, right = (
                [{key: np.float64(value).tobytes() for key, value in row.items()} for row in rows]
                for rows in (left, right)
            )
        assert left == right, name
    return True


@given(st.lists(transactions, min_size=1, max_size=5), st.integers(0, 2**62), st.integers(-1, 2**62))
def test_columns_to_arrow_and_back(made: list[scoring_pb2.Transaction], arrival_ns: int, deadline_ns: int) -> None:
    rows = len(made)
    columns = request_columns(made, range(arrival_ns, arrival_ns + rows), [deadline_ns] * rows)
    batch = request_batch(columns)
    assert batch.schema.equals(REQUEST_SCHEMA, check_metadata=True)
    batch.validate(full=True)
    assert same(open_batch(batch), columns)
    assert batch.num_rows == rows


def test_every_field_lands_in_its_own_column() -> None:
    made = transaction(transaction_id="tx", attributes={"risk": 0.5, "age": 3.0}, **{name: name for name in ENTITIES})
    columns = request_columns([made, transaction()], [7, 8], [0, 9])
    batch = request_batch(columns)
    row = batch.to_pylist()[0]
    assert {name: row[name] for name in ENTITIES} == {name: name for name in ENTITIES}
    assert (row["transaction_id"], row["currency"], row["amount_minor"]) == ("tx", "EUR", 1_250)
    assert batch.column("event_time").cast("int64").to_pylist() == [EVENT_TIME_NS] * 2
    assert dict(row["attributes"]) == {"risk": 0.5, "age": 3.0}
    assert (row["arrival_ns"], row["deadline_ns"]) == (7, 0)
    assert columns.ids == {name: [name, f"{name}-1"] for name in ENTITIES}
    assert columns.deadline_ns.tolist() == [0, 9]


def test_an_empty_id_is_null_in_arrow() -> None:
    batch = request_batch(request_columns([transaction(card_id=""), transaction(device_id="")], [0, 0], [0, 0]))
    assert batch.column("card_id").to_pylist() == [None, "card_id-1"]
    assert batch.column("device_id").to_pylist() == ["device_id-1", None]
    none = request_batch(request_columns([transaction(card_id="")], [0], [0]))
    assert none.column("card_id").null_count == 1


def test_a_batch_without_attributes_says_so_at_once() -> None:
    """Most batches have none; nothing then looks at them row by row."""
    columns = request_columns(numbered(3), [0] * 3, [0] * 3)
    assert columns.attributes is None
    assert open_batch(request_batch(columns)).attributes is None
    mixed = request_columns([*numbered(2), transaction(attributes={"risk": 1.0})], [0] * 3, [0] * 3)
    assert open_batch(request_batch(mixed)).attributes == [{}, {}, {"risk": 1.0}]


def test_a_part_of_a_batch_opens_as_that_part() -> None:
    """The log stores batches one after the other; a slice starts in the middle of its buffers."""
    made = [transaction(transaction_id=f"tx-{i}", amount_minor=i, attributes={"n": i}) for i in range(6)]
    batch = request_batch(request_columns(made, range(6), [0] * 6))
    part = request_batch(request_columns(made[2:5], range(2, 5), [0] * 3))
    assert same(open_batch(batch.slice(2, 3)), open_batch(part))


def test_the_batch_shares_the_memory_of_its_columns() -> None:
    columns = request_columns(numbered(2), [0, 0], [0, 0])
    batch = request_batch(columns)
    opened = open_batch(batch)
    for name in ("event_time_ns", "amount_minor", "arrival_ns", "deadline_ns"):
        assert np.shares_memory(getattr(columns, name), getattr(opened, name)), name


def stamp(seconds: int, nanos: int = 0) -> int:
    made = transaction(event_time_ns=None)
    made.event_time.seconds, made.event_time.nanos = seconds, nanos
    return event_time_ns(made)


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [
        (0, 0, 0),  # 1970, said explicitly
        (1, 999_999_999, 1_999_999_999),
        (-1, 999_999_999, -1),
        (1, 1_000_000_000, EVENT_TIME_MISSING_NS),
        (1, -1, EVENT_TIME_MISSING_NS),
        (9_223_372_035, 999_999_999, 9_223_372_035_999_999_999),
        (9_223_372_036, 0, EVENT_TIME_OUTSIDE_NS),
        (253_402_300_799, 0, EVENT_TIME_OUTSIDE_NS),
        (-9_223_372_035, 0, -9_223_372_035_000_000_000),
        (-9_223_372_036, 0, EVENT_TIME_OUTSIDE_NS),
        (2**63 - 1, 999_999_999, EVENT_TIME_OUTSIDE_NS),
        (-(2**63), 0, EVENT_TIME_OUTSIDE_NS),
    ],
)
def test_event_times(seconds: int, nanos: int, expected: int) -> None:
    assert stamp(seconds, nanos) == expected


def test_an_absent_event_time_is_not_1970() -> None:
    assert event_time_ns(transaction(event_time_ns=None)) == EVENT_TIME_MISSING_NS
    explicit = scoring_pb2.Transaction()
    explicit.event_time.SetInParent()
    assert event_time_ns(explicit) == 0


# -- answers -----------------------------------------------------------------------------------------------------------

TEXTS = RuleTexts(
    "0123456789ab", (("amount-limit", "AMOUNT", "Too much."), ("vip", "VIP", "Well — known.")), mark_texts()
)
EDITION = Edition("4fe1", "handbook", "7", "d" * 64, "int8", TEXTS)


def editions_of(*editions: Edition) -> Editions:
    made = Editions()
    for edition in editions:
        made.add(edition)
    return made


def answer(**changes: object) -> Answers:
    answers = np.zeros(1, ANSWER_DTYPE)
    fields: dict[str, object] = {
        "decision": Decision.APPROVE,
        "fallback": Fallback.NONE,
        "scored": True,
        "score": 0.25,
        "batch_rows": 3,
        "edition": 1,
        "sequence": 255,
        "arrival_ns": 1_000,
        "taken_up_ns": 1_010,
        "gathered_ns": 1_030,
        "inferred_ns": 1_070,
        "answered_ns": 1_150,
    }
    for name, value in (fields | changes).items():
        answers[name] = value
    return answers


def parse(bodies: list[bytes]) -> list[scoring_pb2.ScoreResponse]:
    return [scoring_pb2.ScoreResponse.FromString(body) for body in bodies]


def render(answers: Answers, *ids: str, editions: Editions | None = None) -> list[scoring_pb2.ScoreResponse]:
    return parse(Renderer(editions or editions_of(EDITION)).render(answers, ids or ["tx"] * len(answers)))


def test_a_response_has_every_field() -> None:
    bits = 0b01 | 1 << Mark.SCORE_DECLINE
    (found,) = render(answer(decision=Decision.DECLINE, rules=bits), "tx-é")
    assert found == scoring_pb2.ScoreResponse(
        transaction_id="tx-é",
        decision=scoring_pb2.DECLINE,
        score=0.25,
        reasons=[
            scoring_pb2.Reason(code="AMOUNT", description="Too much."),
            scoring_pb2.Reason(code="SCORE_DECLINE", description="The score is at or over the decline threshold."),
        ],
        rules_fired=["amount-limit"],
        model=scoring_pb2.ModelRef(name="handbook", version="7", engine_digest="d" * 64, precision="int8"),
        ruleset_version="0123456789ab",
        fallback=scoring_pb2.FALLBACK_NONE,
        decision_id="4fe1-ff",
        timings=scoring_pb2.Timings(
            queue_ns=10, features_ns=20, inference_ns=40, guardrails_ns=80, total_ns=150, batch_rows=3
        ),
    )


@pytest.mark.parametrize("decision", Decision)
@pytest.mark.parametrize("fallback", Fallback)
def test_decisions_and_fallbacks_have_the_numbers_of_the_proto(decision: Decision, fallback: Fallback) -> None:
    (found,) = render(answer(decision=decision, fallback=fallback))
    assert scoring_pb2.Decision.Name(found.decision) == decision.name
    assert scoring_pb2.Fallback.Name(found.fallback) == f"FALLBACK_{fallback.name}"


def test_a_score_of_zero_is_there_and_an_absent_one_is_not() -> None:
    """The reused message must not leak one row's score into the next."""
    rows = np.concatenate([answer(score=0.75), answer(scored=False, score=0), answer(score=0.0), answer(scored=False)])
    found = render(rows)
    assert [response.HasField("score") for response in found] == [True, False, True, False]
    assert [response.score for response in found] == [0.75, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("score", np.array([0.1, 1 / 3, np.nextafter(np.float32(1), np.float32(0)), 1.0], np.float32))
def test_the_bits_of_a_score_survive(score: np.float32) -> None:
    (found,) = render(answer(score=score))
    assert np.float32(found.score).tobytes() == score.tobytes()


stage_ns = st.lists(st.integers(0, 10**10), min_size=4, max_size=4)


@given(st.lists(st.tuples(st.integers(0, 10**18), stage_ns, st.booleans()), min_size=1, max_size=6))
def test_the_four_stages_sum_to_the_total(rows: list[tuple[int, list[int], bool]]) -> None:
    """Also where rows of several engine calls stand together, as replays do, some of them sharing all stages."""
    answers, expected = np.zeros(len(rows), ANSWER_DTYPE), []
    shared = rows[0][1]
    for row, (arrival_ns, stages, own) in zip(answers, rows, strict=True):
        stages = [stages[0], *(stages if own else shared)[1:]]
        row["edition"], row["batch_rows"] = 1, len(rows)
        stamps = itertools.accumulate(stages, initial=arrival_ns)
        for name, stamp_ns in zip(
            ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns"), stamps, strict=True
        ):
            row[name] = stamp_ns
        expected.append(stages)
    for response, stages in zip(render(answers), expected, strict=True):
        t = response.timings
        assert [t.queue_ns, t.features_ns, t.inference_ns, t.guardrails_ns] == stages
        assert t.total_ns == sum(stages)
        assert t.batch_rows == len(rows)


def test_many_rows_render_as_each_of_them_alone() -> None:
    """Nothing of one row stays in the reused message for the next."""
    random = np.random.default_rng(5)
    rows = np.zeros(200, ANSWER_DTYPE)
    rows["decision"], rows["fallback"] = random.integers(1, 4, 200), random.integers(1, 6, 200)
    rows["scored"], rows["score"] = random.random(200) < 0.7, random.random(200)
    rows["batch_rows"], rows["edition"] = random.integers(1, 33, 200), random.integers(1, 3, 200)
    rows["rules"] = random.choice([0, 1, 2, 3, 1 << Mark.RULE_ERROR | 2], 200)
    rows["sequence"] = random.integers(0, 2**40, 200)
    for name in ("taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns"):
        rows[name] = random.integers(0, 3, 200)
    rows = rows.repeat(2)
    editions = editions_of(EDITION, Edition("b", "simulated", "1", "e" * 64, "fp32", TEXTS))
    ids = [f"tx-{i}" for i in range(len(rows))]
    alone = [Renderer(editions).render(rows[i : i + 1], ids[i : i + 1])[0] for i in range(len(rows))]
    assert Renderer(editions).render(rows, ids) == alone
    assert Renderer(editions).render(rows[:0], []) == []


def test_rows_of_one_batch_that_two_engines_decided_name_their_own() -> None:
    editions = editions_of(EDITION, Edition("b", "handbook", "8", "e" * 64, "fp32", TEXTS))
    found = render(np.concatenate([answer(edition=edition) for edition in (1, 2, 2, 1)]), editions=editions)
    assert [(each.model.version, each.decision_id) for each in found] == [
        ("7", "4fe1-ff"), ("8", "b-ff"), ("8", "b-ff"), ("7", "4fe1-ff")
    ]  # fmt: skip


def test_tails_are_serialised_once() -> None:
    class CountingTexts(RuleTexts):
        asked = 0

        def reasons(self, bits: int) -> Rendered:
            CountingTexts.asked += 1
            return super().reasons(bits)

    texts = CountingTexts(TEXTS.version, TEXTS.rules, TEXTS.marks)
    renderer = Renderer(editions_of(Edition("4fe1", "handbook", "7", "d" * 64, "int8", texts)))
    rows = np.concatenate([answer(rules=bits, sequence=i) for i, bits in enumerate([0, 1, 0, 1, 1])])
    for _ in range(3):
        bodies = renderer.render(rows, ["tx"] * 5)
    assert CountingTexts.asked == 2
    assert [list(response.rules_fired) for response in parse(bodies)] == [
        ["amount-limit"][:bits] for bits in (0, 1, 0, 1, 1)
    ]


def test_more_kinds_of_tail_than_are_kept_still_render() -> None:
    rules = tuple((f"r{i}", f"CODE{i}", "") for i in range(13))
    renderer = Renderer(editions_of(Edition("a", "m", "1", "d", "int8", RuleTexts("v", rules, ()))))
    rows = np.zeros(5_000, ANSWER_DTYPE)
    rows["edition"], rows["rules"] = 1, np.arange(5_000)
    for _ in range(2):
        found = parse(renderer.render(rows, ["tx"] * 5_000))
        assert [len(response.rules_fired) for response in found] == [bits.bit_count() for bits in range(5_000)]


def test_an_edition_kept_as_json_renders_the_same_bytes() -> None:
    editions = editions_of(EDITION, Edition("5", "simulated", "1", "e" * 64, "fp32", TEXTS))
    rows = np.concatenate([answer(rules=1 << 1 | 1 << Mark.RULE_ERROR), answer(edition=2, scored=False, rules=1)])
    forms = json.loads(json.dumps(editions.dump({1, 2})))
    restored = Editions()
    restored.load(forms)
    ids = ["tx-1", "tx-2"]
    assert Renderer(restored).render(rows, ids) == Renderer(editions).render(rows, ids)


def test_numbers_of_editions_are_not_reused_after_a_restart() -> None:
    editions = editions_of(EDITION, EDITION)
    restored = Editions()
    restored.load(editions.dump({2}))
    assert restored.add(EDITION) == 3
    assert restored[2] == EDITION
    with pytest.raises(KeyError):
        restored[1]


# -- delimited() -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_delimited_is_what_protobuf_writes(size: int) -> None:
    body = b"x" * size
    whole = scoring_pb2.ScoreResult(transaction_id=body.decode())
    assert delimited(1, body) == whole.SerializeToString()


@pytest.mark.parametrize("field_number", [1, 2, 15])
def test_delimited_of_nothing(field_number: int) -> None:
    assert delimited(field_number, b"") == bytes([field_number << 3 | 2, 0])


def test_an_empty_message_in_another_is_there() -> None:
    found = scoring_pb2.ScoreResult.FromString(delimited(2, b""))
    assert found.WhichOneof("result") == "response"
    assert delimited(2, b"") == scoring_pb2.ScoreResult(response=scoring_pb2.ScoreResponse()).SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384])
def test_a_response_put_into_a_result(size: int) -> None:
    response = scoring_pb2.ScoreResponse(decision_id="x" * size, decision=scoring_pb2.APPROVE)
    head = scoring_pb2.ScoreResult(transaction_id="tx").SerializeToString()
    found = scoring_pb2.ScoreResult.FromString(head + delimited(2, response.SerializeToString()))
    assert found == scoring_pb2.ScoreResult(transaction_id="tx", response=response)
