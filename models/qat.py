"""Quantisation-aware training: a fitted network is trained on with its first layer rounded, to give its own answers.

The library is NVIDIA ModelOpt. Brevitas was looked at beside it: both install from PyPI and run on the CPU with today's
PyTorch, but Brevitas pins setuptools under 81 where this project's own dependencies ask for 83, so the two do not live
in one environment. ModelOpt's settings say exactly what ``quantise`` does: u8 steps of 1/255, 7 bits without -64.

The rounded network is fitted to the logits of the one in float, not to the labels again: that moves scores least, and
what a score means stays what the folds chose. A logit's error counts by the slope of the sigmoid there, which is what
it does to the score, and a little everywhere, so that the order of the quiet rows holds too. Steep rows are few: a
recipe may draw them more often.

A unit's step follows from its largest weight, and in most units that belongs to one of a few ramps: "over 220" is a
rule of the benchmark. Laid twice, they need half the weight. Up to a multiple of sixteen ramps that costs no time.

ModelOpt fixes a unit's range once, at the start, and trains inside it. That range goes with the network, so that
``quantise`` rounds to the very steps that were trained.
"""

from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch

from fraudgate.transaction import Float32
from models.fit import Member, batches_of
from models.network import Network
from models.recipe import Recipe

FIRST = "0"  # the first hidden layer's place in the torch model
QUANTISERS: dict[str, Any] = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {
            "quantizer_name": f"{FIRST}.input_quantizer",
            "cfg": {"num_bits": 8, "unsigned": True, "constant_amax": 1.0},
        },
        {
            "quantizer_name": f"{FIRST}.weight_quantizer",
            "cfg": {"num_bits": 7, "axis": 0, "narrow_range": True},
        },
    ],
    "algorithm": "max",
}
QUIET_SLOPE = 0.0003
STEEP_SLOPE = 0.005  # of scores from 0.005 to 0.995
LOSS_SCALE = 10.0  # Adam's step hardly depends on it; it keeps gradients clear of Adam's epsilon


def train_on(network: Network, features: Float32, seed: int, recipe: Recipe) -> Network:
    """``network`` after more epochs on ``features`` [n, F] with its first layer rounded, and its ranges fixed."""
    network = network.doubled(recipe.rounding.doubled_ramps)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inputs = torch.from_numpy(network.ramps(features))
    wanted = torch.from_numpy(network.logits(features).astype(np.float32))
    slope = torch.sigmoid(wanted) * torch.sigmoid(-wanted) + QUIET_SLOPE
    draws = np.where(slope.numpy() > STEEP_SLOPE, recipe.rounding.steep_draws, 1)
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
    return read_back(model, network)


def quantised_model(network: Network, inputs: torch.Tensor) -> torch.nn.Sequential:
    """``network`` in torch, its first layer rounded; the range of a unit's weights is taken from its largest."""
    with redirect_stdout(None):  # a line about each network says nothing
        model = mtq.quantize(torch_model(network), QUANTISERS, lambda whole: whole(inputs))
    assert isinstance(model, torch.nn.Sequential)
    return model


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
    """``network`` with the weights of ``model`` and its first layer's ranges; weights beyond a range are cut to it."""
    linears = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    weights = [linear.weight.detach().numpy().T.copy() for linear in linears]
    biases = tuple(linear.bias.detach().numpy().copy() for linear in linears)
    largest = np.asarray(model[int(FIRST)].weight_quantizer.amax.numpy().reshape(-1), np.float32)
    weights[0] = np.clip(weights[0], -largest, largest)
    return replace(network, weights=tuple(weights), biases=biases, largest=largest)
