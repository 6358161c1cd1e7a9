"""The recorder's arrays against HdrHistogram itself, bucket for bucket."""

import numpy as np
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.latency.histogram import (
    BUCKETS,
    HIGHEST_NS,
    LOWEST_NS,
    RANGE_TOP_NS,
    SIGNIFICANT_DIGITS,
    Distribution,
    Packed,
    index_of,
    indices_of,
)
from fraudgate.latency.recorder import Increments, Recorder
from fraudgate.transaction import Int64, decided_rows

PERCENTS = [0.001, 1, 50, 90, 99, 99.9, 100]
POWERS = st.integers(0, 61).flatmap(lambda bits: st.integers(-2, 2).map(lambda step: (1 << bits) + step))
TIMES = st.integers(0, 100_000_000) | st.integers(0, RANGE_TOP_NS) | POWERS
VALUES = st.lists(TIMES | st.integers(-(1 << 62), (1 << 62) - 1), max_size=64)


def empty_oracle() -> HdrHistogram:
    return HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)


def naive(values: list[int]) -> tuple[HdrHistogram, int, int]:
    """Record one by one; clamp and count what HdrHistogram refuses."""
    oracle, over_range, negative = empty_oracle(), 0, 0
    for value in values:
        if value < 0:
            negative += 1
            assert oracle.record_value(0)
        elif not oracle.record_value(value):
            over_range += 1
            assert oracle.record_value(RANGE_TOP_NS)
    return oracle, over_range, negative


def dense(recorded: Distribution) -> Int64:
    counts = np.zeros(BUCKETS, np.int64)
    counts[recorded.indices] = recorded.counts
    return counts


def assert_equal(recorded: Distribution, values: list[int]) -> None:
    oracle, over_range, negative = naive(values)
    assert np.array_equal(dense(recorded), np.ctypeslib.as_array(oracle.counts))
    assert (recorded.count, recorded.over_range, recorded.negative) == (len(values), over_range, negative)
    assert recorded.max_ns == oracle.get_max_value()
    percentiles = oracle.get_percentile_to_value_dict(PERCENTS) if values else dict.fromkeys(PERCENTS, 0)
    assert {percent: recorded.percentile(percent) for percent in PERCENTS} == percentiles
    assert np.isclose(recorded.mean_ns, oracle.get_mean_value(), rtol=1e-12)


def test_the_layout_is_hdr_histograms() -> None:
    oracle = empty_oracle()
    assert oracle.counts_len == BUCKETS
    edges = np.unique(np.concatenate([np.array([v - 1, v, v + 1]) for v in 2 ** np.arange(1, 36, dtype=np.int64)]))
    assert indices_of(edges).tolist() == [oracle.get_counts_array_index(v) for v in edges.tolist()]
    assert oracle.record_value(RANGE_TOP_NS)
    assert not oracle.record_value(RANGE_TOP_NS + 1)


@given(VALUES)
@settings(max_examples=30, deadline=None)
def test_recording_an_array_equals_recording_one_by_one(values: list[int]) -> None:
    recorder = Recorder()
    recorder.record("queue", np.array(values, np.int64))
    assert_equal(recorder.since_start()["queue"], values)


@given(st.lists(st.tuples(TIMES | st.integers(-5, 5), st.integers(1, 4)), max_size=20))
@settings(max_examples=30, deadline=None)
def test_recording_repeats_equals_recording_one_by_one(values: list[tuple[int, int]]) -> None:
    recorder = Recorder()
    for value, count in values:
        recorder.record_repeated("total", value, count)
    assert_equal(recorder.since_start()["total"], [value for value, count in values for _ in range(count)])


@given(TIMES | st.integers(-(1 << 61), 0))
def test_one_value_has_the_same_bucket_alone_and_in_an_array(value: int) -> None:
    alone, recorder = Recorder(), Recorder()
    alone.record_one("queue", value)
    recorder.record("queue", np.array([value]))
    one, many = alone.since_start()["queue"], recorder.since_start()["queue"]
    assert np.array_equal(dense(one), dense(many))
    assert (one.over_range, one.negative) == (many.over_range, many.negative)
    assert index_of(value) >= 0


@given(VALUES, VALUES, VALUES)
@settings(max_examples=15, deadline=None)
def test_every_value_falls_into_exactly_one_interval(first: list[int], second: list[int], third: list[int]) -> None:
    recorder = Recorder()
    recorder.record("total", np.array(first, np.int64))
    recorder.reset(1)
    recorder.record("total", np.array(second, np.int64))
    assert_equal(recorder.since_reset()["total"], second)
    recorder.reset(2)
    recorder.record("total", np.array(third, np.int64))
    assert_equal(recorder.since_reset()["total"], third)
    assert_equal(recorder.since_start()["total"], first + second + third)


@given(VALUES, VALUES)
@settings(max_examples=15, deadline=None)
def test_adding_distributions_equals_recording_both(first: list[int], second: list[int]) -> None:
    a, b = Recorder(), Recorder()
    a.record("total", np.array(first, np.int64))
    b.record("total", np.array(second, np.int64))
    assert_equal(a.since_start()["total"] + b.since_start()["total"], first + second)


@given(VALUES, VALUES)
@settings(max_examples=30, deadline=None)
def test_packing_and_unpacking_equals_recording_both(first: list[int], second: list[int]) -> None:
    parts = []
    for values in (first, second):
        recorder = Recorder()
        recorder.record("total", np.array(values, np.int64))
        parts.append(Packed.of(recorder.since_start()["total"]))
    assert_equal(parts[0].unpacked(), first)
    assert_equal(Packed.total(parts).unpacked(), first + second)


@given(st.lists(st.tuples(TIMES, st.booleans()), max_size=48), st.booleans())
@settings(max_examples=30, deadline=None)
def test_increments_add_up_to_everything(decided: list[tuple[int, bool]], native: bool) -> None:
    recorder = Recorder(native=native)
    increments, taken, parts = Increments(recorder), list[int](), []
    for total_ns, take in decided:
        recorder.record_batch(decided_rows(1, 1, 0, 0, 0, total_ns))
        taken.append(total_ns)
        if take:
            parts.append(increments.take()["total"])
            assert_equal(parts[-1].unpacked(), taken)
            taken = []
    parts.append(increments.take()["total"])
    assert_equal(Packed.total(parts).unpacked(), [total_ns for total_ns, _ in decided])


@given(st.lists(TIMES, min_size=1, max_size=64), st.integers(1, RANGE_TOP_NS))
@settings(max_examples=30, deadline=None)
def test_at_most_is_exact_but_for_values_in_the_bounds_own_bucket(values: list[int], bound: int) -> None:
    recorder = Recorder()
    recorder.record("total", np.array(values, np.int64))
    shared = empty_oracle().get_highest_equivalent_value(bound)
    assert recorder.since_start()["total"].at_most(bound) == sum(value <= shared for value in values) + (
        shared == RANGE_TOP_NS
    ) * sum(value > RANGE_TOP_NS for value in values)


@given(VALUES)
@settings(max_examples=20, deadline=None)
def test_the_hdr_copy_encodes_and_decodes_to_itself(values: list[int]) -> None:
    recorder = Recorder()
    recorder.record("total", np.array(values, np.int64))
    distribution = recorder.since_start()["total"]
    copy = distribution.hdr()
    decoded = HdrHistogram.decode(copy.encode())
    assert np.array_equal(np.ctypeslib.as_array(decoded.counts), dense(distribution))
    assert decoded.get_total_count() == copy.get_total_count() == len(values)
    assert copy.get_min_value() == naive(values)[0].get_min_value()
