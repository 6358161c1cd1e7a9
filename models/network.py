"""The network as numbers: fixed ramps -> layers of ReLU units -> one logit."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fraudgate.transaction import Float32, Float64, Int64
from models.ramps import RampLayer


@dataclass(frozen=True)
class Network:
    """A fitted network, float32 throughout."""

    ramps: RampLayer
    weights: tuple[Float32, ...]  # [ramps, width], [width, next width], ..., [last width, 1]
    biases: tuple[Float32, ...]  # [width], ..., [1]
    weight_step: Float32 | None = None  # [width]: of the first layer in INT8, where training fixed it

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

    @property
    def counts(self) -> Float32:
        """How much each unit [width] of the first layer counts: by what follows from it."""
        return np.asarray(np.abs(self.weights[1]).sum(axis=1))

    def doubled(self, ramps: int, apart: float = 0.0) -> "Network":
        """The same function with ``ramps`` ramps laid twice, each with half the weights: in INT8 its steps are finer.

        In turn the ramp that lets the units' largest weights shrink most. Twins lie ``apart``, up to their clips.
        """
        network, once = self, list(range(len(self.ramps.bias)))
        for _ in range(ramps):
            once.remove(ramp := network._widest_ramp(once))
            network = network._with_twice(ramp, apart)
        return network

    def _widest_ramp(self, once: list[int]) -> int:
        sizes = np.abs(self.weights[0])  # [ramps, width]
        second, largest = np.sort(sizes, axis=0)[-2:]
        sizes = sizes[once]
        halved = np.where(sizes == largest, np.maximum(sizes / 2, second), largest)  # the range, were this ramp halved
        return once[int(np.argmax((largest - halved) @ self.counts))]

    def _with_twice(self, ramp: int, apart: float) -> "Network":
        first, bias = self.weights[0].copy(), self.ramps.bias.copy()
        first[ramp] /= 2
        bias[ramp] += np.float32(apart / 2)
        weight = np.hstack([self.ramps.weight, self.ramps.weight[:, [ramp]]])
        layer = RampLayer(weight, np.append(bias, self.ramps.bias[ramp] - np.float32(apart / 2)))
        return replace(self, ramps=layer, weights=(np.vstack([first, first[[ramp]]]), *self.weights[1:]))

    def in_order(self, ramps: Int64) -> "Network":
        """The same function with its ramps laid in the order ``ramps``."""
        layer = RampLayer(self.ramps.weight[:, ramps], self.ramps.bias[ramps])
        return replace(self, ramps=layer, weights=(self.weights[0][ramps], *self.weights[1:]))

    def with_first(self, weight: Float32, bias: Float32) -> "Network":
        """The network with another ``weight`` [ramps, width] and ``bias`` [width] in its first layer."""
        return replace(self, weights=(weight, *self.weights[1:]), biases=(bias, *self.biases[1:]))

    def calibrated(self, scale: float, bias: float) -> "Network":
        """The network whose logit is scale x logit + bias."""
        return replace(
            self,
            weights=(*self.weights[:-1], (self.weights[-1] * scale).astype(np.float32)),
            biases=(*self.biases[:-1], (self.biases[-1] * scale + bias).astype(np.float32)),
        )
