"""Settling: which way each weight of the first layer is rounded, chosen so that the errors cancel where it counts.

Training on with fake rounding leaves every weight within half a step of where its gradient vanished. Neighbouring ramps
are nearly the same column, though: one rounded up and the other down give the unit back what each alone takes. With all
else fixed, a unit's error is a quadratic form of its weights' steps. So, unit by unit, each weight goes to the whole
step that is best for the logits as served, ramps rounded, until none moves.
"""

from typing import NamedTuple

import numpy as np
import torch

from fraudgate.transaction import Float64, Int64
from models.network import Network
from models.pairs import bounds, whole_steps

ROUNDS = 4  # through the weights of a unit
MOVE_MAX = 2  # steps at once


class Rows(NamedTuple):
    """What the logits are to be, and on which rows."""

    ramps: torch.Tensor  # [n, ramps], rounded to 8-bit steps
    wanted: torch.Tensor  # [n], logits
    counts: torch.Tensor  # [n]: how much a squared error counts


def settle(network: Network, rows: Rows, sweeps: int) -> Network:
    """``network`` with the weights of its first layer in whole steps, the best for ``rows``; biases move with them."""
    scale = network.weight_step
    assert scale is not None
    steps = whole_steps(network.weights[0], scale)
    inputs = torch.cat([rows.ramps, torch.ones(len(rows.ramps), 1)], dim=1)
    network = network.with_first(steps.astype(np.float32) * scale, network.biases[0])
    for _ in range(sweeps):
        logits, slopes = _answers(network, rows.ramps)
        bias, root = network.biases[0].copy(), rows.counts.sqrt()
        error, slopes = (logits - rows.wanted) * root, slopes * root[:, None]
        for unit, step in enumerate(scale.tolist()):
            active = slopes[:, unit].nonzero()[:, 0]
            effects = inputs[active] * slopes[active, unit, None]  # of each weight on each row
            pull = (effects.T @ error[active]).numpy().astype(np.float64)
            change = best_moves((effects.T @ effects).numpy().astype(np.float64), pull, steps[:, unit], step)
            error[active] += effects @ torch.from_numpy(change.astype(np.float32))
            bias[unit] += change[-1]
        network = network.with_first(steps.astype(np.float32) * scale, bias)
    return network


def _answers(network: Network, ramps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n], and how each follows each unit of the first layer [n, width]."""
    layers = [tuple(map(torch.from_numpy, layer)) for layer in zip(network.weights, network.biases, strict=True)]
    (weight, bias), *later = layers
    sums = active = (ramps @ weight + bias).requires_grad_()
    for weight, bias in later:
        active = torch.relu(active) @ weight + bias
    (slopes,) = torch.autograd.grad(active.sum(), sums)
    return active[:, 0].detach(), slopes


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
