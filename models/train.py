"""``python -m models.train --dataset handbook``: fit, choose, quantise and judge a model; leave it ready to publish.

1. replay the traffic through the feature store
2. fit ten seeds on each validation fold; take the seed that is best as served, in INT8, by mean average precision
3. calibrate on held-out days, and choose the thresholds on the folds
4. fit the seed on the train week, quantise it, and look at the test week: once
5. write graph, golden rows, card, drift reference and draft manifest to run/models/<dataset>, for ``models.publish``

Exit status 1 when the served model misses its floor.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fraudgate.drift.reference import Reference
from fraudgate.engines import golden
from fraudgate.engines.repository import DRIFT, GOLDEN, MODEL, Calibration, Manifest, Precision, Thresholds
from fraudgate.errors import FraudgateError
from fraudgate.transaction import Float32
from models import card, served
from models.calibration import calibrate
from models.dataset import SCHEMA, Dataset, digest, replay
from models.fit import Member, fit
from models.goldens import golden_rows
from models.network import Network, Recipe
from models.protocol import FIRST_DAY, TRAIN_START, Quality, Split, folds, split
from models.publish import CARD, DRAFTS, shortfalls, write_draft
from models.quantise import export
from models.ramps import ramp_layer
from models.sources import FLOOR_TOWNS, HANDBOOK_FLOOR, add_arguments, load
from models.thresholds import Caught, caught, choose_thresholds

SEEDS = 10
SAMPLE_SEEDS, SAMPLE = 2, Recipe(epochs=5, batch_rows=256)
SAMPLE_FLOOR = {"auc_roc": 0.7, "average_precision": 0.3}
FLOOR_MARGIN = 0.02
"""A simulated week's average precision has this standard deviation: the floor lies so far under the worst town."""


class Chosen(NamedTuple):
    """What the folds decided."""

    seed: int
    validation: list[list[Quality]]  # [seeds][folds], INT8 as served
    thresholds: Thresholds
    caught: list[Caught]  # what the thresholds do on the folds


def choose(weeks: list[Split], seeds: int, recipe: Recipe) -> Chosen:
    """Choose seed and thresholds on the validation folds."""
    ramps = ramp_layer(recipe.ramps)
    fitted = [_fit_week(week, range(seeds), recipe) for week in weeks]
    validation = [
        [_judge(networks[seed], week) for networks, week in zip(fitted, weeks, strict=True)] for seed in range(seeds)
    ]
    precision = [float(np.mean([quality.average_precision for quality in found])) for found in validation]
    seed = int(np.argmax(precision))
    for tried, mean in enumerate(precision):
        print(f"seed {tried}: mean average precision of the folds {mean:.4f}{'  <- chosen' if tried == seed else ''}")
    scores, labels = [], []
    for networks, week in zip(fitted, weeks, strict=True):
        network, _ = calibrate(networks[seed], ramps, week, seed, recipe)
        scores.append(_score(network, week.test))
        labels.append(week.test_fraud)
    thresholds = choose_thresholds(np.concatenate(scores), np.concatenate(labels))
    return Chosen(seed, validation, thresholds, caught(np.concatenate(scores), np.concatenate(labels), thresholds))


def _fit_week(week: Split, seeds: range, recipe: Recipe) -> list[Network]:
    print(f"fitting seeds {seeds.start}..{seeds.stop - 1} on the week of {week.start}", flush=True)
    everything = np.arange(len(week.train))
    members = [Member(seed, everything) for seed in seeds]
    return fit(ramp_layer(recipe.ramps), week.train, week.train_fraud, members, recipe)


def _judge(network: Network, week: Split) -> Quality:
    return week.measure(_score(network, week.test))


def _score(network: Network, features: Float32) -> Float32:
    return served.score(export(network, "int8"), "int8", features)


def fit_final(week: Split, seed: int, recipe: Recipe) -> tuple[Network, Calibration]:
    """The published network, calibrated."""
    (network,) = _fit_week(week, range(seed, seed + 1), recipe)
    return calibrate(network, ramp_layer(recipe.ramps), week, seed, recipe)


def find_floor(dataset: str, network: Network) -> dict[str, float]:
    """What the served model has to reach: the project's promise, or what it reaches in towns it never saw."""
    if dataset == "handbook":
        return dict(HANDBOOK_FLOOR)
    found = []
    for town in FLOOR_TOWNS:
        print(f"judging in {town}")
        found.append(_judge(network, split(replay(town.events(), FIRST_DAY), TRAIN_START)))
    worst = np.min(found, axis=0) - FLOOR_MARGIN
    return {name: round(float(value), 3) for name, value in zip(Quality._fields, worst, strict=True)}


def train(dataset: Dataset, name: str, seeds: int, recipe: Recipe, sample: bool) -> tuple[Manifest, dict[str, bytes]]:
    """Steps 2 to 5: a draft manifest and its files."""
    chosen = choose(folds(dataset), seeds, recipe)
    week = split(dataset, TRAIN_START)
    network, calibration = fit_final(week, chosen.seed, recipe)
    graphs: dict[Precision, bytes] = {"int8": export(network, "int8"), "fp32": export(network, "fp32")}
    comparison = served.compare(graphs, week.test)
    manifest = served.manifest_of(
        name,
        "int8",
        calibration_set_digest=digest(week.train, week.train_fraud),
        metrics={
            **{precision: week.measure(scores)._asdict() for precision, scores in comparison.scores.items()},
            "run_us": {str(precision): run_us for precision, run_us in comparison.run_us.items()},
            "validation_int8": Quality(*np.mean(chosen.validation[chosen.seed], axis=0).tolist())._asdict(),
            "floor": dict(SAMPLE_FLOOR) if sample else find_floor(name, network),
        },
        thresholds=chosen.thresholds,
        calibration=calibration,
        command=shlex.join(["python", "-m", "models.train", *sys.argv[1:]]),
    )
    features = golden_rows(network, chosen.thresholds)
    fp32 = served.score(graphs["fp32"], "fp32", features)
    rows = golden.record(served.engine_of(graphs["int8"], "int8"), features, fp32)
    facts = card.Facts(
        manifest, recipe, chosen.seed, chosen.validation, chosen.caught, week, comparison, len(rows.features)
    )
    reference = Reference.of(SCHEMA.names, week.train, _score(network, week.train))
    return manifest, {
        MODEL: graphs["int8"],
        GOLDEN: golden.encode(rows),
        CARD: card.render(facts).encode(),
        DRIFT: reference.to_json(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description="Train a model and leave a draft of it."
    )
    add_arguments(parser)
    parser.add_argument(
        "--sample", action="store_true", help="a small town, two seeds, few epochs: does the recipe run?"
    )
    parser.add_argument("--drafts", type=Path, default=DRAFTS, metavar="DIR")
    args = parser.parse_args()
    if args.sample and args.dataset != "simulated":
        parser.error("--sample is for --dataset simulated")
    try:
        dataset = load(args.dataset, args.data, args.sample)
        manifest, files = train(
            dataset,
            args.dataset,
            SAMPLE_SEEDS if args.sample else SEEDS,
            SAMPLE if args.sample else Recipe(),
            args.sample,
        )
    except FraudgateError as error:
        print(error, file=sys.stderr)
        return 2
    folder = args.drafts / (f"{args.dataset}-sample" if args.sample else args.dataset)
    write_draft(folder, manifest, files)
    print(f"draft in {folder}; the test week:\n{card.test_week_table(manifest)}")
    for missed in (found := shortfalls(manifest)):
        print(f"FLOOR MISSED: {missed}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
