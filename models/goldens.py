"""Rows for golden.arrow: simulated traffic whose scores are the same number on every sound host.

Between instruction sets the ramps' float sums differ in their last bits. Where such a sum lies on the edge between two
8-bit steps, one host rounds it up and another down, and the score moves by a step of the hidden layer: sound, but more
than a check of equality can allow. So golden rows keep clear of every edge, by the error bound of the sum, and of the
thresholds. What is left has to agree to 1e-5 anywhere, and with ``reference_scores``, which needs no runtime at all.
"""

import numpy as np

from fraudgate.engines.repository import Thresholds
from fraudgate.features.schema import FeatureSchema
from fraudgate.transaction import Bool, Float32, Float64
from models.dataset import SCHEMA, Town, replay
from models.network import Network
from models.quantise import RAMP_STEP, quantise
from models.ramps import RampLayer

ROWS = 2_048
TOWN = Town(seed=20_261_122, customers=1_000, terminals=2_000, start="2018-06-01", days=60)
LAST_DAYS = 14
STEP_MARGIN = 1e-3  # of a step, on top of the error bound
SCORE_MARGIN = 1e-3  # from a threshold


def golden_rows(network: Network, thresholds: Thresholds, schema: FeatureSchema = SCHEMA) -> Float32:
    """float32 [ROWS, F] of ``schema``, a quarter of them at most frauds, the same for the same network."""
    events = TOWN.events()
    last_day = int(events["event_time"][-1].value) // 86_400_000_000_000
    traffic = replay(events, last_day - LAST_DAYS + 1, schema)
    features = traffic.features.astype(np.float32)
    sound = clear_of_edges(network.ramps, features) & clear_of_thresholds(
        reference_scores(network, features), thresholds
    )
    order = np.random.default_rng(TOWN.seed).permutation(np.flatnonzero(sound))
    frauds = order[traffic.is_fraud[order]][: ROWS // 4]
    genuine = order[~traffic.is_fraud[order]][: ROWS - len(frauds)]
    return np.asarray(features[np.sort(np.concatenate([frauds, genuine]))], np.float32)


def clear_of_edges(ramps: RampLayer, features: Float32) -> Bool:
    """Which rows [n] have no ramp so near to the edge between two steps that float32 sums could round it either way."""
    wide, weight = features.astype(np.float64), ramps.weight.astype(np.float64)
    steps = (wide @ weight + ramps.bias) / RAMP_STEP
    terms = np.abs(wide) @ np.abs(weight) + np.abs(ramps.bias)
    error = np.finfo(np.float32).eps * (len(weight) + 2) * terms / RAMP_STEP + STEP_MARGIN
    to_edge = np.abs(steps - (np.clip(np.floor(steps), 0, 254) + 0.5))
    return np.asarray((to_edge > error).all(axis=1))


def clear_of_thresholds(scores: Float64, thresholds: Thresholds) -> Bool:
    """Which scores [n] lie well to one side of both thresholds."""
    edges = np.array([[thresholds.review], [thresholds.decline]])
    return np.asarray((np.abs(scores - edges) > SCORE_MARGIN).all(axis=0))


def reference_scores(network: Network, features: Float32) -> Float64:
    """Scores [n] of the INT8 network, reckoned in integers and float64, apart from any runtime."""
    weight, bias = network.ramps.weight.astype(np.float64), network.ramps.bias
    ramps = np.clip(features.astype(np.float64) @ weight + bias, 0, 1)
    first = quantise(network.weights[0], network.weight_step)
    sums = np.rint(ramps / RAMP_STEP).astype(np.int64) @ first.steps.astype(np.int64)
    active = np.maximum(sums * (np.float64(RAMP_STEP) * first.scale) + network.biases[0], 0)
    for layer in range(1, len(network.weights) - 1):
        active = np.maximum(active @ network.weights[layer].astype(np.float64) + network.biases[layer], 0)
    logits = (active @ network.weights[-1].astype(np.float64) + network.biases[-1])[:, 0]
    return np.asarray(1 / (1 + np.exp(-logits)))
