"""Fitting the trainable part of a network.

Several members of one shape are fitted side by side as one stacked network: ten seeds cost little more than three.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fraudgate.transaction import Bool, Float32, Int64
from models.network import Network, Recipe
from models.ramps import RampLayer


class Member(NamedTuple):
    """One network to fit: its seed, and the rows that it may see."""

    seed: int
    rows: Int64


def fit(
    ramps: RampLayer, features: Float32, is_fraud: Bool, members: Sequence[Member], recipe: Recipe
) -> list[Network]:
    """Fit one network per member on its rows of ``features`` [n, F]: AdamW, cross entropy, one learning-rate cycle.

    An epoch has as many whole batches as the member with the fewest rows can fill. Deterministic on one machine.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inputs = torch.from_numpy(ramps(features))
    labels = torch.from_numpy(is_fraud.astype(np.float32))
    draws = [torch.Generator().manual_seed(member.seed) for member in members]
    stack = _Stack(inputs.shape[1], recipe.hidden, float(np.mean(is_fraud)), draws)
    batches = min(len(member.rows) for member in members) // recipe.batch_rows
    optimiser = torch.optim.AdamW(
        [{"params": stack.weights, "weight_decay": recipe.weight_decay}, {"params": stack.biases, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.epochs * batches, pct_start=0.1
    )
    for _ in range(recipe.epochs):
        orders = [
            torch.from_numpy(member.rows)[torch.randperm(len(member.rows), generator=draw)]
            for member, draw in zip(members, draws, strict=True)
        ]
        for start in range(0, batches * recipe.batch_rows, recipe.batch_rows):
            rows = torch.stack([order[start : start + recipe.batch_rows] for order in orders])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                stack.logits(inputs[rows]), labels[rows], reduction="sum"
            )
            optimiser.zero_grad(set_to_none=True)
            (loss / recipe.batch_rows).backward()
            optimiser.step()
            cycle.step()
    return stack.networks(ramps)


class _Stack:
    """The trainable parameters of all members, stacked along the first axis."""

    def __init__(self, inputs: int, hidden: int, fraud_share: float, draws: list[torch.Generator]) -> None:
        prior = float(np.log(fraud_share / (1 - fraud_share)))
        weights = [
            torch.stack([torch.randn(rows, columns, generator=draw) * (gain / rows) ** 0.5 for draw in draws])
            for rows, columns, gain in ((inputs, hidden, 2.0), (hidden, 1, 1.0))
        ]
        biases = [torch.zeros(len(draws), 1, hidden), torch.full((len(draws), 1, 1), prior)]
        self.weights = [weight.requires_grad_() for weight in weights]
        self.biases = [bias.requires_grad_() for bias in biases]

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [members, rows] of inputs [members, rows, ramps]."""
        hidden = torch.relu(torch.baddbmm(self.biases[0], inputs, self.weights[0]))
        return torch.baddbmm(self.biases[1], hidden, self.weights[1])[..., 0]

    def networks(self, ramps: RampLayer) -> list[Network]:
        """The members, taken apart."""
        hidden, output, hidden_bias, output_bias = (
            parameter.detach().numpy().copy() for parameter in (*self.weights, *self.biases)
        )
        return [Network(ramps, hidden[i], hidden_bias[i, 0], output[i], output_bias[i, 0]) for i in range(len(hidden))]
