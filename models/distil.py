"""Students: networks fitted to a teacher's answers, then trained on with the rounding that serving does."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from models import qat
from models.fit import Member, fit
from models.network import Network
from models.protocol import Split
from models.ramps import ramp_layer
from models.recipe import Recipe
from models.teacher import Lesson, student_rows


class Student(NamedTuple):
    """One network, and what is served of it."""

    fitted: Network  # in float; rounded as it is, it is the post-training quantisation to compare with
    rounded: Network  # trained on with its first layer rounded: what is served


def fit_students(week: Split, lesson: Lesson | None, seeds: Iterable[int], recipe: Recipe) -> list[Network]:
    """Fit a student per seed on ``week``, whose teacher, if any, answered with ``lesson``, in float."""
    features, targets = student_rows(week, lesson, recipe.distillation)
    members, ramps = [Member(seed, np.arange(len(features))) for seed in seeds], ramp_layer(recipe.ramps)
    stacks = [members] if recipe.side_by_side else [[member] for member in members]
    return [network for stack in stacks for network in fit(ramps, features, targets, stack, recipe)]


def distil(week: Split, lesson: Lesson | None, seeds: Iterable[int], recipe: Recipe) -> list[Student]:
    """The same, and each student trained on with its first layer rounded."""
    seeds = list(seeds)
    features, _ = student_rows(week, lesson, recipe.distillation)
    return [
        Student(network, qat.train_on(network, features, seed, recipe))
        for network, seed in zip(fit_students(week, lesson, seeds, recipe), seeds, strict=True)
    ]
