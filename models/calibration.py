"""From a logit to a probability to a decision: one scale and one bias on held-out days, and two thresholds."""

from math import ceil

import numpy as np
from sklearn.linear_model import LogisticRegression

from fraudgate.engines.repository import Calibration, Thresholds
from fraudgate.transaction import Bool, Float32, Float64
from models.network import Member, Network, Recipe, fit
from models.protocol import Split
from models.ramps import RampLayer

DECLINE_PRECISION = 0.9
REVIEW_PRECISION = 0.5


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


def choose_thresholds(scores: Float32 | Float64, is_fraud: Bool) -> Thresholds:
    """The lowest scores over which at least REVIEW_PRECISION, and DECLINE_PRECISION, of the rows are frauds."""
    order = np.argsort(-scores, kind="stable")
    precision = np.cumsum(is_fraud[order]) / np.arange(1, len(order) + 1)
    review, decline = (
        float(scores[order][np.flatnonzero(precision >= least)[-1]]) for least in (REVIEW_PRECISION, DECLINE_PRECISION)
    )
    return Thresholds(review=_round_up(review), decline=_round_up(decline))


def _round_up(score: float) -> float:
    return ceil(score * 1_000) / 1_000
