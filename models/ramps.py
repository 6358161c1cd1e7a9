"""The fixed first layer: ramps, Clip((v - low) / (high - low), 0, 1) of a feature or of a difference of two.

A ramp says how far a value has come on its way from ``low`` to ``high``. A row of neighbouring ramps bends a feature at
their ends, as a tree would cut it, and each lies in 0..1: an 8-bit step is the same everywhere, and no calibration data
are needed to know the range. The ramps that matter most are those of one value against q times another. "Is this
payment over q times what this customer spends" is not linear in the features, for each q it is; and a customer whose
mean of the last week or day is over q times that of the month has been spending like somebody else.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fraudgate.features.schema import FeatureSchema
from fraudgate.transaction import Float32
from models.dataset import HISTORY_SCHEMA, SCHEMA

AMOUNT = "TX_AMOUNT"
DAY_MEAN, WEEK_MEAN, MONTH_MEAN = (f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW" for days in (1, 7, 30))
DAY_RISK, WEEK_RISK, MONTH_RISK = (f"TERMINAL_ID_RISK_{days}DAY_WINDOW" for days in (1, 7, 30))
RISK = (0.0, 0.1, 0.25, 0.5, 1.0)
OWN_MEAN_FACTORS = tuple(np.arange(1.5, 7.51, 0.5).tolist())
MEAN = (0.0, 10.0, 25.0, 50.0, 75.0, 100.0, 150.0)

KNOTS = {
    AMOUNT: (0.0, 10.0, 25.0, 50.0, 75.0, 100.0, 140.0, 180.0, 210.0, 220.0, 230.0, 300.0, 600.0),
    "CUSTOMER_ID_NB_TX_1DAY_WINDOW": (1.0, 8.0),
    DAY_MEAN: MEAN,
    "CUSTOMER_ID_NB_TX_7DAY_WINDOW": (1.0, 25.0),
    WEEK_MEAN: MEAN,
    "CUSTOMER_ID_NB_TX_30DAY_WINDOW": (1.0, 110.0),
    MONTH_MEAN: MEAN,
    "TERMINAL_ID_NB_TX_1DAY_WINDOW": (0.0, 4.0),
    DAY_RISK: RISK,
    "TERMINAL_ID_NB_TX_7DAY_WINDOW": (0.0, 16.0),
    WEEK_RISK: RISK,
    "TERMINAL_ID_NB_TX_30DAY_WINDOW": (0.0, 60.0),
    MONTH_RISK: RISK,
}
"""Feature -> the ends of its neighbouring ramps."""


class Ratio(NamedTuple):
    """Ramps of ``value`` - q x ``base`` from ``low`` to ``high``, one for each q."""

    value: str
    base: str
    factors: tuple[float, ...]  # q
    low: float
    high: float


OWN_WEEK = Ratio(AMOUNT, WEEK_MEAN, OWN_MEAN_FACTORS, -10.0, 10.0)
OWN_MONTH = Ratio(AMOUNT, MONTH_MEAN, OWN_MEAN_FACTORS, -10.0, 10.0)
"""Is this payment large for this customer?"""
RISING_MEAN = (
    Ratio(WEEK_MEAN, MONTH_MEAN, (0.8, 1.0, 1.2, 1.5, 2.0), -8.0, 8.0),
    Ratio(DAY_MEAN, MONTH_MEAN, (0.7, 1.0, 1.5, 2.0, 3.0), -8.0, 8.0),
)
"""Have this customer's payments grown of late?"""
RISK_EDGES = -0.1, 0.104  # most terminals have no risk at all: zero lies on a step (125), not on the edge between two
RISING_RISK = (
    Ratio(WEEK_RISK, MONTH_RISK, (0.5, 1.0, 1.5, 2.0, 3.0), *RISK_EDGES),
    Ratio(DAY_RISK, WEEK_RISK, (0.5, 1.0, 1.5, 2.0), *RISK_EDGES),
)
"""Have this terminal's frauds begun of late?"""


class RampPlan(NamedTuple):
    """Which ramps a recipe asks for."""

    knots: Mapping[str, tuple[float, ...]] = KNOTS
    ratios: tuple[Ratio, ...] = (OWN_WEEK, OWN_MONTH)
    schema: FeatureSchema = SCHEMA  # of the features that they look at


FINE = RampPlan(ratios=(OWN_WEEK, OWN_MONTH, *RISING_MEAN, *RISING_RISK))
"""Where there are many days to learn from."""
SPARSE = RampPlan(
    knots=KNOTS
    | {AMOUNT: (0.0, *KNOTS[AMOUNT][2:])}
    | dict.fromkeys((DAY_MEAN, WEEK_MEAN, MONTH_MEAN), (0.0, 25.0, 50.0, 75.0, 100.0)),
    ratios=(OWN_MONTH, *RISING_MEAN),
)
"""64 ramps, for a small network."""
STARTS = RampPlan(
    knots=KNOTS
    | {AMOUNT: (0.0, 50.0, 100.0, 180.0, 210.0, 220.0, 230.0, 300.0)}
    | dict.fromkeys((DAY_MEAN, WEEK_MEAN, MONTH_MEAN), (0.0, 40.0, 80.0, 120.0))
    | dict.fromkeys((DAY_RISK, WEEK_RISK, MONTH_RISK), (0.0, 0.15, 0.5, 1.0)),
    ratios=(
        OWN_MONTH._replace(factors=(1.5, 2.5, 3.5, 4.5, 5.5, 7.0)),
        OWN_WEEK._replace(factors=(2.0, 4.0)),
        RISING_MEAN[0]._replace(factors=(1.0, 1.5)),
        RISING_MEAN[1]._replace(factors=(1.0, 2.0)),
        RISING_RISK[0]._replace(factors=(0.7, 2.0)),
        RISING_RISK[1]._replace(factors=(0.7,)),
    ),
)
"""46 ramps to start from, where a fit moves their ends."""

PAST_MEAN = "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW_TO_14DAYS_AGO"
RISKS = tuple(f"TERMINAL_ID_RISK_{days}DAY_WINDOW" for days in (1, 3, 7, 14, 21, 30))
HISTORY_STARTS = RampPlan(
    knots={
        **STARTS.knots,
        PAST_MEAN: STARTS.knots[MONTH_MEAN],
        "CUSTOMER_ID_NB_TX_30DAY_WINDOW_TO_14DAYS_AGO": STARTS.knots["CUSTOMER_ID_NB_TX_30DAY_WINDOW"],
        **dict.fromkeys(RISKS, STARTS.knots[MONTH_RISK]),
        **{f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW": (0.0, end) for days, end in ((3, 9.0), (14, 30.0), (21, 44.0))},
    },
    ratios=(
        Ratio(AMOUNT, PAST_MEAN, (1.5, 2.5, 3.5, 4.5, 5.5, 7.0), -10.0, 10.0),
        Ratio(DAY_MEAN, PAST_MEAN, (1.0, 1.5), -8.0, 8.0),
        Ratio(WEEK_MEAN, PAST_MEAN, (1.0, 1.5), -8.0, 8.0),
        Ratio(MONTH_MEAN, PAST_MEAN, (0.8, 1.2), -8.0, 8.0),
        *(Ratio(late, longer, (0.7, 2.0), *RISK_EDGES) for late, longer in pairwise(RISKS)),
    ),
    schema=HISTORY_SCHEMA,
)
"""69 ramps to start from: against what the customer spent until two weeks ago, and six windows of a terminal's risk."""


class RampLayer(NamedTuple):
    """Clip(features @ weight + bias, 0, 1)."""

    weight: Float32  # [F, ramps]
    bias: Float32  # [ramps]

    def __call__(self, features: Float32) -> Float32:
        """Ramps of float32 ``features`` [n, F]: float32 [n, ramps]."""
        return np.asarray(np.clip(features @ self.weight + self.bias, 0.0, 1.0), np.float32)


def on_steps(bias: Float32) -> Float32:
    """``bias`` [ramps] in whole 8-bit steps: where all features of a ramp are 0, as risks mostly are, is no edge."""
    return (np.rint(bias * 255) / 255).astype(np.float32)


def ramp_layer(plan: RampPlan) -> RampLayer:
    """The layer over the features of the plan's schema, in their order."""
    names = plan.schema.names
    ramps = [({name: 1.0}, low, high) for name, ends in plan.knots.items() for low, high in pairwise(ends)]
    for value, base, factors, low, high in plan.ratios:
        ramps += [({value: 1.0, base: -q}, low, high) for q in factors]
    weight = np.zeros((len(names), len(ramps)))
    bias = np.zeros(len(ramps))
    for unit, (terms, low, high) in enumerate(ramps):
        bias[unit] = -low / (high - low)
        for name, factor in terms.items():
            weight[names.index(name), unit] = factor / (high - low)
    return RampLayer(weight.astype(np.float32), bias.astype(np.float32))
