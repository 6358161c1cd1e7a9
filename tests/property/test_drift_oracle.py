"""Bins, PSI, KS and the live window against their definitions, one value at a time."""

from math import log, nan
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fraudgate.drift.kept import LiveReference
from fraudgate.drift.reference import BINS_MAX, SCORE, Bins, Reference, bin_edges, has_drifted, ks, psi
from fraudgate.drift.watch import DriftReport, DriftWatch
from fraudgate.errors import EngineRefused
from fraudgate.transaction import ANSWER_DTYPE, Answers, Float32, Float64

NAMES = ("FLAG", "COUNT", "AMOUNT")

VALUES = st.one_of(
    st.floats(-(2.0**99), 2.0**99, width=32), st.integers(-3, 30).map(float), st.sampled_from([0.0, -0.0, 0.1, 1.0])
)
SAMPLES = st.integers(1, 200).flatmap(lambda rows: arrays(np.float32, rows, elements=VALUES))


def naive_shares(edges: Float32, values: Float32) -> list[float]:
    """The smoothed share of each bin: each value looks for the first edge that is not under it."""
    counts = [0.5] * (len(edges) + 1)
    for value in values.tolist():
        counts[next((place for place, edge in enumerate(edges.tolist()) if value <= edge), len(edges))] += 1
    return [count / sum(counts) for count in counts]


def naive_psi(edges: Float32, reference: Float32, live: Float32) -> float:
    shares = zip(naive_shares(edges, live), naive_shares(edges, reference), strict=True)
    return sum((p - q) * log(p / q) for p, q in shares)


def naive_ks(edges: Float32, reference: Float32, live: Float32) -> float:
    def at_most(edge: float, values: Float32) -> float:
        return sum(value <= edge for value in values.tolist()) / len(values)

    return max((abs(at_most(edge, live) - at_most(edge, reference)) for edge in edges.tolist()), default=0.0)


@given(SAMPLES, SAMPLES)
def test_psi_and_ks_are_their_definitions_on_the_raw_samples(reference: Float32, live: Float32) -> None:
    bins = Bins.of("ANY", reference)
    counts = bins.count(live)
    assert psi(bins.counts, counts) == pytest.approx(naive_psi(bins.edges, reference, live), rel=1e-9, abs=1e-12)
    assert ks(bins.counts, counts) == pytest.approx(naive_ks(bins.edges, reference, live), abs=1e-12)
    assert ks(bins.counts, bins.counts) == 0 <= psi(bins.counts, counts)


@given(SAMPLES)
def test_no_bin_between_the_least_and_the_greatest_is_empty_or_twice(sample: Float32) -> None:
    bins = Bins.of("ANY", sample)
    assert len(bins.counts) == len(bins.edges) + 1 <= BINS_MAX
    assert (np.diff(bins.edges) > 0).all()
    assert bins.edges.dtype == np.float32
    assert bins.counts[0] == bins.counts[-1] == 0
    assert (bins.counts[1:-1] > 0).all()
    assert bins.counts.sum() == len(sample)
    assert bins.edges[-1] == sample.max()
    distinct = len(np.unique(sample))
    if distinct <= BINS_MAX - 2:
        assert len(bins.counts) <= distinct + 2


@given(st.integers(1, 18), st.integers(0, 2**32 - 1))
def test_few_values_of_like_frequency_have_a_bin_each(distinct: int, seed: int) -> None:
    sample = np.random.default_rng(seed).permutation(np.repeat(np.arange(distinct), 7)).astype(np.float32)
    assert bin_edges(sample)[1:].tolist() == list(range(distinct))


def test_a_feature_that_is_mostly_zero_has_its_fine_bins_elsewhere() -> None:
    sample = np.concatenate([np.zeros(9_700), np.random.default_rng(1).uniform(0.01, 1, 300)]).astype(np.float32)
    counts = Bins.of("RISK", sample).counts
    assert counts[1] == 9_700
    assert len(counts) == BINS_MAX
    assert counts[2:-1].max() <= 2 * counts[2:-1].min()


def decided(scores: list[float | None]) -> Answers:
    """Answers with these scores; None = rules alone decided."""
    answers = np.zeros(len(scores), ANSWER_DTYPE)
    answers["scored"] = [score is not None for score in scores]
    answers["score"] = [score or 0.0 for score in scores]
    return answers


ROW = st.tuples(
    st.sampled_from([0.0, 1.0]), st.integers(0, 9), st.floats(0, 1e4), st.none() | st.floats(0, 1, width=32)
)
BATCH = st.lists(ROW, min_size=1, max_size=32)
BATCHES = st.lists(BATCH, max_size=90)
Row = tuple[float, int, float, float | None]


def record(watch: DriftWatch, rows: list[tuple[float, int, float, float | None]]) -> None:
    features: Float64 = np.array([row[:3] for row in rows], np.float64)
    watch.record_batch(features, decided([row[3] for row in rows]))


def recounted(
    reference: Reference, rows: list[tuple[float, int, float, float | None]]
) -> dict[str, tuple[float, float]]:
    """PSI and KS by name over exactly these rows."""
    columns = [[row[place] for row in rows] for place in range(3)]
    columns.append([row[3] for row in rows if row[3] is not None])
    found = {}
    for bins, column in zip(reference.columns, columns, strict=True):
        if column and bins.counts.any():
            counts = bins.count(np.array(column, np.float32))
            found[bins.name] = (psi(bins.counts, counts), ks(bins.counts, counts))
    return found


def by_name(report: DriftReport) -> dict[str, tuple[float, float]]:
    return {each.feature: (each.psi, each.ks) for each in report.features}


@given(BATCHES, st.integers(1, 700), st.integers(1, 300), st.integers(0, 89))
def test_the_window_is_a_recount_of_the_last_rows(
    batches: list[list[tuple[float, int, float, float | None]]], window_rows: int, reference_rows: int, ask: int
) -> None:
    watch = DriftWatch(NAMES, window_rows=window_rows, reference_rows=reference_rows)
    for number, batch in enumerate(batches):
        record(watch, batch)
        if number == ask:
            watch.report()  # whenever the reference is made, it is of the same rows
    rows = [row for batch in batches for row in batch]
    first, window = rows[:reference_rows], rows[reference_rows:][-window_rows:]
    report = watch.report()
    assert (report.source, report.reference_rows) == ("live", len(first))
    assert report.window_rows == len(window)
    assert report.unscored_rows == sum(row[3] is None for row in window)
    if len(first) < reference_rows or 2 * len(window) < window_rows:
        assert report.features == ()
        return
    features = np.array([row[:3] for row in first], np.float32)
    scores = np.array([np.nan if row[3] is None else row[3] for row in first], np.float32)
    assert by_name(report) == recounted(Reference.of(NAMES, features, scores), window)


@given(
    st.lists(st.tuples(st.lists(BATCH, max_size=30), st.sampled_from("ABC"), st.booleans()), max_size=6),
    st.integers(1, 200),
    st.integers(1, 200),
)
def test_after_a_swap_the_window_is_a_recount_of_the_new_engines_rows(
    lives: list[tuple[list[list[Row]], str, bool]], window_rows: int, reference_rows: int
) -> None:
    """Lives: what an engine decides until the next one, its name, and whether it brings a reference of its scores."""
    watch = DriftWatch(NAMES, engine="A", window_rows=window_rows, reference_rows=reference_rows)
    own = {name: Bins.of(SCORE, np.linspace(0, ord(name) / 100, 50, dtype=np.float32)) for name in "ABC"}
    reference, scores, live = None, {}, "A"
    first: list[Row] = []
    first_live, window = live, []
    for batches, name, brings in lives:
        if name != live:
            live, window = name, []
            if brings:
                scores[name] = own[name]
            watch.follow(name, own[name] if brings else None)
            if len(first) < reference_rows:
                first, first_live = [], name
        for batch in batches:
            record(watch, batch)
            room = reference_rows - len(first)
            first, window = first + batch[:room], window + batch[room:]
        if reference is None and len(first) == reference_rows:
            made = Reference.of(NAMES, *columns_of(first))
            reference = made.columns[:-1]
            scores.setdefault(first_live, made.columns[-1])
            watch.report()  # makes it too, while some rows wait to be added up
    report, window = watch.report(), window[-window_rows:]
    assert report.window_rows == len(window)
    if reference is None or 2 * len(window) < window_rows:
        assert report.features == ()
        return
    columns = (*reference, scores.get(live, Bins.of(SCORE, np.zeros(0, np.float32))))
    assert by_name(report) == recounted(Reference(columns), window)


def test_first_rows_that_nobody_asked_about_before_a_swap_are_the_reference_of_their_engine() -> None:
    watch = DriftWatch(NAMES, engine="first", window_rows=64, reference_rows=64)
    for name, score, judged in (("first", 0.25, False), ("second", 0.5, False), ("first", 0.25, True)):
        watch.follow(name, None)
        for _ in range(32):
            record(watch, [(1.0, 2, 3.0, score)] * 2)
        if name == "second" or judged:
            found = {each.feature: each.verdict for each in watch.report().features}
            assert found == {**dict.fromkeys(NAMES, "steady"), **({SCORE: "steady"} if judged else {})}


def columns_of(rows: list[Row]) -> tuple[Float32, Float32]:
    """Features and scores of rows; NaN where there is no score."""
    scores = [np.nan if row[3] is None else row[3] for row in rows]
    return np.array([row[:3] for row in rows], np.float32), np.array(scores, np.float32)


def test_scores_are_compared_before_there_is_a_reference_of_features() -> None:
    watch = DriftWatch(NAMES, window_rows=64, reference_rows=1_024)
    for name, score, verdict in (("second", 0.5, "steady"), ("third", 0.25, "drifted")):
        watch.follow(name, Bins.of(SCORE, np.full(1_000, 0.5, np.float32)))
        for _ in range(32):
            record(watch, [(1.0, 2, 3.0, score)] * 2)
        found = watch.score()
        assert found is not None
        assert (found.verdict, found.rows, watch.report().features) == (verdict, 64, ())


@given(st.lists(ROW, min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_the_order_of_rows_within_the_window_does_not_matter(
    rows: list[tuple[float, int, float, float | None]], random: Random
) -> None:
    features, scores = np.array([row[:3] for row in rows], np.float32), np.full(len(rows), 0.5, np.float32)
    reference = Reference.of(NAMES, features, scores)
    shuffled = list(rows)
    random.shuffle(shuffled)
    reports = []
    for order in (rows, shuffled):
        watch = DriftWatch(NAMES, reference, window_rows=len(rows))
        for start in range(0, len(order), 7):
            record(watch, order[start : start + 7])
        reports.append(watch.report())
    assert reports[0] == reports[1]
    assert all(each.psi == each.ks == 0 for each in reports[0].features if each.feature != "score")


@given(SAMPLES)
def test_a_reference_comes_back_from_json_with_the_same_bits(sample: Float32) -> None:
    features = np.stack([sample, -sample, sample * 0], axis=1)
    reference = Reference.of(NAMES, features, np.where(sample > 0, np.float32(0.25), np.float32(np.nan)))
    back = Reference.from_json(reference.to_json(), NAMES)
    assert back.rows == reference.rows == len(sample)
    for mine, other in zip(reference.columns, back.columns, strict=True):
        assert mine.name == other.name
        assert mine.edges.tobytes() == other.edges.tobytes()
        assert mine.counts.tolist() == other.counts.tolist()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ((b"{", b"["), "cannot be read"),
        ((b'"COUNT"', b'"OTHER"'), "other features"),
        ((b'"counts"', b'"count"'), "cannot be read"),
        ((b"[0,2,2,0]", b"[0,2,2]"), "FLAG does not hold"),
        ((b"[0,2,2,0]", b"[0,-2,2,0]"), "FLAG does not hold"),
        ((b"0.0,1.0", b"1.0,0.0"), "FLAG does not hold"),
    ],
)
def test_a_spoiled_reference_is_refused(edit: tuple[bytes, bytes], message: str) -> None:
    features = np.array([[0, 1, 2], [1, 2, 3], [0, 3, 4], [1, 4, 5]], np.float32)
    data = b"".join(Reference.of(NAMES, features, np.full(4, 0.5, np.float32)).to_json().split())
    assert edit[0] in data
    with pytest.raises(EngineRefused, match=message):
        Reference.from_json(data.replace(*edit, 1), NAMES)


def test_a_value_beyond_float32_is_watched_as_infinite() -> None:
    watch = DriftWatch(NAMES, window_rows=64, reference_rows=32)
    for _ in range(96):
        record(watch, [(1.0, 2, 1e300, 0.5)])
    assert watch.report().drifted == []


@given(st.lists(ROW, min_size=32, max_size=32), st.lists(ROW, min_size=32, max_size=64))
def test_a_reference_of_live_rows_outlives_the_process(first: list[Row], then: list[Row]) -> None:
    watch = DriftWatch(NAMES, engine="A", window_rows=64, reference_rows=32)
    assert watch.kept() is None
    record(watch, first)
    kept = watch.kept()
    assert kept is not None
    assert kept.scores.keys() == {"A"}
    data = kept.to_json()
    assert data is not None
    again = DriftWatch(NAMES, LiveReference.from_json(data, NAMES), engine="A", window_rows=64, reference_rows=32)
    for each in (watch, again):
        record(each, then)
    assert again.report() == watch.report()
    assert again.report().source == "live"
    assert again.score() == watch.score()
    found = again.kept()
    assert found is not None
    assert found.to_json() == data
    other = DriftWatch(NAMES, LiveReference.from_json(data, NAMES), engine="B", window_rows=64)
    record(other, then)
    assert other.score() is None, "the scores of another engine"


def test_what_makes_no_reference_is_not_kept() -> None:
    rows = np.zeros((4, 3), np.float32)
    published = DriftWatch(NAMES, Reference.of(NAMES, rows, np.full(4, 0.5, np.float32)))
    assert published.kept() is None
    watch = DriftWatch(NAMES, window_rows=4, reference_rows=4)
    record(watch, [(nan, 0, 1.0, 0.5)] * 4)
    kept = watch.kept()
    assert kept is not None
    assert kept.to_json() is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ((b"AMOUNT", b"OTHER"), "other features"),
        ((b'"counts":[0', b'"counts":[-1'), "Expected `int` >= 0"),
        ((b'"counts":[0,', b'"counts":['), "do not hold"),
        ((b'"edges":"', b'"edges":"AAAA'), "multiple of element size"),
        ((b"{", b""), "malformed|truncated|Expected"),
    ],
)
def test_a_kept_reference_that_was_changed_is_refused(edit: tuple[bytes, bytes], message: str) -> None:
    watch = DriftWatch(NAMES, window_rows=4, reference_rows=4)
    record(watch, [(float(row), row, 1.0, 0.5) for row in range(4)])
    data = (kept.to_json() if (kept := watch.kept()) else None) or b""
    assert edit[0] in data
    with pytest.raises(ValueError, match=message):
        LiveReference.from_json(data.replace(*edit, 1), NAMES)


def test_repr_says_what_has_drifted() -> None:
    features = np.repeat(np.arange(4, dtype=np.float32), 100)[:, None] * np.ones(3, np.float32)
    watch = DriftWatch(NAMES, Reference.of(NAMES, features, np.full(400, 0.5, np.float32)), window_rows=64)
    assert repr(watch) == "<DriftWatch [0 rows, drifted: nothing]>"
    for row in range(64):
        record(watch, [(float(row % 4), row % 4, 9.0, 0.5)])
    assert repr(watch) == "<DriftWatch [64 rows, drifted: AMOUNT]>"


MOSTLY_ZERO = np.array([0, 9_700, 100, 100, 100, 0])


@pytest.mark.parametrize(
    ("live", "drifted"),
    [
        ([0, 9_700, 100, 100, 100, 0], False),
        ([0, 9_760, 60, 90, 90, 0], False),  # frauds come in clusters
        ([0, 9_925, 25, 25, 25, 0], False),
        ([0, 9_926, 25, 25, 24, 0], True),  # under a quarter of them
        ([0, 10_000, 0, 0, 0, 0], True),
        ([0, 8_850, 383, 383, 384, 0], False),
        ([0, 8_700, 433, 433, 434, 0], True),
        ([0, 9_700, 0, 0, 300, 0], True),  # as many, but none is small
        ([0, 9_810, 0, 0, 190, 0], False),  # too few to say
        ([300, 9_400, 100, 100, 100, 0], True),  # below the least of the reference
    ],
)
def test_of_a_feature_that_is_mostly_zero_the_rest_is_looked_at(live: list[int], drifted: bool) -> None:
    assert sum(live) == 10_000
    assert has_drifted(MOSTLY_ZERO, np.array(live)) is drifted


def test_a_rest_of_too_few_rows_says_nothing() -> None:
    assert not has_drifted(np.array([0, 9_951, 49, 0]), np.array([0, 10_000, 0, 0]))
    assert has_drifted(np.array([0, 9_950, 50, 0]), np.array([0, 10_000, 0, 0]))
    assert not has_drifted(np.array([0, 9_950, 50, 0]), np.array([0, 9_800, 200, 0]))
    assert has_drifted(np.array([0, 9_950, 50, 0]), np.array([0, 9_799, 201, 0]))
