"""The benchmark's protocol: which weeks a model is chosen on, which one it is judged on, and by which numbers.

    train week | delay week | test week          validation folds start on 20 and 27 June, 4 and 11 July,
       7 days  |   7 days   |  7 days            the train week of the published model on 25 July

Everything that is chosen is chosen on the folds. The test week is looked at once, with the choice made.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fraudgate.quality import auc_roc, average_precision, card_precision, protocol_rows
from fraudgate.transaction import Bool, Float32, Float64, Int64
from models.dataset import Dataset, day_number

FOLD_STARTS = ("2018-06-20", "2018-06-27", "2018-07-04", "2018-07-11")
TRAIN_START = "2018-07-25"
FIRST_DAY = day_number(FOLD_STARTS[0])


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
    train_day: Int64  # 0..6 within the week
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


def split(dataset: Dataset, start: str) -> Split:
    """The train week from ``start`` on and its test week, of the customers that the protocol keeps."""
    first_day = day_number(start)
    train, test = protocol_rows(dataset.day, dataset.customer, dataset.is_fraud, first_day)
    return Split(
        start=start,
        train=dataset.features[train].astype(np.float32),
        train_fraud=dataset.is_fraud[train],
        train_day=dataset.day[train] - first_day,
        test=dataset.features[test].astype(np.float32),
        _test_rows=Dataset(dataset.features[test], dataset.day[test], dataset.customer[test], dataset.is_fraud[test]),
    )


def folds(dataset: Dataset) -> list[Split]:
    """The validation folds."""
    return [split(dataset, start) for start in FOLD_STARTS]
