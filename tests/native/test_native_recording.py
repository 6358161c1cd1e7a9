"""What is recorded of every batch in native code, and its rules, against their references in Python."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.drift.watch import Ring, columns_of
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.spans import Spans
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Answers, decided_rows
from tests.native.test_native_drafts import STAMPS, USABLE, decided

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")


@settings(max_examples=100)
@given(st.lists(st.lists(STAMPS, min_size=1, max_size=5), min_size=1, max_size=3))
def test_watchers_are_told_the_spans_of_the_reference(batches: list[list[tuple[int, ...]]]) -> None:
    assert told(Recorder(), batches) == told(Recorder(native=False), batches)


def told(recorder: Recorder, batches: list[list[tuple[int, ...]]]) -> list[Spans]:
    found: list[Spans] = []
    recorder.watchers.append(lambda _, spans: found.append(spans))
    for batch in batches:
        recorder.record_batch(decided(batch))
    return found


def test_a_batch_is_counted_later_while_a_reader_copies() -> None:
    recorder = Recorder()
    with recorder._waiting.still:
        recorder.record_batch(decided([(0, 1, 2, 3, 4)]))
    recorder.record_batch(decided([(0, 1, 2, 3, 4)] * 2))
    assert recorder.since_start()["total"].count == 3


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans(), USABLE), max_size=BATCH_ROWS_MAX)


def answered(rows: list[tuple[int, int, bool, float]]) -> Answers:
    answers = decided_rows(len(rows), 1, 0, 0, 0, 0)
    for name, column in zip(("decision", "fallback", "scored", "score"), zip(*rows, strict=True), strict=False):
        answers[name] = column
    return answers


@given(st.lists(ROWS, max_size=3))
def test_decisions_are_counted_as_the_reference_counts_them(batches: list[list[tuple[int, int, bool, float]]]) -> None:
    kernel, reference = Counters(), Counters(native=False)
    for rows in batches:
        kernel.count_decided(answered(rows))
        reference.count_decided(answered(rows))
    assert kernel.copy() == reference.copy()


@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 5), st.randoms())
def test_rows_are_kept_for_the_drift_watch_as_the_reference_keeps_them(
    batches: list[list[tuple[int, int, bool, float]]], width: int, before: int, random: Random
) -> None:
    values = [0.0, 1.5, -1e300, math.inf, math.nan, 1e-50]
    kept = [
        (np.array([random.choices(values, k=width) for _ in rows]).reshape(-1, width), answered(rows))
        for rows in batches
    ]
    kernel, reference = Ring(80, width), Ring(80, width)
    for ring in (kernel, reference):
        ring.add(np.zeros((before, width), np.float32), np.zeros(before, np.float32))
    reference.add(*columns_of(kept))
    rows = sum(map(len, batches))
    assert kernel.add_batches(kept) == (before + rows <= 80)
    if before + rows <= 80:
        assert kernel.features.tobytes() == reference.features.tobytes()
        assert np.array_equal(kernel.scores, reference.scores, equal_nan=True)


def test_rows_that_do_not_fit_a_ring_are_refused() -> None:
    features, scores = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
    rows = answered([(1, 1, True, 0.5)] * 3)
    for values, start in [(np.zeros((3, 2)), 2), (np.zeros((3, 3)), 0), (np.zeros((2, 2)), 0), (np.zeros((3, 2)), 9)]:
        with pytest.raises(ValueError, match=r"ring|features"):
            native.keep_rows([(values, rows.tobytes())], features, scores, start)
    assert not scores.any()


def test_the_rule_kernel_refuses_what_is_no_condition() -> None:
    one, compare = ("double", 0, 1.0), (">", 0, 0.0)
    for steps in ([one], [one, one], [one, ("amount", 0, 0.0), compare], [compare], [("power", 0, 0.0)], []):
        with pytest.raises(ValueError, match=r"operand|truth|step"):
            native.RuleKernel([(steps, [], False)])
    kernel = native.RuleKernel([([("feature", 1, 0.0), one, compare], [], False)])
    amounts, bits = np.zeros(2, np.int64), np.zeros(2, np.uint64)
    for features in (np.ones((2, 1)), np.ones((3, 2)), np.full((2, 4), 2.0)[:, ::2]):
        with pytest.raises((ValueError, BufferError)):
            kernel.fire(features, amounts, bits)
    assert not bits.any()
