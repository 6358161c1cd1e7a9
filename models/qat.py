"""Quantisation-aware training: a fitted network is trained on with its first layer rounded, to give its own answers.

The library is NVIDIA ModelOpt. Brevitas was looked at beside it: both install from PyPI and run on the CPU with today's
PyTorch, but Brevitas pins setuptools under 81 where this project's own dependencies ask for 83, so the two do not live
in one environment. ModelOpt's settings say exactly what ``quantise`` does: u8 steps of 1/255, 7 bits without
-64 or 8 without -128.

The rounded network is fitted to the logits of the one in float, not to the labels again: that moves scores least, and
what a score means stays what the folds chose. A logit's error counts by the slope of the sigmoid there, which is what
it does to the score, and a little everywhere, so that the order of the quiet rows holds too. Steep rows are few: a
recipe may draw them more often.

A unit's step follows from its largest weight, and in most units that belongs to one of a few ramps: "over 220" is a
rule of the benchmark. Laid twice, they need half the weight. Up to a multiple of sixteen ramps that costs no time. Half
a step apart, two of 255 steps tell 510 values from each other: whole steps lie a quarter from every edge, so nothing
that was on a step leaves it.

A unit's range is fixed once, at the start, and ModelOpt trains inside it. Its step goes with the network, so that
``quantise`` rounds to the very steps that were trained. Of 8 bits (``pairs``), what is trained is settled at last.
"""

from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch

from fraudgate.transaction import Bool, Float32
from models.fit import Member, batches_of
from models.network import Network
from models.pairs import WEIGHT_MAX, in_pairs, smallest_step, whole_steps
from models.quantise import RAMP_STEP, seven_bit_step
from models.recipe import Recipe, Rounding
from models.settling import Rows, settle

FIRST = "0"  # the first hidden layer's place in the torch model
QUIET_SLOPE = 0.0003
STEEP_SLOPE = 0.005  # of scores from 0.005 to 0.995
LOSS_SCALE = 10.0  # Adam's step hardly depends on it; it keeps gradients clear of Adam's epsilon
SETTLED_QUIET_ROWS = 30_000  # of the rows that are not steep, each counting for all that it stands for


def train_on(network: Network, features: Float32, seed: int, recipe: Recipe) -> Network:
    """``network`` after more epochs on ``features`` [n, F] with its first layer rounded, and its ranges fixed."""
    network = laid(network, recipe.rounding)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inputs = torch.from_numpy(network.ramps(features))
    wanted = torch.from_numpy(network.logits(features).astype(np.float32))
    slope = torch.sigmoid(wanted) * torch.sigmoid(-wanted) + QUIET_SLOPE
    steep = slope.numpy() > STEEP_SLOPE
    draws = np.where(steep, recipe.rounding.steep_draws, 1)
    counts = slope**recipe.rounding.slope_power
    model = quantised_model(network, inputs[: recipe.batch_rows])
    rounding, member = recipe.rounding, Member(seed, np.repeat(np.arange(len(inputs)), draws))
    batches = len(member.rows) // recipe.batch_rows
    optimiser = torch.optim.Adam(model.parameters(), lr=rounding.learning_rate)
    decline = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=rounding.epochs * batches)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(rounding.epochs):
        for (rows,) in batches_of([member], [draw], batches, recipe.batch_rows):
            error = model(inputs[rows])[:, 0] - wanted[rows]
            loss = LOSS_SCALE * (counts[rows] * error.square()).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            decline.step()
    network = read_back(model, network)
    if rounding.settling_sweeps == 0:
        return network
    return settle(network, _rows_to_settle(inputs, wanted, counts, steep), rounding.settling_sweeps)


def laid(network: Network, rounding: Rounding) -> Network:
    """The same function with some ramps laid twice and, in pairs, the steps of 8 bits."""
    network = network.doubled(rounding.doubled_ramps, rounding.twin_steps * float(RAMP_STEP))
    if not rounding.paired:
        return network
    network = network.in_order(in_pairs(network.weights[0], network.counts))
    return replace(network, weight_step=smallest_step(network.weights[0]))


def quantised_model(network: Network, inputs: torch.Tensor) -> torch.nn.Sequential:
    """``network`` in torch, its first layer rounded: in its steps, of 8 bits, or else in 7 up to a unit's largest."""
    with redirect_stdout(None):  # a line about each network says nothing
        cfg = _quantisers(7 if network.weight_step is None else 8)
        model = mtq.quantize(torch_model(network), cfg, lambda whole: whole(inputs))
    assert isinstance(model, torch.nn.Sequential)
    if network.weight_step is not None:
        model[int(FIRST)].weight_quantizer.amax = torch.from_numpy(network.weight_step[:, None] * WEIGHT_MAX)
    return model


def _quantisers(bits: int) -> dict[str, Any]:
    """ModelOpt's settings: the first layer's inputs in 8 bits up to 1, its weights in ``bits``, one range per unit."""
    inputs, weights = (f"{FIRST}.{of}_quantizer" for of in ("input", "weight"))
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": inputs, "cfg": {"num_bits": 8, "unsigned": True, "constant_amax": 1.0}},
            {"quantizer_name": weights, "cfg": {"num_bits": bits, "axis": 0, "narrow_range": True}},
        ],
        "algorithm": "max",
    }


def _rows_to_settle(inputs: torch.Tensor, wanted: torch.Tensor, counts: torch.Tensor, steep: Bool) -> Rows:
    """All steep rows and some of the others, as the first layer sees them in INT8."""
    quiet = np.flatnonzero(~steep)
    drawn = np.random.default_rng(0).choice(quiet, min(SETTLED_QUIET_ROWS, len(quiet)), replace=False)
    rows = torch.from_numpy(np.concatenate([np.flatnonzero(steep), drawn]))
    stands_for = torch.where(torch.from_numpy(steep)[rows], 1.0, len(quiet) / max(len(drawn), 1))
    return Rows((inputs[rows] / RAMP_STEP).round() * RAMP_STEP, wanted[rows], counts[rows] * stands_for)


def torch_model(network: Network) -> torch.nn.Sequential:
    """The trainable layers of ``network``: ramps [n, ramps] in, logits [n, 1] out."""
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data = torch.from_numpy(weight.T.copy())
        linear.bias.data = torch.from_numpy(bias.copy())
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def read_back(model: torch.nn.Sequential, network: Network) -> Network:
    """``network`` with the weights of ``model`` and its first layer's steps; weights beyond what fits are cut to it."""
    linears = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    weights = [linear.weight.detach().numpy().T.copy() for linear in linears]
    biases = tuple(linear.bias.detach().numpy().copy() for linear in linears)
    if (step := network.weight_step) is None:
        largest = np.asarray(model[int(FIRST)].weight_quantizer.amax.numpy().reshape(-1), np.float32)
        weights[0], step = np.clip(weights[0], -largest, largest), seven_bit_step(largest)
    else:
        weights[0] = whole_steps(weights[0], step).astype(np.float32) * step
    return replace(network, weights=tuple(weights), biases=biases, weight_step=step)
