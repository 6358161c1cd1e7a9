"""A trial: a second engine on the same batches as the live one, row by row beside it, held to bounds.

In shadow none of its scores is served. As a canary it decides for a share of the customers, the same ones at every step
up. Both engines score every row of a batch, so each row is a pair, and a bad engine shows within a few batches.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import sqrt
from zlib import crc32

import numpy as np

from fraudgate.engines.bounds import BOUNDS, Bounds
from fraudgate.guardrails.decision import UNSCORED, Thresholds
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Bool, Float32, Float64

WHOLE_PERCENT = 100
_SIGMAS = 4
"""A share is over its bound when it is by so many standard deviations of chance."""
_KEPT_ROWS = 1_024
_KEPT_BATCHES = 512
_SHAPE_PAIRS = _KEPT_ROWS // BATCH_ROWS_MAX
_SHAPE_BATCHES = 8


def chosen(keys: Iterable[str], share_percent: int) -> Bool:
    """Which keys (customers) belong to a share: Bool[n]. Those of a smaller share belong to every larger one."""
    bound = share_percent * (1 << 32)
    return np.array([crc32(key.encode()) * WHOLE_PERCENT < bound for key in keys], np.bool_)


@dataclass(slots=True)
class Trial:
    """Counts of one engine's trial. The loop that scores writes."""

    thresholds: Thresholds
    live_thresholds: Thresholds
    bounds: Bounds = BOUNDS
    rows: int = 0
    failures: int = 0
    unusable: int = 0
    flips: int = 0
    difference_sum: float = 0.0
    difference_max: float = 0.0
    run_ns: float = 0.0
    """A moving mean."""
    _pairs: deque[tuple[Float32, Float32]] = field(default_factory=lambda: deque(maxlen=_KEPT_BATCHES))
    """(live, trial) of the latest batches."""
    _batches: int = 0
    _problem: str = ""

    def fail(self) -> None:
        """The engine raised."""
        self.failures += 1
        self._problem = self._problem or self._judge()

    def compare(self, live: Float32, trial: Float32, run_ns: int) -> None:
        """Take in a batch: both engines' scores, float32[n]. Rows that the live engine could not score are left out."""
        self.run_ns += (run_ns - self.run_ns) / 8
        live_level, level = self.live_thresholds.levels(live), self.thresholds.levels(trial)
        sound = live_level != UNSCORED
        self.unusable += int(np.count_nonzero(sound & (level == UNSCORED)))
        sound &= level != UNSCORED
        self.flips += int(np.count_nonzero((live_level != level) & sound))
        live, trial = live[sound], trial[sound]
        difference = np.abs(live.astype(np.float64) - trial)
        self.rows += len(live)
        self.difference_sum += float(difference.sum())
        self.difference_max = max(self.difference_max, float(difference.max(initial=0.0)))
        self._pairs.append((live, trial))
        self._batches += 1
        self._problem = self._problem or self._judge()

    @property
    def scores(self) -> Float32:
        """The usable scores of the engine on trial, float32[n], those of the latest batches."""
        return np.concatenate((np.zeros(0, np.float32), *(trial for _, trial in self._pairs)))

    @property
    def difference_mean(self) -> float:
        return self.difference_sum / max(self.rows, 1)

    def problem(self) -> str:
        """Why the engine must go, in words; empty while nothing speaks against it."""
        return self._problem

    def _judge(self) -> str:
        bounds = self.bounds
        if self.failures:
            return f"it failed on {self.failures} batches"
        if self.unusable:
            return f"{self.unusable} of its scores are not finite in 0..1"
        if self.rows < bounds.rows_min:
            return ""
        if self.run_ns > bounds.run_ns_max:
            return f"a run takes {self.run_ns / 1e6:.1f} ms, at most {bounds.run_ns_max / 1e6:.1f} are allowed"
        if self.difference_mean > bounds.difference_mean_max:
            return f"its scores differ by {self.difference_mean:.3f} on average, at most {bounds.difference_mean_max}"
        flips_max = bounds.flips_share_max
        if self.flips > flips_max * self.rows + _SIGMAS * sqrt(flips_max * self.rows):
            return f"{self.flips} of {self.rows} decisions flip, at most {flips_max:.0%} are allowed"
        # 0.1 ms of the scoring loop: every batch while the rows are few, then now and then.
        return self._shape_problem() if self.rows <= _KEPT_ROWS or self._batches % _SHAPE_BATCHES == 0 else ""

    def _shape_problem(self) -> str:
        latest = islice(self._pairs, max(len(self._pairs) - _SHAPE_PAIRS, 0), None)
        live, trial = (np.concatenate(side) for side in zip(*latest, strict=True))
        ranks, live_ranks = _dense_ranks(trial), _dense_ranks(live)
        few, many = int(ranks.max()) + 1, int(live_ranks.max()) + 1
        if few < self.bounds.distinct_share_min * many:
            return f"it gives {few} distinct scores where the live engine gives {many}"
        correlation = _correlation(live_ranks, ranks)
        if correlation < self.bounds.correlation_min:
            return f"its scores rank the same rows differently: correlation {correlation:.2f}"
        return ""


def _dense_ranks(values: Float32) -> Float64:
    """Of each value [n] how many distinct ones are smaller. ``np.unique`` imports 10 ms of masked arrays at first."""
    order = np.argsort(values)
    ordered = values[order]
    ranks = np.zeros(len(values))
    ranks[order[1:]] = np.cumsum(ordered[1:] != ordered[:-1])
    return ranks


def _correlation(one: Float64, other: Float64) -> float:
    """Pearson's, of ranks Spearman's; 1 where one side is constant (the count of distinct scores sees that)."""
    deviations = [ranks - ranks.mean() for ranks in (one, other)]
    size = sqrt(float(deviations[0] @ deviations[0]) * float(deviations[1] @ deviations[1]))
    return float(deviations[0] @ deviations[1]) / size if size else 1.0
