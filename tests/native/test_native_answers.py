"""The native renderer against ``frontend.codec.Renderer``: byte for byte."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.editions import Edition, Editions
from fraudgate.frontend.codec import Renderer, _tail
from fraudgate.guardrails.reasons import RuleTexts, mark_texts
from fraudgate.transaction import ANSWER_DTYPE, Answers, Decision, Fallback, Mark
from fraudgate.v1 import scoring_pb2
from tests.native.messages import texts

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

TEXTS = RuleTexts(
    "0123456789ab",
    tuple((f"rule-{i}", f"CODE{i}", f"Text — {i}." * (i % 3)) for i in range(56)),
    mark_texts(),
)
EDITIONS = Editions()
for _number in range(1, 4):
    EDITIONS.add(Edition("run" * _number, "handbook", str(_number), "d" * 64, "int8", TEXTS))


def tail(edition: int, rules: int) -> tuple[str, bytes]:
    return EDITIONS[edition].run_id, _tail(EDITIONS[edition], rules).SerializeToString()


marks = st.sets(st.sampled_from([*range(56), *Mark])).map(lambda places: sum(1 << place for place in places))
instants = st.integers(0, 2**62) | st.integers(0, 3)
answer_rows = st.fixed_dictionaries(
    {
        "decision": st.integers(0, 3),
        "fallback": st.sampled_from([0, *Fallback]),
        "scored": st.booleans(),
        "score": st.floats(0, 1, width=32) | st.sampled_from([float("nan"), float("inf"), -0.0]),
        "replayed": st.just(True),  # each row stands for itself
        "batch_rows": st.integers(0, 2**16 - 1),
        "edition": st.integers(1, 3),
        "rules": st.sampled_from([0, 1, 3]) | marks,
        "sequence": st.integers(0, 2**63 - 1) | st.integers(0, 300),
        "arrival_ns": instants,
        "taken_up_ns": instants,
        "gathered_ns": instants,
        "inferred_ns": instants,
        "answered_ns": instants,
    }
)


def answers_of(rows: list[dict[str, Any]]) -> Answers:
    answers = np.zeros(len(rows), ANSWER_DTYPE)
    for answer, row in zip(answers, rows, strict=True):
        for name, value in row.items():
            answer[name] = value
    return answers


@settings(max_examples=200)
@given(st.lists(st.tuples(answer_rows, texts), max_size=8))
def test_replayed_rows_render_byte_for_byte(pairs: list[tuple[dict[str, Any], str]]) -> None:
    answers, ids = answers_of([row for row, _ in pairs]), [text for _, text in pairs]
    assert native.Renderer(tail).render(answers.tobytes(), ids) == Renderer(EDITIONS).render(answers, ids)


@settings(max_examples=100)
@given(answer_rows, st.lists(answer_rows, min_size=1, max_size=32), texts)
def test_the_rows_of_a_batch_render_byte_for_byte(
    shared: dict[str, Any], rows: list[dict[str, Any]], prefix: str
) -> None:
    own = ("decision", "fallback", "scored", "score", "rules", "sequence", "arrival_ns")
    answers = answers_of([shared | {name: row[name] for name in own} | {"replayed": False} for row in rows])
    ids = [f"{prefix}{i}" for i in range(len(rows))]
    assert native.Renderer(tail).render(answers.tobytes(), ids) == Renderer(EDITIONS).render(answers, ids)


@pytest.mark.parametrize("fallback", Fallback)
@pytest.mark.parametrize("decision", Decision)
@pytest.mark.parametrize("scored", [True, False])
def test_every_kind_of_decision(decision: Decision, fallback: Fallback, scored: bool) -> None:
    row = {"decision": decision, "fallback": fallback, "scored": scored, "edition": 2, "rules": 1 << Mark.RULES_ONLY}
    answers = answers_of([row | {"score": score, "sequence": 16} for score in (0.0, 0.5)])
    found = native.Renderer(tail).render(answers.tobytes(), ["a", "b"])
    assert found == Renderer(EDITIONS).render(answers, ["a", "b"])
    assert scoring_pb2.ScoreResponse.FromString(found[0]).HasField("score") == scored


def test_tails_are_asked_for_once_and_a_flood_of_kinds_still_renders() -> None:
    asked = []

    def counting(edition: int, rules: int) -> tuple[str, bytes]:
        asked.append((edition, rules))
        return tail(edition, rules)

    renderer, reference = native.Renderer(counting), Renderer(EDITIONS)
    few = answers_of([{"edition": 1, "rules": i % 3, "replayed": True} for i in range(32)])
    for _ in range(3):
        assert renderer.render(few.tobytes(), ["tx"] * 32) == reference.render(few, ["tx"] * 32)
    assert sorted(asked) == [(1, 0), (1, 1), (1, 2)]
    flood = np.zeros(9_000, ANSWER_DTYPE)
    flood["edition"], flood["rules"], flood["replayed"] = 1, np.arange(9_000), True
    ids = ["tx"] * len(flood)
    assert renderer.render(flood.tobytes(), ids) == reference.render(flood, ids)
    assert renderer.render(few.tobytes(), ["tx"] * 32) == reference.render(few, ["tx"] * 32)


def test_answers_that_are_no_rows() -> None:
    renderer = native.Renderer(tail)
    for answers, ids in ((b"x", []), (bytes(73), []), (bytes(73), ["a", "b"])):
        with pytest.raises(ValueError, match="one for each transaction_id"):
            renderer.render(answers, ids)


def layout() -> dict[str, tuple[str, int]]:
    assert ANSWER_DTYPE.fields is not None
    return {name: (field[0].str, field[1]) for name, field in ANSWER_DTYPE.fields.items()}


def test_rows_are_laid_out_as_the_crate_reads_them() -> None:
    native.check_answer_layout(ANSWER_DTYPE.itemsize, layout())


@pytest.mark.parametrize("change", [{"score": ("<f8", 4)}, {"rules": ("<u8", 18)}, {"more": ("|u1", 73)}])
def test_another_layout_is_refused(change: dict[str, tuple[str, int]]) -> None:
    with pytest.raises(ValueError, match="rebuild fraudgate-ingress"):
        native.check_answer_layout(ANSWER_DTYPE.itemsize, layout() | change)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 70_000])
@pytest.mark.parametrize("transaction_id", ["", "tx-é", "x" * 200])
def test_results_are_those_of_protobuf(size: int, transaction_id: str) -> None:
    response = scoring_pb2.ScoreResponse(decision_id="x" * size)
    error = scoring_pb2.ScoreResult().error
    error.message = "x" * size
    for result, ends in (
        (
            scoring_pb2.ScoreResult(transaction_id=transaction_id, response=response),
            (response.SerializeToString(), None),
        ),
        (scoring_pb2.ScoreResult(transaction_id=transaction_id, error=error), (None, error.SerializeToString())),
    ):
        assert native.score_result(transaction_id, *ends) == result.SerializeToString()
        whole = scoring_pb2.ScoreBatchResponse(results=[result])
        assert native.score_batch_entry(result.SerializeToString()) == whole.SerializeToString()
