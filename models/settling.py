"""Settling: which way each weight of the first layer is rounded, chosen so that the errors cancel where it counts.

Training on with fake rounding leaves every weight within half a step of where its gradient vanished. Neighbouring ramps
are nearly the same column, though: one rounded up and the other down give the unit back what each alone takes. With all
else fixed, a unit's error is a quadratic form of its weights' steps. So, unit by unit, each weight goes to the whole
step that is best for the logits as served, ramps rounded, until none moves.
"""

from typing import NamedTuple

import numpy as np
import torch

from fraudgate.transaction import Float32, Float64, Int64
from models.network import Network
from models.pairs import bounds, whole_steps

ROUNDS = 4  # through the weights of a unit
MOVE_MAX = 2  # steps at once
UNITS_AT_ONCE = 16


class Rows(NamedTuple):
    """What the logits are to be, and on which rows."""

    ramps: torch.Tensor  # [n, ramps], rounded to 8-bit steps
    wanted: torch.Tensor  # [n], logits
    counts: torch.Tensor  # [n]: how much a squared error counts


def settle(network: Network, rows: Rows, sweeps: int) -> Network:
    """``network`` with the weights of its first layer in whole steps, better for ``rows``; biases move with them.

    A few units move at once, for what each does to a logit changes with the others; where that helps not, they stay.
    """
    network = _with_steps(network, _steps(network), network.biases[0])
    answers = _answers(network, rows)
    for _ in range(sweeps):
        for units in torch.arange(len(network.biases[0])).split(UNITS_AT_ONCE):
            tried = _moved(network, rows, answers, units.tolist())
            found = _answers(tried, rows)
            if found.error.square().sum() < answers.error.square().sum():
                network, answers = tried, found
    return network


class _Answers(NamedTuple):
    error: torch.Tensor  # [n], of the logits, each by the root of what it counts
    slopes: torch.Tensor  # [n, width]: how it follows each unit of the first layer


def _answers(network: Network, rows: Rows) -> _Answers:
    layers = [tuple(map(torch.from_numpy, layer)) for layer in zip(network.weights, network.biases, strict=True)]
    (weight, bias), *later = layers
    sums = active = (rows.ramps @ weight + bias).requires_grad_()
    for weight, bias in later:
        active = torch.relu(active) @ weight + bias
    (slopes,) = torch.autograd.grad(active.sum(), sums)
    root = rows.counts.sqrt()
    return _Answers((active[:, 0].detach() - rows.wanted) * root, slopes * root[:, None])


def _moved(network: Network, rows: Rows, answers: _Answers, units: list[int]) -> Network:
    """``network`` with the weights of ``units`` moved, one unit after the other."""
    steps, bias, error = _steps(network), network.biases[0].copy(), answers.error.clone()
    for unit in units:
        slopes = answers.slopes[:, unit]
        active = slopes.nonzero()[:, 0]
        inputs = torch.cat([rows.ramps[active], torch.ones(len(active), 1)], dim=1)
        effects = inputs * slopes[active, None]  # of each weight, and of the bias, on each row
        curvature, pull = ((effects.T @ each).numpy().astype(np.float64) for each in (effects, error[active]))
        change = best_moves(curvature, pull, steps[:, unit], float(_scale(network)[unit]))
        error[active] += effects @ torch.from_numpy(change.astype(np.float32))
        bias[unit] += change[-1]
    return _with_steps(network, steps, bias)


def _scale(network: Network) -> Float32:
    assert network.weight_step is not None
    return network.weight_step


def _steps(network: Network) -> Int64:
    return whole_steps(network.weights[0], _scale(network))


def _with_steps(network: Network, steps: Int64, bias: Float32) -> Network:
    return network.with_first(steps.astype(np.float32) * _scale(network), bias)


def best_moves(curvature: Float64, pull: Float64, column: Int64, step: float) -> Float64:
    """Move ``column`` [ramps], a unit's whole steps, and its bias; returns by how much each weight moved [ramps + 1].

    The error that is made least is x' ``curvature`` x / 2 + ``pull`` x, at a move of x; the bias comes last, and may be
    any number.
    """
    before, free, moved = column.copy(), curvature.diagonal() > 0, 0.0
    for _ in range(ROUNDS):
        shift = -pull[-1] / curvature[-1, -1] if free[-1] else 0.0
        pull, moved, still = pull + curvature[-1] * shift, moved + shift, True
        for ramp in np.flatnonzero(free[:-1]).tolist():
            wish = np.clip(np.rint(-pull[ramp] / (curvature[ramp, ramp] * step)), -MOVE_MAX, MOVE_MAX)
            neighbour = int(column[ramp ^ 1]) if ramp ^ 1 < len(column) else 0
            move = int(np.clip(column[ramp] + wish, *bounds(neighbour))) - int(column[ramp])
            if move:
                column[ramp] += move
                pull, still = pull + curvature[ramp] * (move * step), False
        if still:
            break
    return np.append((column - before) * step, moved)
