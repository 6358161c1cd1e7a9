"""The network as numbers: fixed ramps -> ReLU units -> one logit."""

from dataclasses import dataclass, field

import numpy as np

from fraudgate.transaction import Float32, Float64
from models.ramps import RampLayer, RampPlan


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a fit, except the seed and the rows."""

    hidden: int = 64
    epochs: int = 30
    learning_rate: float = 0.01
    weight_decay: float = 0.1
    batch_rows: int = 512
    ramps: RampPlan = field(default_factory=RampPlan)


@dataclass(frozen=True)
class Network:
    """A fitted network, float32 throughout."""

    ramps: RampLayer
    hidden_weight: Float32  # [ramps, hidden]
    hidden_bias: Float32  # [hidden]
    output_weight: Float32  # [hidden, 1]
    output_bias: Float32  # [1]

    def logits(self, features: Float32) -> Float64:
        """Logits [n] of float32 features [n, F]."""
        hidden = np.maximum(self.ramps(features) @ self.hidden_weight + self.hidden_bias, 0.0)
        return np.asarray((hidden @ self.output_weight + self.output_bias)[:, 0], np.float64)

    def calibrated(self, scale: float, bias: float) -> "Network":
        """The network whose logit is scale x logit + bias."""
        return Network(
            self.ramps,
            self.hidden_weight,
            self.hidden_bias,
            (self.output_weight * scale).astype(np.float32),
            (self.output_bias * scale + bias).astype(np.float32),
        )
