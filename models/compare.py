"""``python -m models.compare --dataset handbook``: recipes side by side on the validation folds, written to tried.json.

Networks are measured in FP32, by the means over four seeds and the folds. Seeds differ by 0.0008 of average precision
(one standard deviation): what lies within 0.002 of the best is equal, and the recipe is taken from there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from xgboost import XGBClassifier

from models.fit import Member, fit
from models.network import Recipe
from models.protocol import Quality, Split, folds
from models.ramps import RampPlan, ramp_layer
from models.sources import DATASETS, add_arguments, load

TRIED = Path(__file__).parent / "tried.json"
SEEDS = 4

CANDIDATES = {
    "the recipe": Recipe(),
    "learning rate 0.005": Recipe(learning_rate=0.005),
    "learning rate 0.02": Recipe(learning_rate=0.02),
    "weight decay 0.01": Recipe(weight_decay=0.01),
    "weight decay 0.3": Recipe(weight_decay=0.3),
    "10 epochs": Recipe(epochs=10),
    "20 epochs": Recipe(epochs=20),
    "60 epochs": Recipe(epochs=60),
    "batches of 1,024 rows": Recipe(batch_rows=1_024),
    "32 hidden units": Recipe(hidden=32),
    "128 hidden units": Recipe(hidden=128),
    "ramps on weekend and night too": Recipe(ramps=RampPlan(calendar=True)),
    "q in steps of 0.25": Recipe(ramps=RampPlan(own_mean_step=0.25)),
    "q to 6 only": Recipe(ramps=RampPlan(own_mean_last=6.0)),
    "no ramps on the own mean": Recipe(ramps=RampPlan(own_mean_step=0)),
}


def compare(weeks: list[Split]) -> list[dict[str, Any]]:
    """One row per candidate: its name, ramps and mean quality over ``weeks`` and seeds."""
    rows = [
        _row(name, len(ramp_layer(recipe.ramps).bias), _of_recipe(recipe, weeks)) for name, recipe in CANDIDATES.items()
    ]
    rows.append(_row("XGBoost 100/0.1/3 on the 15 features", 0, [_of_trees(week, with_ramps=False) for week in weeks]))
    rows.append(
        _row(
            "XGBoost 100/0.1/3 on features and ramps",
            len(ramp_layer(Recipe().ramps).bias),
            [_of_trees(week, with_ramps=True) for week in weeks],
        )
    )
    return rows


def _of_recipe(recipe: Recipe, weeks: list[Split]) -> list[Quality]:
    ramps = ramp_layer(recipe.ramps)
    found = []
    for week in weeks:
        everything = np.arange(len(week.train))
        members = [Member(seed, everything) for seed in range(SEEDS)]
        networks = fit(ramps, week.train, week.train_fraud, members, recipe)
        found += [week.measure(network.logits(week.test)) for network in networks]
    return found


def _of_trees(week: Split, with_ramps: bool) -> Quality:
    ramps = ramp_layer(Recipe().ramps)
    train, test = (
        np.hstack([features, ramps(features)]) if with_ramps else features for features in (week.train, week.test)
    )
    trees = XGBClassifier(
        n_estimators=100, learning_rate=0.1, max_depth=3, tree_method="exact", base_score=0.5, n_jobs=1
    )
    return week.measure(trees.fit(train, week.train_fraud).predict_proba(test)[:, 1])


def _row(name: str, ramps: int, found: list[Quality]) -> dict[str, Any]:
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
