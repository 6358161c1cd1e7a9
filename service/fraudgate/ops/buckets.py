"""Bucket bounds of the histograms in ``/metrics``, and the buckets of a distribution.

A bound counts the values of its own HDR bucket too, so a value may stand at a bound that it exceeds by less than 0.1 %.
"""

import numpy as np

from fraudgate.latency.histogram import Distribution, index_of
from fraudgate.limits import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

BOUNDS_NS = (
    *(n * MICROSECOND_NS for n in (5, 10, 25, 50, 100, 250, 500)),
    *(n * MILLISECOND_NS for n in (1, 2, 5, 10, 15, 20, 25, 50, 100, 250, 500)),
    *(n * SECOND_NS for n in (1, 5, 10)),
)
"""Bucket bounds of every histogram in seconds; the 50 ms budget is one of them."""

Buckets = list[tuple[str, float]]


_CELLS = np.array([index_of(bound_ns) for bound_ns in BOUNDS_NS])
_LABELS = [repr(bound_ns / SECOND_NS) for bound_ns in BOUNDS_NS]


def le(bound_ns: int) -> str:
    """The label ``le`` of a bound; ValueError for another duration."""
    return _LABELS[BOUNDS_NS.index(bound_ns)]


def buckets_of(values: Distribution) -> Buckets:
    """Cumulative counts by ``le``."""
    cumulative = np.concatenate(([0], values.counts.cumsum()))
    counts = cumulative[np.searchsorted(values.indices, _CELLS, side="right")].tolist()
    return [*zip(_LABELS, counts, strict=True), ("+Inf", values.count)]
