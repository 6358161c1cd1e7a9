"""The network as numbers: fixed ramps -> layers of ReLU units -> one logit."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fraudgate.transaction import Float32, Float64
from models.ramps import RampLayer


@dataclass(frozen=True)
class Network:
    """A fitted network, float32 throughout."""

    ramps: RampLayer
    weights: tuple[Float32, ...]  # [ramps, width], [width, next width], ..., [last width, 1]
    biases: tuple[Float32, ...]  # [width], ..., [1]
    largest: Float32 | None = None  # [width]: the first layer's ranges, where training fixed them

    def __post_init__(self) -> None:
        assert len(self.weights) == len(self.biases) >= 2
        assert all(before.shape[1] == after.shape[0] for before, after in pairwise(self.weights))

    @property
    def hidden(self) -> tuple[int, ...]:
        """The widths of its hidden layers."""
        return tuple(len(bias) for bias in self.biases[:-1])

    def logits(self, features: Float32) -> Float64:
        """Logits [n] of float32 features [n, F]."""
        active = self.ramps(features)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            active = np.maximum(active @ weight + bias, 0.0)
        return np.asarray((active @ self.weights[-1] + self.biases[-1])[:, 0], np.float64)

    def calibrated(self, scale: float, bias: float) -> "Network":
        """The network whose logit is scale x logit + bias."""
        return replace(
            self,
            weights=(*self.weights[:-1], (self.weights[-1] * scale).astype(np.float32)),
            biases=(*self.biases[:-1], (self.biases[-1] * scale + bias).astype(np.float32)),
        )
