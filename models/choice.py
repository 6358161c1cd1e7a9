"""What the validation folds decide: seed, calibration and thresholds."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fraudgate.engines.repository import Calibration, Thresholds
from fraudgate.transaction import Float32
from models import served
from models.calibration import fit_calibration
from models.distil import Student, distil
from models.network import Network
from models.protocol import Quality, Split
from models.quantise import export
from models.recipe import Recipe
from models.teacher import Lesson, teach
from models.thresholds import Caught, caught, choose_thresholds


class Chosen(NamedTuple):
    """What the folds decided, and what they saw."""

    seed: int
    validation: list[list[Quality]]  # [seeds][folds], INT8 as served
    versions: dict[str, list[Quality]]  # [folds], of teacher, if any, and student, rounded in either way or not
    calibration: Calibration
    thresholds: Thresholds
    caught: list[Caught]  # what the thresholds do on the folds


def choose(weeks: Sequence[Split], seeds: int, recipe: Recipe, wanted: Quality | None) -> Chosen:
    """Teach and distil on every fold; choose among students of seeds 0..``seeds`` - 1.

    The seed of the most distinct scores among those whose means reach ``wanted`` in everything, and which differ by
    luck; where none does, or nothing is wanted, the seed of the best mean average precision.
    """
    lessons = [lesson_if_taught(week, recipe) for week in weeks]
    fitted = [distil(week, lesson, range(seeds), recipe) for week, lesson in zip(weeks, lessons, strict=True)]
    validation = [
        [week.measure(score(students[seed].rounded, week.test)) for students, week in zip(fitted, weeks, strict=True)]
        for seed in range(seeds)
    ]
    means = [Quality(*np.mean(found, axis=0).tolist()) for found in validation]
    reaching = [seed for seed, mean in enumerate(means) if wanted is not None and (np.array(mean) >= wanted).all()]
    distinct = {seed: _distinct(weeks, [students[seed].rounded for students in fitted]) for seed in reaching}
    if distinct:
        seed = max(distinct, key=lambda reached: distinct[reached])
    else:
        seed = max(range(seeds), key=lambda tried: means[tried].average_precision)
    for tried, mean in enumerate(means):
        counted = f", {distinct[tried]:,} distinct" if tried in distinct else ""
        print(f"seed {tried}, mean of the folds: {_named(mean)}{counted}{'  <- chosen' * (tried == seed)}", flush=True)
    students = [found[seed] for found in fitted]
    versions = _of_teachers(weeks, lessons) | _versions(weeks, students)
    calibration, thresholds, taken = _decisions(weeks, [student.rounded for student in students])
    return Chosen(seed, validation, versions, calibration, thresholds, taken)


def _named(quality: Quality) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in quality._asdict().items())


def lesson_if_taught(week: Split, recipe: Recipe) -> Lesson | None:
    """The lesson of ``week``, or none where the recipe fits to labels alone."""
    return lesson_of(week, recipe) if recipe.distillation.taught else None


def lesson_of(week: Split, recipe: Recipe) -> Lesson:
    """What the recipe's teacher says on ``week``; a line says that it is at work."""
    print(f"teaching on {len(week.train):,} rows, to the end of the week of {week.start}", flush=True)
    return teach(week, recipe)


def score(network: Network, features: Float32) -> Float32:
    """Scores [n] of float32 ``features`` [n, F], in INT8 as served."""
    return served.score(export(network, "int8"), "int8", features)


def _of_teachers(weeks: Sequence[Split], lessons: Sequence[Lesson | None]) -> dict[str, list[Quality]]:
    found = [week.measure(lesson.test) for week, lesson in zip(weeks, lessons, strict=True) if lesson is not None]
    return {"teacher": found} if found else {}


def _versions(weeks: Iterable[Split], students: Iterable[Student]) -> dict[str, list[Quality]]:
    found: dict[str, list[Quality]] = {}
    for week, student in zip(weeks, students, strict=True):
        scores = {
            "FP32": served.score(export(student.fitted, "fp32"), "fp32", week.test),
            "INT8, post-training": score(student.fitted, week.test),
            "INT8, quantisation-aware": score(student.rounded, week.test),
        }
        for name, each in scores.items():
            found.setdefault(name, []).append(week.measure(each))
    return found


def _distinct(weeks: Sequence[Split], networks: Sequence[Network]) -> int:
    """How many distinct scores they give, calibrated; each fold is counted for itself, as a test week will be."""
    calibration = _calibration(weeks, networks)
    calibrated = (network.calibrated(calibration.scale, calibration.bias) for network in networks)
    return sum(len(np.unique(score(each, week.test))) for each, week in zip(calibrated, weeks, strict=True))


def _calibration(weeks: Sequence[Split], networks: Sequence[Network]) -> Calibration:
    """The calibration on the test weeks of all folds together, which these networks did not see."""
    labels = np.concatenate([week.test_fraud for week in weeks])
    logits = [network.logits(week.test) for week, network in zip(weeks, networks, strict=True)]
    return fit_calibration(np.concatenate(logits), labels)


def _decisions(weeks: Sequence[Split], networks: Sequence[Network]) -> tuple[Calibration, Thresholds, list[Caught]]:
    """Calibration and thresholds on the test weeks of all folds together, which these networks did not see."""
    labels = np.concatenate([week.test_fraud for week in weeks])
    calibration = _calibration(weeks, networks)
    pairs = zip(weeks, networks, strict=True)
    scores = np.concatenate(
        [score(network.calibrated(calibration.scale, calibration.bias), week.test) for week, network in pairs]
    )
    thresholds = choose_thresholds(scores, labels)
    return calibration, thresholds, caught(scores, labels, thresholds)
