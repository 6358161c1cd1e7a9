"""What the scoring loop did with its time, by counters that only grow: it decided, or waited for a CPU.

Whoever ticks adds a sample, whoever explains asks for the difference over a row's own time, however late the ticks
were. Between two samples a counter is taken to grow evenly.
"""

from collections import deque
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fraudgate.latency.lateness import Sample
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import Float64, Int64

SAMPLES_MAX = 1_024
"""Of each kind: ten seconds of ticks."""
BURST_FACTOR = 2
"""Rows that come so much faster than usual are a burst."""
AGO_NS = 5 * SECOND_NS
"""What was usual so long before: a burst that goes on is not."""


class Measure(Protocol):
    """How much of a time something took."""

    def between(self, start_ns: Int64, end_ns: Int64) -> Int64:
        """Nanoseconds of each start..end; int64[n]."""
        ...


class Counted:
    """A counter that only grows: float64[n] totals at int64[n] instants, which increase."""

    def __init__(self, at_ns: Int64, totals: Float64) -> None:
        self._at_ns, self._totals = at_ns, totals

    def grown(self, start_ns: Int64, end_ns: Int64) -> Float64:
        """By how much in each start..end; nothing before the first sample and after the last."""
        until, since = (np.interp(ends_ns, self._at_ns, self._totals) for ends_ns in (end_ns, start_ns))
        grown: Float64 = np.maximum(until - since, 0.0)
        return grown

    def between(self, start_ns: Int64, end_ns: Int64) -> Int64:
        """See ``Measure``."""
        taken_ns: Int64 = np.minimum(self.grown(start_ns, end_ns), end_ns - start_ns).astype(np.int64)
        return taken_ns


class Busy:
    """The time that went into deciding rows, where they came ``BURST_FACTOR`` times as fast as usual; or else not."""

    def __init__(self, served: Counted, rows: Counted, usual: tuple[Int64, Float64], is_burst: bool) -> None:
        self._served, self._rows, self._usual, self._is_burst = served, rows, usual, is_burst

    def between(self, start_ns: Int64, end_ns: Int64) -> Int64:
        """See ``Measure``."""
        rate = self._rows.grown(start_ns, end_ns) / np.maximum(end_ns - start_ns, 1)
        is_burst = rate >= BURST_FACTOR * np.interp(start_ns - AGO_NS, *self._usual)
        return np.where(is_burst == self._is_burst, self._served.between(start_ns, end_ns), 0)


class Progress:
    """Samples of two threads: any thread adds, one asks."""

    def __init__(self) -> None:
        self._loop: deque[tuple[Sample, float]] = deque(maxlen=SAMPLES_MAX)
        self._front: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)

    def __repr__(self) -> str:
        return f"<Progress [{len(self._loop)} samples of the loop, {len(self._front)} of the front end]>"

    def add(self, sample: Sample, usual: float) -> None:
        """Of the scoring loop. usual: rows a nanosecond, as it was before the sample."""
        self._loop.append((sample, usual))

    def add_front(self, now_ns: int, waiting_ns: int) -> None:
        """How long the front end's thread has waited for a CPU by now."""
        self._front.append((now_ns, waiting_ns))

    def reaches(self, at_ns: int) -> bool:
        """Whether the loop was sampled then or later; also where nobody samples it."""
        return not self._loop or self._loop[-1][0].now_ns >= at_ns

    def measures(self) -> Mapping[str, Measure]:
        """By cause, as far as there are samples."""
        found: dict[str, Measure] = {}
        front, loop = np.array(self._front.copy(), np.int64), self._loop.copy()
        if len(front):
            found["front_wait"] = Counted(front[:, 0], front[:, 1].astype(np.float64))
        if loop:
            samples = np.array([sample for sample, _ in loop], np.int64)
            at_ns, _, waiting_ns, _, rows, _ = samples.T
            counted = Counted(at_ns, rows.astype(np.float64))
            served = Counted(at_ns, _served_ns(samples))
            usual = at_ns, np.array([usual for _, usual in loop])
            found["cpu_wait"] = Counted(at_ns, waiting_ns.astype(np.float64))
            found |= {cause: Busy(served, counted, usual, cause == "burst") for cause in ("burst", "overload")}
        return found


def _served_ns(samples: Int64) -> Float64:
    """What deciding took by each sample, the waits for a CPU left out: float64[n] of int64[n, 6].

    The loop may have waited while an engine worked, which then cost nothing: no batch takes less than the usual one.
    """
    length_ns, cpu_ns, waiting_ns, worked_ns, _, batches = np.diff(samples, axis=0).T
    served_ns = np.maximum(worked_ns - waiting_ns, np.minimum(cpu_ns, worked_ns))
    some = batches > 0
    usual_ns = np.median(served_ns[some] / batches[some]) if some.any() else 0.0
    return np.concatenate(([0.0], np.cumsum(np.minimum(np.maximum(served_ns, usual_ns * batches), length_ns))))
