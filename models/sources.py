"""The two data sets a model is trained on, by name."""

import argparse

from fraudgate.demo.judge import FLOORS
from fraudgate.features.schema import FeatureSchema
from models.dataset import SCHEMA, Dataset, Town, benchmark_events, replay
from models.protocol import HISTORY_DAY, Quality

DATASETS = ("handbook", "simulated")
HISTORY_SUFFIX = "-history"
"""Of a model's name: trained on every day whose labels are known, not on one week."""
TRAIN_TOWN = Town(seed=1)
SAMPLE_TOWN = Town(seed=1, customers=2_000, terminals=2_000)
FLOOR_TOWNS = tuple(Town(seed) for seed in (2, 3, 4, 5))
"""Towns that the simulated model never saw: what it has to reach elsewhere is measured on them."""
HANDBOOK_FLOOR = FLOORS
WANTED = {
    "handbook": Quality(0.882, 0.730, 0.291),
    "handbook" + HISTORY_SUFFIX: Quality(0.885, 0.745, 0.293),
}
"""What the mean of the validation folds is to reach; a seed that does goes before one that does not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset and --data."""
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument(
        "--data", metavar="DIR", help="the benchmark's folder (default $FRAUDGATE_DATA, ../shared/data)"
    )


def load(name: str, data: str | None, sample: bool = False, schema: FeatureSchema = SCHEMA) -> Dataset:
    """The rows of a data set from HISTORY_START on, with the features of ``schema``.

    Raises ConfigError where the benchmark is not at hand.
    """
    if name == "handbook":
        return replay(benchmark_events(data), HISTORY_DAY, schema)
    town = SAMPLE_TOWN if sample else TRAIN_TOWN
    print(f"simulating {town}")
    return replay(town.events(), HISTORY_DAY, schema)
