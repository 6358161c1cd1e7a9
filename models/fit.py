"""Fitting the trainable part of a network.

Several members of one shape are fitted side by side as one stacked network: ten seeds cost little more than three.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from fraudgate.transaction import Bool, Float32, Float64, Int64
from models.network import Network
from models.ramps import RampLayer, on_steps
from models.recipe import Recipe


class Member(NamedTuple):
    """One network to fit: its seed, and the rows that it may see."""

    seed: int
    rows: Int64


class Targets(NamedTuple):
    """What the logits of n rows are fitted to."""

    is_fraud: Bool  # [n]
    teacher: Float64  # [n], logits
    alpha: Float32  # [n], the label's share of the loss; 0 where the label is unknown


def labels_alone(is_fraud: Bool) -> Targets:
    """Targets [n] without a teacher."""
    return Targets(is_fraud, np.zeros(len(is_fraud)), np.ones(len(is_fraud), np.float32))


def distillation_loss(logits: torch.Tensor, targets: Sequence[torch.Tensor], temperature: float) -> torch.Tensor:
    """Sum of alpha x BCE(label) + (1 - alpha) x T^2 x BCE(the teacher's answer at temperature T).

    ``targets`` are label, teacher's logit and alpha, in the shape of ``logits``. T^2 keeps the gradient's size: the
    softer curve has 1/T of the slope, and logits that are divided by T another 1/T.
    """
    label, teacher, alpha = targets
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    hard = cross_entropy(logits, label, weight=alpha, reduction="sum")
    soft = cross_entropy(logits / temperature, torch.sigmoid(teacher / temperature), weight=1 - alpha, reduction="sum")
    return hard + temperature**2 * soft


def fit(
    ramps: RampLayer, features: Float32, targets: Targets, members: Sequence[Member], recipe: Recipe
) -> list[Network]:
    """Fit one network per member on its rows of ``features`` [n, F]: AdamW, one learning-rate cycle.

    ``ramps`` are where the first layer starts, or stays where the recipe's ``ramp_rate`` is 0. An epoch has as many
    whole batches as the member with the fewest rows can fill. Deterministic on one machine.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inputs = torch.from_numpy(features if recipe.ramp_rate else ramps(features))
    columns = [torch.from_numpy(column.astype(np.float32)) for column in targets]
    draws = [torch.Generator().manual_seed(member.seed) for member in members]
    stack = _Stack(ramps, recipe, _fraud_shares(targets, members), draws)
    batches = min(len(member.rows) for member in members) // recipe.batch_rows
    optimiser, cycle = _optimiser(stack, recipe, recipe.epochs * batches)
    mean, first_averaged = Mean(stack.parameters), recipe.epochs * (1 - recipe.averaged)
    for epoch in range(recipe.epochs):
        for rows in batches_of(members, draws, batches, recipe.batch_rows):
            parts = [column[rows] for column in columns]
            loss = distillation_loss(stack.logits(inputs[rows]), parts, recipe.distillation.temperature)
            optimiser.zero_grad(set_to_none=True)
            (loss / recipe.batch_rows).backward()
            optimiser.step()
            cycle.step()
            if epoch >= first_averaged:
                mean.add()
    if recipe.averaged:
        mean.put()
    return stack.networks()


class Mean:
    """The mean of what parameters were, each time that they were added."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = parameters
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._added = 0

    def add(self) -> None:
        """Count the parameters as they are now."""
        self._added += 1
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 / self._added)

    def put(self) -> None:
        """Give the parameters their mean."""
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            parameter.detach().copy_(mean)


def _fraud_shares(targets: Targets, members: Sequence[Member]) -> Float64:
    """The share [members] of frauds in the rows with a label that each member may see."""
    labelled = [member.rows[targets.alpha[member.rows] > 0] for member in members]
    return np.array([np.mean(targets.is_fraud[rows]) for rows in labelled])


def batches_of(
    members: Sequence[Member], draws: list[torch.Generator], batches: int, batch_rows: int
) -> Iterator[torch.Tensor]:
    """Row numbers [members, batch_rows] of one epoch, each member's in an order of its own."""
    orders = [
        torch.from_numpy(member.rows)[torch.randperm(len(member.rows), generator=draw)]
        for member, draw in zip(members, draws, strict=True)
    ]
    for start in range(0, batches * batch_rows, batch_rows):
        yield torch.stack([order[start : start + batch_rows] for order in orders])


def _optimiser(
    stack: "_Stack", recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate = recipe.learning_rate
    groups = [(stack.weights, recipe.weight_decay, rate), (stack.biases, 0.0, rate)]
    if stack.ends:
        groups.append((stack.ends, 0.0, rate * recipe.ramp_rate))
    optimiser = torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decay} for parameters, decay, _ in groups], lr=rate
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [rate for _, _, rate in groups], total_steps=steps, pct_start=0.1
    )
    return optimiser, cycle


class _Stack:
    """The trainable parameters of all members, stacked along the first axis."""

    def __init__(self, ramps: RampLayer, recipe: Recipe, fraud_shares: Float64, draws: list[torch.Generator]) -> None:
        widths = (len(ramps.bias), *recipe.hidden, 1)
        priors = np.log(fraud_shares / (1 - fraud_shares)).astype(np.float32)
        gains = [2.0] * (len(widths) - 2) + [1.0]
        weights = [
            torch.stack([torch.randn(rows, columns, generator=draw) * (gain / rows) ** 0.5 for draw in draws])
            for (rows, columns), gain in zip(pairwise(widths), gains, strict=True)
        ]
        biases = [torch.zeros(len(draws), 1, width) for width in widths[1:-1]]
        biases.append(torch.from_numpy(priors)[:, None, None])
        self.weights = [weight.requires_grad_() for weight in weights]
        self.biases = [bias.requires_grad_() for bias in biases]
        self._laid = ramps
        self._ramp_weight, self._ramp_bias = torch.from_numpy(ramps.weight), torch.from_numpy(ramps.bias)
        # How far each ramp has been stretched, feature by feature, and shifted: of the size of the weights, whatever
        # a feature's unit. A feature that a ramp does not look at stays out of it.
        self.ends = (
            [
                torch.zeros(len(draws), *ramps.weight.shape, requires_grad=True),
                torch.zeros(len(draws), 1, widths[0], requires_grad=True),
            ]
            if recipe.ramp_rate
            else []
        )

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All that is fitted."""
        return [*self.weights, *self.biases, *self.ends]

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [members, rows] of inputs [members, rows, ramps], or of features where ramps are fitted."""
        active = inputs
        if self.ends:
            stretch, shift = self.ends
            active = torch.baddbmm(self._ramp_bias + shift, inputs, self._ramp_weight * (1 + stretch)).clamp(0, 1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            active = torch.relu(torch.baddbmm(bias, active, weight))
        return torch.baddbmm(self.biases[-1], active, self.weights[-1])[..., 0]

    def networks(self) -> list[Network]:
        """The members, taken apart."""
        weights = [weight.detach().numpy().copy() for weight in self.weights]
        biases = [bias.detach().numpy().copy() for bias in self.biases]
        return [
            Network(layer, tuple(weight[i] for weight in weights), tuple(bias[i, 0] for bias in biases))
            for i, layer in enumerate(self._layers())
        ]

    def _layers(self) -> list[RampLayer]:
        """Each member's ramps."""
        if not self.ends:
            return [self._laid] * len(self.weights[0])
        stretch, shift = (each.detach().numpy() for each in self.ends)
        return [
            RampLayer(self._laid.weight * (1 + stretch[i]), on_steps(self._laid.bias + shift[i, 0]))
            for i in range(len(stretch))
        ]
