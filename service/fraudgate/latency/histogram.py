"""HDR histograms as arrays: the bucket layout, an immutable distribution, and the report made of several.

The layout is HdrHistogram's for 1 ns .. 60 s at 3 significant digits, bucket for bucket: 1,024 linear buckets of 1 ns,
then 1,024 for every doubling. That is the layout of a binary floating-point number cut to 10 bits of mantissa, so the
bucket of many values at once is a conversion to float64 and a shift.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

from fraudgate.limits import SECOND_NS
from fraudgate.transaction import Float64, Int64

LOWEST_NS = 1
HIGHEST_NS = 60 * SECOND_NS
SIGNIFICANT_DIGITS = 3

_HALF_BITS = 10  # 1,024 buckets for every doubling keep 3 significant digits
_HALF = 1 << _HALF_BITS
_FLOAT_SHIFT = 52 - _HALF_BITS
_FLOAT_OFFSET = (1023 + _HALF_BITS - 1) << _HALF_BITS  # float64's exponent bias, and where the doublings start

BUCKETS = (HIGHEST_NS.bit_length() - _HALF_BITS + 1) << _HALF_BITS
NEGATIVE_FROM = (63 - _HALF_BITS + 1) << _HALF_BITS
CELLS = NEGATIVE_FROM + 2 * _HALF
"""A recording array goes on past the last HDR bucket to the end of the 64-bit range, so that recording compares
nothing: cells from ``BUCKETS`` on hold values over the range, from ``NEGATIVE_FROM`` on negative ones (as unsigned
64-bit numbers). Values of 2^62 ns and more (146 years) are not told from negative ones."""

SHARES = ("budget_spent",)
"""Recorded beside the stages, in their layout, but per mille: of its budget, what a decision took."""

RANGE_TOP_NS = (1 << HIGHEST_NS.bit_length()) - 1
"""The largest value that a bucket holds; everything above is over range."""


def indices_of(values_ns: Int64) -> Int64:
    """The cells of ``values_ns`` (int64 of any shape and sign), in their shape."""
    assert values_ns.dtype == np.int64
    indices = values_ns.view(np.uint64).astype(np.float64).view(np.int64)
    indices >>= _FLOAT_SHIFT
    indices -= _FLOAT_OFFSET
    # Below 1,024 the float's exponent would make buckets finer than 1 ns; there the bucket is the value itself.
    np.maximum(indices, np.minimum(values_ns, _HALF), out=indices)
    return indices


def index_of(value_ns: int) -> int:
    """The cell of one value; equal to ``indices_of`` of it."""
    if value_ns < _HALF:
        return value_ns if value_ns >= 0 else NEGATIVE_FROM
    shift = value_ns.bit_length() - _HALF_BITS - 1
    return (shift << _HALF_BITS) + (value_ns >> shift)


def _layout() -> tuple[Int64, Float64]:
    index = np.arange(BUCKETS, dtype=np.int64)
    shift = np.maximum((index >> _HALF_BITS) - 1, 0)
    lowest = (index - (shift << _HALF_BITS)) << shift
    size = np.int64(1) << shift
    return lowest + size - 1, (lowest + (size >> 1)).astype(np.float64)


_HIGHEST_NS, _MIDDLE_NS = _layout()


def highest_ns(indices: Int64) -> Float64:
    """The largest value of each bucket."""
    return _HIGHEST_NS[indices].astype(np.float64)


class Filled(NamedTuple):
    """The cells of a recording array that hold something: few, so copying them is cheap (a dense copy is 450 kB)."""

    indices: Int64  # ascending
    counts: Int64  # > 0

    @classmethod
    def copy(cls, cells: Int64) -> "Filled":
        """Copy int64[CELLS] that another thread may be adding to: each count is of some instant during the call."""
        indices = np.flatnonzero(cells != 0)
        return cls(indices, cells[indices])

    def plus(self, cells: Int64) -> "Filled":
        """With one value more in each of these cells, int64[k], which may repeat."""
        ones = np.ones(len(cells), np.int64)
        return Filled(*_added_up(np.concatenate((self.indices, cells)), np.concatenate((self.counts, ones))))

    def since(self, earlier: "Filled") -> "Filled":
        """What was added after ``earlier``, an older copy of the same cells."""
        counts = self.counts.copy()
        counts[np.searchsorted(self.indices, earlier.indices)] -= earlier.counts
        grown = counts != 0
        return Filled(self.indices[grown], counts[grown])


class Distribution:
    """What one stage recorded over some time; immutable. Everything is derived from one copy of the counts.

    Values over the range stand in the last bucket and are counted in ``over_range``; negative ones (a clock that went
    back) stand at 0 and are counted in ``negative``.
    """

    __slots__ = ("_cumulative", "count", "counts", "indices", "negative", "over_range")

    def __init__(self, indices: Int64, counts: Int64, over_range: int = 0, negative: int = 0) -> None:
        """``indices``: the filled buckets, ascending, below ``BUCKETS``; ``counts``: what they hold, both int64[k]."""
        self.indices, self.counts = indices, counts
        self.over_range, self.negative = over_range, negative
        self._cumulative = counts.cumsum()
        self.count = int(counts.sum())

    @classmethod
    def of(cls, filled: Filled) -> "Distribution":
        """Fold cells beyond the buckets into the range."""
        indices, counts = filled
        within, below_zero = np.searchsorted(indices, (BUCKETS, NEGATIVE_FROM))
        if within == len(indices):
            return cls(indices, counts)
        indices = np.minimum(indices, BUCKETS - 1)
        indices[below_zero:] = 0
        over_range, negative = int(counts[within:below_zero].sum()), int(counts[below_zero:].sum())
        return cls(*_added_up(indices, counts), over_range, negative)

    def __repr__(self) -> str:
        return f"<Distribution [{self.count:,} values, p99 {self.percentile(99):,} ns, max {self.max_ns:,} ns]>"

    def __add__(self, other: "Distribution") -> "Distribution":
        indices = np.concatenate((self.indices, other.indices))
        sums = _added_up(indices, np.concatenate((self.counts, other.counts)))
        return Distribution(*sums, self.over_range + other.over_range, self.negative + other.negative)

    def since(self, earlier: "Distribution") -> "Distribution":
        """What was recorded after ``earlier``, an older copy of the same stage."""
        grown = Filled(self.indices, self.counts).since(Filled(earlier.indices, earlier.counts))
        return Distribution(*grown, self.over_range - earlier.over_range, self.negative - earlier.negative)

    def percentile(self, percent: float) -> int:
        """The value that ``percent`` of the values do not exceed, nanoseconds, rounded up within its bucket."""
        target = max(int(percent * self.count / 100 + 0.5), 1)
        return self._value_at(target) if self.count else 0

    def _value_at(self, target: float) -> int:
        return int(_HIGHEST_NS[self.indices[np.searchsorted(self._cumulative, target)]])

    @property
    def max_ns(self) -> int:
        """The largest value, rounded up within its bucket."""
        return int(_HIGHEST_NS[self.indices[-1]]) if self.count else 0

    @property
    def sum_ns(self) -> float:
        """The sum, each value taken as the middle of its bucket."""
        return float((self.counts * _MIDDLE_NS[self.indices]).sum())

    @property
    def mean_ns(self) -> float:
        return self.sum_ns / self.count if self.count else 0.0

    @property
    def deviation_ns(self) -> float:
        """The standard deviation over the bucket middles."""
        squares = self.counts * (_MIDDLE_NS[self.indices] - self.mean_ns) ** 2
        return float(np.sqrt(squares.sum() / max(self.count, 1)))

    def at_most(self, bound_ns: int) -> int:
        """How many values do not exceed ``bound_ns``; those that share its bucket count as not exceeding it."""
        place = np.searchsorted(self.indices, index_of(bound_ns), side="right")
        return int(self._cumulative[place - 1]) if place else 0

    def level(self, percent: float) -> tuple[int, int]:
        """(value_ns, count up to it) of the first filled bucket where ``percent`` of the values are reached."""
        place = np.searchsorted(self._cumulative, max(percent * self.count / 100, 1))
        return int(_HIGHEST_NS[self.indices[place]]), int(self._cumulative[place])

    def hdr(self) -> HdrHistogram:
        """A copy as the HdrHistogram library's own type, for its encoder."""
        histogram = HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
        np.ctypeslib.as_array(histogram.counts)[self.indices] = self.counts
        if self.count:
            histogram.total_count = self.count
            histogram.min_value = histogram.get_value_from_index(int(self.indices[0]))
            histogram.max_value = self.max_ns
        return histogram


class Packed(NamedTuple):
    """A distribution of fewer than 2^32 values, to be kept: 6 bytes a bucket where that takes 24."""

    indices: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.uint32]
    over_range: int
    negative: int

    @classmethod
    def of(cls, values: Distribution) -> "Packed":
        indices, counts = values.indices.astype(np.uint16), values.counts.astype(np.uint32)
        return cls(indices, counts, values.over_range, values.negative)

    @classmethod
    def total(cls, parts: Iterable["Packed"]) -> "Packed":
        """All values of the parts, together fewer than 2^32."""
        counts, over_range, negative = np.zeros(BUCKETS, np.uint32), 0, 0
        for part in parts:
            counts[part.indices] += part.counts
            over_range += part.over_range
            negative += part.negative
        filled = np.flatnonzero(counts)
        return cls(filled.astype(np.uint16), counts[filled], over_range, negative)

    def unpacked(self) -> Distribution:
        return Distribution(self.indices.astype(np.int64), self.counts.astype(np.int64), self.over_range, self.negative)


def _added_up(indices: Int64, counts: Int64) -> tuple[Int64, Int64]:
    """Add the counts of equal indices; ascending."""
    unique, places = np.unique(indices, return_inverse=True)
    sums = np.zeros(len(unique), np.int64)
    np.add.at(sums, places, counts)
    return unique, sums


@dataclass(frozen=True, slots=True)
class StageLatency:
    """One stage of a report; the names are those of ``fraudgate.v1.StageLatency``."""

    stage: str
    count: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int
    mean_ns: float
    over_range: int


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Every stage against the budget; the names are those of ``fraudgate.v1.GetLatencyReportResponse``."""

    budget_ns: int
    interval_ns: int
    stages: tuple[StageLatency, ...]
    over_budget: int

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        return asdict(self)


def summarise(distributions: Mapping[str, Distribution], budget_ns: int, interval_ns: int) -> LatencyReport:
    """The report of ``distributions`` by stage; ``over_budget`` counts those of ``settled``."""
    stages = tuple(_stage(name, values) for name, values in distributions.items() if name not in SHARES)
    times = settled(distributions)
    over_budget = times.count - times.at_most(budget_ns) if times else 0
    return LatencyReport(budget_ns, interval_ns, stages, over_budget)


def settled(distributions: Mapping[str, Distribution]) -> Distribution | None:
    """What each decision took until its bytes left; until it was made, where nobody said when they did."""
    whole = distributions.get("whole")
    return whole if whole and whole.count else distributions.get("total")


def _stage(name: str, values: Distribution) -> StageLatency:
    p50, p90, p99, p999 = (values.percentile(percent) for percent in (50, 90, 99, 99.9))
    return StageLatency(name, values.count, p50, p90, p99, p999, values.max_ns, values.mean_ns, values.over_range)
