"""The fixed first layer: ramps, Clip((v - low) / (high - low), 0, 1) of a feature or of a difference of two.

A ramp says how far a value has come on its way from ``low`` to ``high``. A row of neighbouring ramps bends a feature at
their ends, as a tree would cut it, and each lies in 0..1: an 8-bit step is the same everywhere, and no calibration data
are needed to know the range. The ramps that matter most are those of the amount against q times the customer's own
mean: "is this payment over q times what this customer spends" is not linear in the features, for each q it is.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fraudgate.transaction import Float32
from models.dataset import SCHEMA

AMOUNT = "TX_AMOUNT"
OWN_MEANS = ("CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW", "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW")
OWN_MEAN_EDGE = 10.0  # major units to either side of q times the mean
RISK = (0.0, 0.1, 0.25, 0.5, 1.0)
MEAN = (0.0, 10.0, 25.0, 50.0, 75.0, 100.0, 150.0)

KNOTS = {
    AMOUNT: (0.0, 10.0, 25.0, 50.0, 75.0, 100.0, 140.0, 180.0, 210.0, 220.0, 230.0, 300.0, 600.0),
    "CUSTOMER_ID_NB_TX_1DAY_WINDOW": (1.0, 8.0),
    "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW": MEAN,
    "CUSTOMER_ID_NB_TX_7DAY_WINDOW": (1.0, 25.0),
    "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW": MEAN,
    "CUSTOMER_ID_NB_TX_30DAY_WINDOW": (1.0, 110.0),
    "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW": MEAN,
    "TERMINAL_ID_NB_TX_1DAY_WINDOW": (0.0, 4.0),
    "TERMINAL_ID_RISK_1DAY_WINDOW": RISK,
    "TERMINAL_ID_NB_TX_7DAY_WINDOW": (0.0, 16.0),
    "TERMINAL_ID_RISK_7DAY_WINDOW": RISK,
    "TERMINAL_ID_NB_TX_30DAY_WINDOW": (0.0, 60.0),
    "TERMINAL_ID_RISK_30DAY_WINDOW": RISK,
}
"""Feature -> the ends of its neighbouring ramps."""
CALENDAR = {"TX_DURING_WEEKEND": (0.0, 1.0), "TX_DURING_NIGHT": (0.0, 1.0)}


class RampPlan(NamedTuple):
    """Which ramps a recipe asks for."""

    own_mean_first: float = 1.5  # the smallest q
    own_mean_last: float = 7.5
    own_mean_step: float = 0.5  # 0: no ramps against the own mean
    calendar: bool = False


class RampLayer(NamedTuple):
    """Clip(features @ weight + bias, 0, 1)."""

    weight: Float32  # [F, ramps]
    bias: Float32  # [ramps]

    def __call__(self, features: Float32) -> Float32:
        """Ramps of float32 ``features`` [n, F]: float32 [n, ramps]."""
        return np.asarray(np.clip(features @ self.weight + self.bias, 0.0, 1.0), np.float32)


def ramp_layer(plan: RampPlan) -> RampLayer:
    """The layer over the features of SCHEMA, in their order."""
    knots = KNOTS | (CALENDAR if plan.calendar else {})
    ramps = [({name: 1.0}, low, high) for name, ends in knots.items() for low, high in pairwise(ends)]
    for mean in OWN_MEANS:
        ramps += [({AMOUNT: 1.0, mean: -q}, -OWN_MEAN_EDGE, OWN_MEAN_EDGE) for q in _own_mean_factors(plan)]
    weight = np.zeros((len(SCHEMA.names), len(ramps)))
    bias = np.zeros(len(ramps))
    for unit, (terms, low, high) in enumerate(ramps):
        bias[unit] = -low / (high - low)
        for name, factor in terms.items():
            weight[SCHEMA.names.index(name), unit] = factor / (high - low)
    return RampLayer(weight.astype(np.float32), bias.astype(np.float32))


def _own_mean_factors(plan: RampPlan) -> list[float]:
    if plan.own_mean_step == 0:
        return []
    count = round((plan.own_mean_last - plan.own_mean_first) / plan.own_mean_step) + 1
    return [plan.own_mean_first + plan.own_mean_step * i for i in range(count)]
