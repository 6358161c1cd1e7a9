"""How good a set of scores is: AUC ROC, average precision, card precision, and the benchmark's choice of rows.

The first two give the numbers of scikit-learn, ties included; card precision and ``protocol_rows`` are those of the
public card-fraud benchmark. They are written here because the demo needs them and serving has no scikit-learn.
"""

import numpy as np
import numpy.typing as npt

from fraudgate.transaction import Bool, Int64

Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.bool_ | np.integer]


def auc_roc(scores: Scores, labels: Labels) -> float:
    """Area under the ROC curve of ``scores`` [n] for ``labels`` [n]: the chance that a fraud outscores a genuine row.

    A tie counts half. Raises ValueError unless both classes occur.
    """
    hits, misses = _cumulative(scores, labels)
    if hits[-1] == 0 or misses[-1] == 0:
        raise ValueError("AUC ROC needs rows of both classes")
    true_rate = np.concatenate([[0], hits]) / hits[-1]
    false_rate = np.concatenate([[0], misses]) / misses[-1]
    return float(np.trapezoid(true_rate, false_rate))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Average precision of ``scores`` [n] for ``labels`` [n]: precision at each threshold, by the recall it adds.

    Raises ValueError where no row is a fraud.
    """
    hits, misses = _cumulative(scores, labels)
    if hits[-1] == 0:
        raise ValueError("average precision needs at least one fraud")
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * (hits / (hits + misses))))


def card_precision(
    scores: Scores, labels: Labels, customers: npt.NDArray[np.generic], days: Int64, top: int = 100
) -> float:
    """Card precision@``top``: the mean over days of the share of frauds among the day's ``top`` customers.

    All arrays are [n]. A customer's score and label of a day are the highest of that day's rows; a customer caught (in
    the top, and a fraud) leaves the pool for the days after. Equal scores are taken in the order of the customers' ids.
    """
    names, who = np.unique(customers, return_inverse=True)
    caught = np.zeros(len(names), np.bool_)
    precisions = []
    for day in np.unique(days):
        rows = np.flatnonzero((days == day) & ~caught[who])
        fraud = np.zeros(len(names), np.bool_)
        np.logical_or.at(fraud, who[rows], labels[rows].astype(np.bool_))
        best = np.full(len(names), -np.inf)
        np.maximum.at(best, who[rows], scores[rows])
        first = np.argsort(-best, kind="stable")[:top]
        found = first[fraud[first]]
        caught[found] = True
        precisions.append(len(found) / top)
    return float(np.mean(precisions))


def protocol_rows(
    days: Int64,
    customers: npt.NDArray[np.generic],
    labels: Labels,
    train_start_day: int,
    *,
    train_days: int = 7,
    delay_days: int = 7,
    test_days: int = 7,
) -> tuple[Bool, Bool]:
    """The benchmark's rows (train [n], test [n]) for a train period that starts on ``train_start_day``.

    ``days`` counts days from any origin. Rows of the test period are dropped from the day on which their customer is
    known to be compromised: after a fraud in the train period, or on any day up to ``delay_days`` + 1 before.
    """
    train_end = train_start_day + train_days
    test_start = train_end + delay_days
    fraud = labels.astype(np.bool_)
    names, who = np.unique(customers, return_inverse=True)
    never = np.iinfo(np.int64).max
    first_fraud_day = np.full(len(names), never)
    seen = fraud & (days >= train_start_day)
    np.minimum.at(first_fraud_day, who[seen], days[seen])
    known_from = np.where(first_fraud_day == never, never, np.maximum(first_fraud_day, train_end - 1) + delay_days + 1)
    train = (days >= train_start_day) & (days < train_end)
    test = (days >= test_start) & (days < test_start + test_days) & (days < known_from[who])
    return train, test


def _cumulative(scores: Scores, labels: Labels) -> tuple[Int64, Int64]:
    """Frauds and genuine rows at or over each distinct score, from the highest score down."""
    if not np.isfinite(scores).all():
        raise ValueError("scores have to be finite")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_score = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(labels[order].astype(np.int64))[last_of_score]
    return hits, last_of_score + 1 - hits
