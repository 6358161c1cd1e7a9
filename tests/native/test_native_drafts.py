"""Drafts, recorded stages and the check of well-formed batches in native code, against their references in Python."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudgate.frontend.codec import request_columns
from fraudgate.frontend.native_columns import NativeColumns
from fraudgate.guardrails.decision import Thresholds
from fraudgate.guardrails.drafts import Head, draft, draft_levels
from fraudgate.latency.histogram import CELLS
from fraudgate.latency.recorder import STAGES, Recorder
from fraudgate.limits import AMOUNT_MINOR_MAX, BATCH_ROWS_MAX, EVENT_TIME_NS_MIN
from fraudgate.transaction import ANSWER_DTYPE, Answers, decided_rows
from fraudgate.v1 import scoring_pb2
from fraudgate.validation import Validator
from tests.native.messages import transactions
from tests.unit.transactions import EVENT_TIME_NS, numbered, transaction

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

INT64 = st.integers(-(2**63), 2**63 - 1)
NEAR_AN_EDGE = [0.0, -0.0, 0.3, 0.8, 1.0, 1e-45, *np.nextafter(np.float32([0.3, 0.3, 0.8, 0.8]), [0, 1, 0, 1]).tolist()]
USABLE = st.sampled_from(NEAR_AN_EDGE) | st.floats(0, 1, width=32)
UNUSABLE = st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, -1e-45, float(np.nextafter(np.float32(1), 2))])
EDGES = st.sampled_from([(0.3, 0.8), (0.0, 0.0), (-0.0, 1.0), (1.0, 2.0), (2.0, 2.0), (0.1, 0.1)])


def columns_of(made: list[scoring_pb2.Transaction], arrivals_ns: list[int]) -> NativeColumns:
    rows, _ = native.decode_batch(scoring_pb2.ScoreBatchRequest(transactions=made).SerializeToString())
    return NativeColumns(native.Columns(rows, arrivals_ns, [0] * len(made)))


def drafted_alike(scores: list[float], edges: tuple[float, float], head: Head, fallback: int) -> bool:
    """Whether the kernel drafted, and if so as the reference does."""
    rows = range(len(scores))
    columns = columns_of(numbered(len(rows)), [1_000 + 7 * i for i in rows])
    score, fallbacks = np.array(scores, np.float32), np.full(len(scores), fallback, np.uint8)
    fallbacks[::2] = 1
    thresholds = Thresholds(*edges)
    with np.errstate(all="ignore"):
        expected = draft_levels(thresholds.levels(score), columns, rows, score, fallbacks, head)
    found = draft(thresholds, columns, rows, score, fallbacks, head)
    assert found.answers.tobytes() == expected.answers.tobytes()
    assert found.answers.flags.writeable
    assert (found.scored is None) == (expected.scored is None)
    if found.scored is not None and expected.scored is not None:
        assert found.scored.tolist() == expected.scored.tolist()
    return native.draft_answers(columns.native, score, fallbacks, thresholds.edges, *head) is not None


HEADS = st.builds(Head, st.integers(0, 2**32 - 1), st.integers(0, 2**62), INT64, INT64, INT64)


@settings(max_examples=300)
@given(st.lists(USABLE, min_size=1, max_size=BATCH_ROWS_MAX), EDGES, HEADS, st.integers(1, 3))
def test_drafts_of_usable_scores_are_those_of_the_reference(
    scores: list[float], edges: tuple[float, float], head: Head, fallback: int
) -> None:
    assert drafted_alike(scores, edges, head, fallback)


@settings(max_examples=100)
@given(st.lists(USABLE, max_size=5), UNUSABLE, st.lists(USABLE | UNUSABLE, max_size=5), EDGES, HEADS)
def test_a_score_that_may_not_decide_is_left_to_the_reference(
    before: list[float], unusable: float, after: list[float], edges: tuple[float, float], head: Head
) -> None:
    assert not drafted_alike([*before, unusable, *after], edges, head, 1)


def test_a_draft_needs_a_score_and_a_fallback_for_each_row() -> None:
    columns = columns_of(numbered(2), [1, 2])
    head, edges = Head(1, 2, 3, 4, 5), Thresholds(0.3, 0.8).edges
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    for score, fallback in [(one, np.ones(2, np.uint8)), (two, np.ones(1, np.uint8)), (two[::2], np.ones(1, np.uint8))]:
        with pytest.raises(ValueError, match="each row"):
            native.draft_answers(columns.native, score, fallback, edges, *head)
    with pytest.raises(ValueError, match="contiguous"):
        native.draft_answers(columns.native, np.zeros(4, np.float32)[::2], np.ones(2, np.uint8), edges, *head)


STAMPS = st.tuples(*[st.integers(-(2**61), 2**61) | st.integers(0, 10**8)] * 5)


def decided(stamps: list[tuple[int, ...]]) -> Answers:
    rows = decided_rows(len(stamps), 1, 0, 0, 0, 0)
    for name, column in zip(
        ("arrival", "taken_up", "gathered", "inferred", "answered"), np.array(stamps).T, strict=True
    ):
        rows[f"{name}_ns"] = column
    return rows


@settings(max_examples=300)
@given(st.lists(st.lists(STAMPS, min_size=1, max_size=BATCH_ROWS_MAX), min_size=1, max_size=3))
@example([[(0, 1023, 2047, 4096, 2**61), (5, 4, 3, 2, 1), (-(2**61), 2**61, 0, -(2**61), 2**61)]])
def test_stages_are_counted_as_the_reference_counts_them(batches: list[list[tuple[int, ...]]]) -> None:
    kernel, reference = Recorder(), Recorder(native=False)
    for batch in batches:
        kernel.record_batch(decided(batch))
        reference.record_batch(decided(batch))
    for stage in STAGES:
        found, expected = kernel.since_start()[stage], reference.since_start()[stage]
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.counts.tolist() == expected.counts.tolist()
    reference._add_up(reference._waiting._things)
    assert all(np.array_equal(kernel.cells(stage), reference.cells(stage)) for stage in STAGES)


def test_the_stage_kernel_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="CELLS"):
        native.StageKernel([np.zeros(CELLS - 1, np.int64)] * 5)
    cells = [np.zeros(CELLS, np.int64) for _ in range(5)]
    with pytest.raises(ValueError, match="ANSWER_DTYPE"):
        native.StageKernel(cells).add(bytes(ANSWER_DTYPE.itemsize + 1))
    assert not any(each.any() for each in cells)


CURRENCIES = frozenset({"EUR", "USD"})
BOUNDS = st.integers(EVENT_TIME_NS_MIN - 2, EVENT_TIME_NS_MIN + 10**18)
ODD: list[dict[str, Any]] = [
    {"amount_minor": AMOUNT_MINOR_MAX},
    {"amount_minor": AMOUNT_MINOR_MAX + 1},
    {"amount_minor": -1},
    {"amount_minor": 0},
    {"currency": "USD"},
    {"currency": "XXX"},
    {"currency": ""},
    {"customer_id": "\x01"},
    {"customer_id": "é"},
    {"transaction_id": ""},
    {"attributes": {"a": 1.0}},
    {"attributes": {"": 1.0}},
]
MADE = (
    st.sampled_from(ODD).map(lambda fields: transaction(**fields)) | st.just(transaction(currency="EUR")) | transactions
)


@settings(max_examples=400)
@given(st.lists(MADE, min_size=1, max_size=5), st.sampled_from([-1, 0, 1, 10**15]) | BOUNDS)
def test_problems_are_the_same_with_the_native_check(made: list[scoring_pb2.Transaction], after_ns: int) -> None:
    columns, reference = columns_of(made, [0] * len(made)), request_columns(made, [0] * len(made), [0] * len(made))
    validator, latest_ns = Validator(CURRENCIES), EVENT_TIME_NS + after_ns
    found, expected = validator.problems(columns, latest_ns), validator.problems(reference, latest_ns)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.tolist() == expected.tolist()


def test_a_usual_batch_is_well_formed_at_once() -> None:
    columns = columns_of(numbered(32), [0] * 32)
    bounds = (EVENT_TIME_NS_MIN, EVENT_TIME_NS * 2), (0, AMOUNT_MINOR_MAX)
    assert columns.well_formed(CURRENCIES, *bounds)
    assert not columns.well_formed(frozenset({"USD"}), *bounds)
