"""A trial: a second engine on the same batches as the live one, row by row beside it, held to bounds.

In shadow none of its scores is served. As a canary it decides for a share of the customers, the same ones at every step
up. Both engines score every row of a batch, so each row is a pair, and a bad engine shows within a few batches.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from zlib import crc32

import numpy as np

from fraudgate.engines.bounds import BOUNDS, Bounds
from fraudgate.guardrails.decision import UNSCORED, Thresholds
from fraudgate.transaction import Bool, Float32

WHOLE_PERCENT = 100
_SIGMAS = 4
"""A share is over its bound when it is by so many standard deviations of chance."""
_KEPT_ROWS = 1_024
_KEPT_BATCHES = 512


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
    _pairs: list[tuple[Float32, Float32]] = field(default_factory=list)
    _scores: deque[Float32] = field(default_factory=lambda: deque(maxlen=_KEPT_BATCHES))

    def fail(self) -> None:
        """The engine raised."""
        self.failures += 1

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
        del self._pairs[: -_KEPT_ROWS // 32]
        self._scores.append(trial)

    @property
    def scores(self) -> Float32:
        """The usable scores of the engine on trial, float32[n], those of the latest batches."""
        return np.concatenate((np.zeros(0, np.float32), *self._scores))

    @property
    def difference_mean(self) -> float:
        return self.difference_sum / max(self.rows, 1)

    def problem(self) -> str:
        """Why the engine must go, in words; empty while nothing speaks against it."""
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
        return self._shape_problem()

    def _shape_problem(self) -> str:
        live, trial = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        few, many = len(np.unique(trial)), len(np.unique(live))
        if few < self.bounds.distinct_share_min * many:
            return f"it gives {few} distinct scores where the live engine gives {many}"
        correlation = _rank_correlation(live, trial)
        if correlation < self.bounds.correlation_min:
            return f"its scores rank the same rows differently: correlation {correlation:.2f}"
        return ""


def _rank_correlation(one: Float32, other: Float32) -> float:
    """Spearman's, 1 where one side is constant (the count of distinct scores sees that)."""
    ranks = [np.unique(side, return_inverse=True)[1].astype(np.float64) for side in (one, other)]
    deviations = [rank - rank.mean() for rank in ranks]
    size = sqrt(float(deviations[0] @ deviations[0]) * float(deviations[1] @ deviations[1]))
    return float(deviations[0] @ deviations[1]) / size if size else 1.0
