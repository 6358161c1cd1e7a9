"""Is B worse than A? Two sets of runs, one percentile of one stage.

    units      whole runs, where each side has enough; else blocks of consecutive intervals, as neighbours are alike
    interval   of the difference B - A: units drawn anew, with replacement, within each side (bootstrap)
    verdict    worse: the interval lies above 0, and of all ways to deal the units to two sides at most 1 in 100 gives a
               difference as large (permutation test, which is exact also for few units, where the bootstrap is not)

Of two sides that are alike, at most one comparison in 100 says worse. That holds as long as units are alike within a
side: runs of A and B taken in turns are, a morning of A against an evening of B is not. Blocks hold while neighbouring
intervals correlate by up to 0.5; with a correlation of 0.8, 3 comparisons in 100 of the least intervals say worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np

from fraudgate.errors import TooFewSamples
from fraudgate.latency.histogram import Distribution, highest_ns
from fraudgate.transaction import Float64, Int64

RUNS_MIN = 5
"""Runs a side, to compare whole runs: of fewer, two groups can be dealt in less than 100 ways."""
BLOCKS, BLOCK_INTERVALS_MIN = 6, 4
INTERVALS_MIN = BLOCKS * BLOCK_INTERVALS_MIN
"""Intervals a side, where there are fewer runs."""
TAIL_VALUES_MIN = 10
"""Values a side beyond the percentile."""
ALPHA = 0.01
DRAWS = 2_000
_CHUNK = 250  # draws at once: a matrix of so many rows and a column for each bucket stays small
_SEED = 20180808

Run = Sequence[Distribution]
"""One stage of one run, interval by interval."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Percentiles of all values of each side, and what their difference B - A may be; nanoseconds."""

    percent: float
    a_ns: int
    b_ns: int
    low_ns: int
    high_ns: int
    p_value: float
    units: str

    @property
    def worse(self) -> bool:
        return self.low_ns > 0 and self.p_value <= ALPHA


def compare(a: Sequence[Run], b: Sequence[Run], percent: float = 99.0, draws: int = DRAWS) -> Comparison:
    """Compare two sides of at least one run each. Raises TooFewSamples, saying what is missing."""
    for name, runs in (("A", a), ("B", b)):
        _check_values(name, runs, percent)
    units_a, units_b, kind = _units(a, b)
    counts, values_ns = _matrix([*units_a, *units_b])
    n_a, n_b = len(units_a), len(units_b)
    random = np.random.default_rng(_SEED)

    def difference(weights_a: Int64, weights_b: Int64) -> Float64:
        in_b = _percentiles(weights_b, counts, values_ns, percent)
        return in_b - _percentiles(weights_a, counts, values_ns, percent)

    none = np.zeros((draws, 1), np.int64)
    drawn_a = np.hstack((random.multinomial(n_a, np.full(n_a, 1 / n_a), draws), none.repeat(n_b, axis=1)))
    drawn_b = np.hstack((none.repeat(n_a, axis=1), random.multinomial(n_b, np.full(n_b, 1 / n_b), draws)))
    low_ns, high_ns = np.quantile(difference(drawn_a, drawn_b), (ALPHA, 1 - ALPHA), method="inverted_cdf")
    dealt = _deals(n_a, n_b, draws, random)
    differences = difference(dealt, 1 - dealt)
    a_ns, b_ns = (sum(units[1:], units[0]).percentile(percent) for units in (units_a, units_b))
    return Comparison(
        percent=percent,
        a_ns=a_ns,
        b_ns=b_ns,
        low_ns=int(low_ns),
        high_ns=int(high_ns),
        p_value=float(np.mean(differences >= differences[0])),
        units=f"{n_a} {kind} against {n_b}",
    )


def _check_values(name: str, runs: Sequence[Run], percent: float) -> None:
    values = sum(interval.count for run in runs for interval in run)
    needed = round(TAIL_VALUES_MIN / (1 - percent / 100))
    if values < needed:
        raise TooFewSamples(f"{name} has {values:,} values; p{percent:g} needs {needed:,} a side")


def _units(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[Distribution], list[Distribution], str]:
    if min(len(a), len(b)) >= RUNS_MIN:
        return [_sum(run) for run in a], [_sum(run) for run in b], "runs"
    in_a, in_b = sum(map(len, a)), sum(map(len, b))
    if min(in_a, in_b) < INTERVALS_MIN:
        raise TooFewSamples(
            f"A has {len(a)} runs with {in_a} intervals, B {len(b)} with {in_b}; needed are {RUNS_MIN} runs on each "
            f"side, or {INTERVALS_MIN} intervals on each"
        )
    return _blocks(a), _blocks(b), "blocks of intervals"


def _blocks(runs: Sequence[Run]) -> list[Distribution]:
    """``BLOCKS`` blocks of consecutive intervals, as even as can be."""
    intervals = [interval for run in runs for interval in run]
    edges = [round(place * len(intervals) / BLOCKS) for place in range(BLOCKS + 1)]
    return [_sum(intervals[start:end]) for start, end in pairwise(edges)]


def _sum(intervals: Run) -> Distribution:
    return sum(intervals[1:], intervals[0])


def _matrix(units: Sequence[Distribution]) -> tuple[Float64, Float64]:
    """Counts [units, k] of the buckets that hold anything, and the value of each, [k]."""
    indices = np.unique(np.concatenate([unit.indices for unit in units]))
    counts = np.zeros((len(units), len(indices)))
    for row, unit in enumerate(units):
        counts[row, np.searchsorted(indices, unit.indices)] = unit.counts
    return counts, highest_ns(indices)


def _percentiles(weights: Int64, counts: Float64, values_ns: Float64, percent: float) -> Float64:
    """The percentile of each weighted sum of units: weights [draws, units] -> [draws]."""
    found = []
    for start in range(0, len(weights), _CHUNK):
        cumulative = (weights[start : start + _CHUNK] @ counts).cumsum(axis=1)
        targets = np.maximum(np.floor(percent * cumulative[:, -1:] / 100 + 0.5), 1)
        found.append(values_ns[(cumulative < targets).sum(axis=1)])
    return np.concatenate(found)


def _deals(n_a: int, n_b: int, draws: int, random: np.random.Generator) -> Int64:
    """Ways to deal the units to two sides, 1 for A: the true one first, then all others, or so many at random."""
    units = n_a + n_b
    if comb(units, n_a) <= draws:
        chosen = np.array(list(combinations(range(units), n_a)))  # in order: the first is the true one
    else:
        chosen = np.argsort(random.random((draws, units)), axis=1)[:, :n_a]
        chosen[0] = np.arange(n_a)
    dealt = np.zeros((len(chosen), units), np.int64)
    np.put_along_axis(dealt, chosen, 1, axis=1)
    return dealt
