"""From a logit to a probability: one scale and one bias, fitted on held-out days of the train week."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from fraudgate.engines.repository import Calibration
from fraudgate.transaction import Bool, Float64
from models.fit import Member, fit
from models.network import Network, Recipe
from models.protocol import Split
from models.ramps import RampLayer


def held_out_logits(ramps: RampLayer, week: Split, seed: int, recipe: Recipe) -> Float64:
    """Logits [train rows] of ``week``, each day's from a network of ``seed`` that saw the other days only."""
    days = np.unique(week.train_day)
    members = [Member(seed, np.flatnonzero(week.train_day != day)) for day in days]
    networks = fit(ramps, week.train, week.train_fraud, members, recipe)
    logits = np.empty(len(week.train))
    for day, network in zip(days, networks, strict=True):
        rows = week.train_day == day
        logits[rows] = network.logits(week.train[rows])
    return logits


def fit_calibration(logits: Float64, is_fraud: Bool) -> Calibration:
    """The scale and bias under which Sigmoid(scale x logit + bias) is most likely for the labels."""
    model = LogisticRegression(C=np.inf).fit(logits[:, None], is_fraud)
    return Calibration(scale=float(model.coef_[0, 0]), bias=float(model.intercept_[0]))


def calibrate(
    network: Network, ramps: RampLayer, week: Split, seed: int, recipe: Recipe
) -> tuple[Network, Calibration]:
    """``network``, fitted on all of ``week``, with the calibration of its held-out days folded in."""
    calibration = fit_calibration(held_out_logits(ramps, week, seed, recipe), week.train_fraud)
    return network.calibrated(calibration.scale, calibration.bias), calibration
