"""``python -m models.search --dataset handbook``: how wide and deep a student pays, under a latency and over a floor.

Every shape is distilled from one teacher on every validation fold and judged in INT8 as served; its time is that of the
service's own engine at 32 rows. The Pareto front, shapes that no other beats in both, goes to pareto.svg and pareto.md,
all figures to pareto.json. Of the shapes within the latency and over the floor, the fastest of the best is named.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fraudgate.engines.repository import Precision
from models import served
from models.choice import lesson_of
from models.distil import distil
from models.network import Network
from models.pareto import Found, table, write
from models.protocol import Quality, Split, folds
from models.quantise import export
from models.ramps import ramp_layer
from models.recipe import Recipe
from models.sources import add_arguments, load
from models.teacher import Lesson

FOLDER = Path(__file__).parent
SHAPES = ((16,), (32,), (64,), (128,), (32, 16), (64, 32), (128, 32), (128, 64))
TIMED_ONLY = ((256,), (512,), (256, 256), (512, 512))
"""Shapes whose time alone is asked: where INT8 pays most, in all hidden layers."""
SEEDS = 1


def search(weeks: Sequence[Split], lessons: Sequence[Lesson], recipe: Recipe) -> list[Found]:
    """Every shape, with the rest of ``recipe``."""
    found = []
    for hidden in (*SHAPES, *TIMED_ONLY):
        times = _times_us(hidden, recipe, weeks[0])
        quality = None if hidden in TIMED_ONLY else _quality(hidden, recipe, weeks, lessons)
        found.append(Found(hidden, times["int8"], times["fp32"], quality))
        print(found[-1], flush=True)
    return found


def _quality(hidden: tuple[int, ...], recipe: Recipe, weeks: Sequence[Split], lessons: Sequence[Lesson]) -> Quality:
    shaped = replace(recipe, hidden=hidden)
    found = [
        week.measure(served.score(export(student.rounded, "int8"), "int8", week.test))
        for week, lesson in zip(weeks, lessons, strict=True)
        for student in distil(week, lesson, range(SEEDS), shaped)
    ]
    return Quality(*np.mean(found, axis=0).tolist())


def _times_us(hidden: tuple[int, ...], recipe: Recipe, week: Split) -> dict[Precision, float]:
    """What a network of this shape takes; its weights do not matter and are drawn."""
    ramps, random = ramp_layer(recipe.ramps), np.random.default_rng(0)
    widths = (len(ramps.bias), *hidden, 1)
    weights = tuple(random.normal(0, 0.1, pair).astype(np.float32) for pair in pairwise(widths))
    network = Network(ramps, weights, tuple(np.zeros(width, np.float32) for width in widths[1:]))
    steps = [1.0] * (len(hidden) - 1) if hidden in TIMED_ONLY else []
    return served.run_us({"int8": export(network, "int8", steps), "fp32": export(network, "fp32")}, week.test)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.search", description="Search a student's width and depth.")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="for pareto.svg, .md and .json")
    args = parser.parse_args()
    weeks = folds(load(args.dataset, args.data))
    found = search(weeks, [lesson_of(week, Recipe()) for week in weeks], Recipe())
    write(found, args.out)
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
