"""The benchmark's protocol: which weeks a model is chosen on, which one it is judged on, and by which numbers.

    train week | delay week | test week          validation folds start on 20 and 27 June, 4 and 11 July,
       7 days  |   7 days   |  7 days            the train week of the published model on 25 July

Everything that is chosen is chosen on the folds. The test week is looked at once, with the choice made. With its whole
history a model is trained on every day from HISTORY_START to the end of the train week: all these labels are known when
the test week begins, a week later. Labels of the delay week and of the test week are never given to a model.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fraudgate.quality import auc_roc, average_precision, card_precision, protocol_rows
from fraudgate.transaction import Bool, Float32, Float64
from models.dataset import Dataset, day_number

FOLD_STARTS = ("2018-06-20", "2018-06-27", "2018-07-04", "2018-07-11")
TRAIN_START = "2018-07-25"
FIRST_DAY = day_number(FOLD_STARTS[0])
HISTORY_START = "2018-05-08"  # before it the terminals' longest window is not yet full: 30 days, known 7 days later
HISTORY_DAY = day_number(HISTORY_START)
WEEK_DAYS = 7


class Quality(NamedTuple):
    """The three numbers of the published table."""

    auc_roc: float
    average_precision: float
    card_precision_100: float


@dataclass(frozen=True)
class Split:
    """One train week and its test week: float32 features [rows, F] as the engine gets them, and labels."""

    start: str
    train: Float32
    train_fraud: Bool
    train_customer: npt.NDArray[np.generic]
    delay: Float32  # the delay week's rows: their labels are not known in time, and are not here
    test: Float32
    _test_rows: Dataset

    @property
    def test_fraud(self) -> Bool:
        """Labels of the test week's rows."""
        return self._test_rows.is_fraud

    def measure(self, scores: Float32 | Float64) -> Quality:
        """The quality of ``scores`` [rows of the test week]."""
        rows = self._test_rows
        return Quality(
            auc_roc(scores, rows.is_fraud),
            average_precision(scores, rows.is_fraud),
            card_precision(scores, rows.is_fraud, rows.customer, rows.day),
        )


def split(dataset: Dataset, start: str, train_from: str | None = None) -> Split:
    """The train week from ``start`` on and its test week, of the customers that the protocol keeps.

    With ``train_from`` the train rows begin on that day already; the test rows are the same.
    """
    first_day = day_number(start)
    train, test = protocol_rows(dataset.day, dataset.customer, dataset.is_fraud, first_day)
    delay_start = first_day + WEEK_DAYS
    if train_from is not None:
        train = (dataset.day >= day_number(train_from)) & (dataset.day < delay_start)
    delay = (dataset.day >= delay_start) & (dataset.day < delay_start + WEEK_DAYS)
    return Split(
        start=start,
        train=dataset.features[train].astype(np.float32),
        train_fraud=dataset.is_fraud[train],
        train_customer=dataset.customer[train],
        delay=dataset.features[delay].astype(np.float32),
        test=dataset.features[test].astype(np.float32),
        _test_rows=Dataset(dataset.features[test], dataset.day[test], dataset.customer[test], dataset.is_fraud[test]),
    )


def folds(dataset: Dataset, train_from: str | None = None) -> list[Split]:
    """The validation folds."""
    return [split(dataset, start, train_from) for start in FOLD_STARTS]
