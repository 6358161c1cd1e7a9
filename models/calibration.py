"""From a logit to a probability: one scale and one bias, fitted on weeks that the networks did not see."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from fraudgate.engines.repository import Calibration
from fraudgate.transaction import Bool, Float64


def fit_calibration(logits: Float64, is_fraud: Bool) -> Calibration:
    """The scale and bias under which Sigmoid(scale x logit + bias) is most likely for the labels [n]."""
    model = LogisticRegression(C=np.inf).fit(logits[:, None], is_fraud)
    return Calibration(scale=float(model.coef_[0, 0]), bias=float(model.intercept_[0]))
