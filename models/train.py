"""``python -m models.train --dataset handbook``: teach, distil, quantise and judge a model; leave it ready to publish.

1. replay the traffic through the feature store
2. fit a teacher on each validation fold, and distil it into students, a few seeds each, with the rounding of INT8
3. take the seed that is best as served; calibrate, and choose the thresholds, on the folds
4. teach and distil that seed on the train week, and look at the test week: once
5. write graph, golden rows, card, drift reference and draft manifest to run/models/<dataset>, for ``models.publish``

Exit status 1 when the served model misses its floor.
"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from fraudgate.drift.reference import Reference
from fraudgate.engines import golden
from fraudgate.engines.repository import DRIFT, GOLDEN, MODEL, Manifest
from fraudgate.errors import FraudgateError
from fraudgate.transaction import Float32
from models import card, served
from models.choice import choose, lesson_if_taught, score
from models.dataset import Dataset, digest, replay
from models.distil import distil
from models.goldens import golden_rows
from models.network import Network
from models.protocol import FIRST_DAY, HISTORY_START, TRAIN_START, Quality, folds, split
from models.publish import CARD, DRAFTS, shortfalls, write_draft
from models.quantise import export
from models.ramps import HISTORY_STARTS, RampPlan
from models.recipe import LABELS_ALONE, Recipe, Rounding, Teacher
from models.sources import FLOOR_TOWNS, HANDBOOK_FLOOR, HISTORY_SUFFIX, WANTED, add_arguments, load

SEEDS = 8
SAMPLE_SEEDS = 2
HISTORY_SEEDS = 6  # seeds differ less there, and each takes minutes
SAMPLE = Recipe(epochs=5, batch_rows=256, teacher=Teacher(groups=2, forests=1, networks=1, epochs=5))
HISTORY = Recipe(
    hidden=(96, 32),
    epochs=20,
    batch_rows=2_048,
    weight_decay=0.02,
    averaged=0.25,
    side_by_side=False,
    ramps=HISTORY_STARTS,
    distillation=LABELS_ALONE,
    rounding=Rounding(
        epochs=6,
        learning_rate=0.0003,
        doubled_ramps=11,
        steep_draws=8,
        slope_power=1.0,
        paired=True,
        twin_steps=0.5,
        settling_sweeps=3,
    ),
)
SIMULATED_SEEDS = 4
SIMULATED = Recipe(  # as it was published
    hidden=(64, 32),
    ramps=RampPlan(),
    ramp_rate=0.0,
    teacher=Teacher(networks=3, forest_ramps=RampPlan(), network_ramps=(RampPlan(),)),
    rounding=Rounding(epochs=6, doubled_ramps=0, steep_draws=1, slope_power=1.0),
)
SAMPLE_FLOOR = {"auc_roc": 0.7, "average_precision": 0.3}
FLOOR_MARGIN = 0.02
"""A simulated week's average precision has this standard deviation: the floor lies so far under the worst town."""


def find_floor(dataset: str, network: Network) -> dict[str, float]:
    """What the served model has to reach: the project's promise, or what it reaches in towns it never saw."""
    if dataset == "handbook":
        return dict(HANDBOOK_FLOOR)
    found = []
    for town in FLOOR_TOWNS:
        print(f"judging in {town}")
        week = split(replay(town.events(), FIRST_DAY), TRAIN_START)
        found.append(week.measure(score(network, week.test)))
    worst = np.min(found, axis=0) - FLOOR_MARGIN
    return {name: round(float(value), 3) for name, value in zip(Quality._fields, worst, strict=True)}


def train(
    dataset: Dataset, name: str, seeds: int, recipe: Recipe, train_from: str | None, sample: bool
) -> tuple[Manifest, dict[str, bytes]]:
    """Steps 2 to 5: a draft manifest and its files."""
    model = name + HISTORY_SUFFIX * (train_from is not None)
    chosen = choose(folds(dataset, train_from), seeds, recipe, WANTED.get(model))
    week = split(dataset, TRAIN_START, train_from)
    (student,) = distil(week, lesson_if_taught(week, recipe), [chosen.seed], recipe)
    scale, bias = chosen.calibration.scale, chosen.calibration.bias
    fitted, network = (each.calibrated(scale, bias) for each in student)
    comparison, post_training = (_compare(each, fitted, week.test) for each in (network, fitted))
    manifest = served.manifest_of(
        model,
        "int8",
        len(recipe.schema.names),
        schema_fingerprint=recipe.schema.fingerprint,
        calibration_set_digest=digest(week.train, week.train_fraud),
        metrics={
            **{precision: week.measure(scores)._asdict() for precision, scores in comparison.scores.items()},
            "run_us": {str(precision): run_us for precision, run_us in comparison.run_us.items()},
            "validation_int8": Quality(*np.mean(chosen.validation[chosen.seed], axis=0).tolist())._asdict(),
            "floor": dict(SAMPLE_FLOOR) if sample else find_floor(name, network),
        },
        thresholds=chosen.thresholds,
        calibration=chosen.calibration,
        command=shlex.join(["python", "-m", "models.train", *sys.argv[1:]]),
    )
    graph, features = export(network, "int8"), golden_rows(network, chosen.thresholds, recipe.schema)
    fp32 = served.score(export(fitted, "fp32"), "fp32", features)
    rows = golden.record(served.engine_of(graph, "int8"), features, fp32)
    facts = card.Facts(
        manifest, recipe, chosen, week, train_from or TRAIN_START, comparison, post_training, len(rows.features)
    )
    reference = Reference.of(recipe.schema.names, week.train, score(network, week.train))
    return manifest, {
        MODEL: graph,
        GOLDEN: golden.encode(rows),
        CARD: card.render(facts).encode(),
        DRIFT: reference.to_json(),
    }


def _compare(network: Network, fitted: Network, features: Float32) -> served.Comparison:
    """``network`` in INT8 beside the network ``fitted`` in FP32."""
    return served.compare({"int8": export(network, "int8"), "fp32": export(fitted, "fp32")}, features)


def main() -> int:
    args = _arguments().parse_args()
    if args.sample and args.dataset != "simulated":
        _arguments().error("--sample is for --dataset simulated")
    train_from = HISTORY_START if args.history else None
    recipe, seeds = _recipe(args)
    try:
        dataset = load(args.dataset, args.data, args.sample, recipe.schema)
        manifest, files = train(dataset, args.dataset, seeds, recipe, train_from, args.sample)
    except FraudgateError as error:
        print(error, file=sys.stderr)
        return 2
    folder = args.drafts / (args.dataset + "-sample" * args.sample + HISTORY_SUFFIX * args.history)
    write_draft(folder, manifest, files)
    print(f"draft in {folder}; the test week:\n{card.test_week_table(manifest)}")
    for missed in (found := shortfalls(manifest)):
        print(f"FLOOR MISSED: {missed}", file=sys.stderr)
    return 1 if found else 0


def _recipe(args: argparse.Namespace) -> tuple[Recipe, int]:
    """What to train, and how many seeds of it."""
    if args.sample:
        return SAMPLE, SAMPLE_SEEDS
    if args.history:
        return HISTORY, HISTORY_SEEDS
    return (Recipe(), SEEDS) if args.dataset == "handbook" else (SIMULATED, SIMULATED_SEEDS)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description="Train a model and leave a draft of it."
    )
    add_arguments(parser)
    parser.add_argument(
        "--sample", action="store_true", help="a small town, two seeds, few epochs: does the recipe run?"
    )
    parser.add_argument(
        "--history", action="store_true", help="train on every day whose labels are known, not on a week"
    )
    parser.add_argument("--drafts", type=Path, default=DRAFTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
