"""The teacher: boosted trees and networks side by side, whose answers a student is fitted to.

A teacher that has seen a row's label answers with the label. So the train rows' customers are dealt into groups, and
each row is answered by models that were fitted without its customer's group. For rows whose labels nobody has, the
delay week's, the models of all groups answer and the mean counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xgboost import XGBClassifier

from fraudgate.transaction import Float32, Float64, Int64
from models.fit import Member, Targets, fit, labels_alone
from models.protocol import Split
from models.ramps import RampLayer, ramp_layer
from models.recipe import Distillation, Recipe, Teacher

TREES = {
    "tree_method": "hist",
    "n_estimators": 150,
    "max_depth": 5,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 5,
    "reg_lambda": 5,
    "n_jobs": 1,
}
GROUP_SEED = 0

Model = Callable[[Float32], Float64]
"""Logits [n] of float32 features [n, F]."""


class Lesson(NamedTuple):
    """A teacher's answers, as logits."""

    train: Float64  # [train rows], each from models that never saw its customer
    delay: Float64  # [rows of the delay week]
    test: Float64  # [test rows], to judge the teacher by; no student sees them


def teach(week: Split, recipe: Recipe) -> Lesson:
    """Fit the teacher of ``recipe`` on the train rows of ``week`` and let it answer."""
    teacher, ramps = recipe.teacher, ramp_layer(recipe.teacher.forest_ramps)
    group = customer_groups(week.train_customer, teacher.groups)
    forests = [_forest(ramps, week, group, teacher, seed) for seed in range(teacher.forests)]
    networks = [panel for plan in teacher.network_ramps for panel in _networks(ramp_layer(plan), week, group, recipe)]
    trees, nets = (_mean([_answer(panel, group, week) for panel in panels]) for panels in (forests, networks))
    share = teacher.forest_share
    return Lesson(*(share * tree + (1 - share) * net for tree, net in zip(trees, nets, strict=True)))


def student_rows(week: Split, lesson: Lesson | None, distillation: Distillation) -> tuple[Float32, Targets]:
    """The features [n, F] that a student is fitted on, and its targets: the train rows, then the delay week's.

    Without a lesson: the train rows and their labels.
    """
    if lesson is None:
        return week.train, labels_alone(week.train_fraud)
    known = len(week.train)
    unknown = len(week.delay) if distillation.delay_week else 0
    alpha = np.concatenate([np.full(known, distillation.alpha), np.zeros(unknown)]).astype(np.float32)
    is_fraud = np.concatenate([week.train_fraud, np.zeros(unknown, np.bool_)])
    answers = np.concatenate([lesson.train, lesson.delay[:unknown]])
    return np.concatenate([week.train, week.delay[:unknown]]), Targets(is_fraud, answers, alpha)


def customer_groups(customers: npt.NDArray[np.generic], groups: int) -> Int64:
    """The group [n] of each row: all rows of a customer [n] are in one, drawn by a fixed seed."""
    names, who = np.unique(customers, return_inverse=True)
    return np.random.default_rng(GROUP_SEED).integers(0, groups, len(names))[who]


def _forest(ramps: RampLayer, week: Split, group: Int64, teacher: Teacher, seed: int) -> list[Model]:
    """Boosted trees per group, fitted on the other groups' features and ramps."""
    columns = _with_ramps(ramps, week.train)
    random = np.random.default_rng(seed)
    seen = week.train_fraud | (random.random(len(columns)) < teacher.genuine_share)
    weight = np.where(week.train_fraud, 1.0, 1 / teacher.genuine_share)

    def trees_without(left_out: int) -> Model:
        rows = seen & (group != left_out)
        model = XGBClassifier(**TREES, random_state=seed * teacher.groups + left_out)
        model.fit(columns[rows], week.train_fraud[rows], sample_weight=weight[rows])
        return lambda features: np.asarray(model.predict(_with_ramps(ramps, features), output_margin=True), np.float64)

    return [trees_without(left_out) for left_out in range(teacher.groups)]


def _networks(ramps: RampLayer, week: Split, group: Int64, recipe: Recipe) -> list[list[Model]]:
    """For each seed, a network on ``ramps`` per group, fitted on the other groups' labels alone."""
    teacher = recipe.teacher
    members = [
        Member(seed * teacher.groups + left_out, np.flatnonzero(group != left_out))
        for seed in range(teacher.networks)
        for left_out in range(teacher.groups)
    ]
    targets = labels_alone(week.train_fraud)
    own = replace(recipe, hidden=teacher.hidden, epochs=teacher.epochs, ramp_rate=0.0)
    fitted: list[Model] = [network.logits for network in fit(ramps, week.train, targets, members, own)]
    return [fitted[start : start + teacher.groups] for start in range(0, len(fitted), teacher.groups)]


def _answer(panel: Sequence[Model], group: Int64, week: Split) -> Lesson:
    train = np.empty(len(group))
    for left_out, model in enumerate(panel):
        train[group == left_out] = model(week.train[group == left_out])
    delay, test = (np.mean([model(rows) for model in panel], axis=0) for rows in (week.delay, week.test))
    return Lesson(train, delay, test)


def _mean(lessons: Sequence[Lesson]) -> Lesson:
    return Lesson(*(np.mean(answers, axis=0) for answers in zip(*lessons, strict=True)))


def _with_ramps(ramps: RampLayer, features: Float32) -> Float32:
    return np.hstack([features, ramps(features)])
