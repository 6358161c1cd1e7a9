"""From a probability to a decision: two thresholds, chosen on the validation folds."""

from math import ceil
from typing import NamedTuple

import numpy as np

from fraudgate.engines.repository import Thresholds
from fraudgate.transaction import Bool, Float32

DECLINE_PRECISION = 0.9
REVIEW_PRECISION = 0.5


class Caught(NamedTuple):
    """What a threshold takes."""

    name: str
    threshold: float
    share: float  # of the transactions, at or over it
    precision: float
    recall: float


def choose_thresholds(scores: Float32, is_fraud: Bool) -> Thresholds:
    """The lowest scores at or over which REVIEW_PRECISION, and DECLINE_PRECISION, of the rows [n] are frauds.

    Rounded up to three decimals. Raises ValueError where no score is so precise.
    """
    return Thresholds(
        review=_lowest(scores, is_fraud, REVIEW_PRECISION), decline=_lowest(scores, is_fraud, DECLINE_PRECISION)
    )


def caught(scores: Float32, is_fraud: Bool, thresholds: Thresholds) -> list[Caught]:
    """What both thresholds take of ``scores`` [n]."""
    found = []
    for name, threshold in (("decline", thresholds.decline), ("review or decline", thresholds.review)):
        taken = scores.astype(np.float64) >= threshold
        frauds = float(is_fraud[taken].sum())
        found.append(Caught(name, threshold, float(taken.mean()), frauds / taken.sum(), frauds / is_fraud.sum()))
    return found


def flips(scores: Float32, others: Float32, thresholds: Thresholds) -> int:
    """How many rows [n] are decided otherwise by ``others`` than by ``scores``."""
    edges = [thresholds.review, thresholds.decline]
    decided, otherwise = (np.digitize(each.astype(np.float64), edges) for each in (scores, others))
    return int(np.sum(decided != otherwise))


def _lowest(scores: Float32, is_fraud: Bool, precision: float) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last_of_score = np.append(np.diff(ordered) != 0, True)
    precise = np.cumsum(is_fraud[order]) / np.arange(1, len(order) + 1) >= precision
    places = np.flatnonzero(precise & last_of_score)
    if len(places) == 0:
        raise ValueError(f"at no score are {precision:.0%} of the rows frauds: the model separates too little")
    return ceil(float(ordered[places[-1]]) * 1_000) / 1_000
