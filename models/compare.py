"""``python -m models.compare --dataset handbook``: recipes side by side on the validation folds, written to tried.json.

Students of one teacher are measured in FP32, by the means over a few seeds and the folds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xgboost import XGBClassifier

from models.choice import lesson_of
from models.distil import fit_students
from models.protocol import Quality, Split, folds
from models.ramps import FINE, SPARSE, RampPlan, ramp_layer
from models.recipe import Distillation, Recipe
from models.sources import DATASETS, add_arguments, load
from models.teacher import Lesson

TRIED = Path(__file__).parent / "tried.json"
SEEDS = 2

CANDIDATES = {
    "the recipe": Recipe(),
    "labels alone: no teacher": Recipe(distillation=Distillation(alpha=1.0, delay_week=False)),
    "without the delay week": Recipe(distillation=Distillation(delay_week=False)),
    "alpha 0.3": Recipe(distillation=Distillation(alpha=0.3)),
    "alpha 0.7": Recipe(distillation=Distillation(alpha=0.7)),
    "temperature 2": Recipe(distillation=Distillation(temperature=2.0)),
    "one hidden layer of 64": Recipe(hidden=(64,)),
    "12 epochs": Recipe(epochs=12),
    "40 epochs": Recipe(epochs=40),
    "weight decay 0.3": Recipe(weight_decay=0.3),
    "ramps stay where they are laid": Recipe(ramp_rate=0.0),
    "no ramps on the own mean": Recipe(ramps=RampPlan(ratios=())),
    "fine ramps, with rising means and risks": Recipe(ramps=FINE),
    "sparse ramps, 40-16": Recipe(hidden=(40, 16), ramps=SPARSE),
}


def compare(weeks: Sequence[Split]) -> list[dict[str, Any]]:
    """One row per candidate: its name, ramps and mean quality over ``weeks`` and seeds."""
    lessons = [lesson_of(week, Recipe()) for week in weeks]
    ramps = len(ramp_layer(Recipe().ramps).bias)
    taught = [week.measure(lesson.test) for week, lesson in zip(weeks, lessons, strict=True)]
    rows = [_row("the teacher", len(ramp_layer(Recipe().teacher.forest_ramps).bias), taught)]
    for name, recipe in CANDIDATES.items():
        rows.append(_row(name, len(ramp_layer(recipe.ramps).bias), _of_recipe(recipe, weeks, lessons)))
    rows.append(_row("XGBoost 100/0.1/3 on the 15 features", 0, [_of_trees(week, with_ramps=False) for week in weeks]))
    rows.append(
        _row("XGBoost 100/0.1/3 on features and ramps", ramps, [_of_trees(week, with_ramps=True) for week in weeks])
    )
    return rows


def _of_recipe(recipe: Recipe, weeks: Sequence[Split], lessons: Sequence[Lesson]) -> list[Quality]:
    return [
        week.measure(network.logits(week.test))
        for week, lesson in zip(weeks, lessons, strict=True)
        for network in fit_students(week, lesson, range(SEEDS), recipe)
    ]


def _of_trees(week: Split, with_ramps: bool) -> Quality:
    ramps = ramp_layer(Recipe().ramps)
    train, test = (
        np.hstack([features, ramps(features)]) if with_ramps else features for features in (week.train, week.test)
    )
    trees = XGBClassifier(
        n_estimators=100, learning_rate=0.1, max_depth=3, tree_method="exact", base_score=0.5, n_jobs=1
    )
    return week.measure(trees.fit(train, week.train_fraud).predict_proba(test)[:, 1])


def _row(name: str, ramps: int, found: Sequence[Quality]) -> dict[str, Any]:
    mean = np.mean(found, axis=0).round(4).tolist()
    print(f"{name:40s} {ramps:3d} ramps  AUC ROC {mean[0]:.4f}  AP {mean[1]:.4f}  CP@100 {mean[2]:.4f}", flush=True)
    return {"name": name, "ramps": ramps, **dict(zip(Quality._fields, mean, strict=True))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.compare", description="Compare recipes on the folds.")
    add_arguments(parser)
    args = parser.parse_args()
    print(f"seeds 0..{SEEDS - 1}, each on the four validation folds")
    rows = compare(folds(load(args.dataset, args.data)))
    tried = json.loads(TRIED.read_text()) if TRIED.exists() else {}
    tried[args.dataset] = rows
    TRIED.write_text(json.dumps({name: tried[name] for name in DATASETS if name in tried}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
