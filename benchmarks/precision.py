"""INT8 beside FP32 of the same network, one run at 32 rows: medians of pairs taken in turns.

The weights are drawn: what a run takes does not depend on them. Besides the shape that is served, networks of 512 units
in each of one and of two hidden layers, whose hidden layers are all in INT8.
"""

from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import process_time_ns

import numpy as np

from fraudgate.engines.repository import Precision
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from models import served
from models.network import Network
from models.quantise import export
from models.ramps import RampPlan, ramp_layer
from models.recipe import Recipe

WIDTH = 512
RUNS, PAIRS = 1_000, 9
SEED = 20180808


def figures() -> dict[str, float]:
    """The figures of the results file."""
    served_shape = 1 / speedup(Recipe().hidden)
    one, two = (speedup((WIDTH,) * layers, chained=True) for layers in (1, 2))
    print(f"width {WIDTH}: INT8 {one:.2f} x faster than FP32 in one hidden layer, {two:.2f} x in two")
    return {
        "int8_ratio_to_fp32": round(served_shape, 3),
        f"int8_speedup_width_{WIDTH}": round(one, 2),
        f"int8_speedup_width_{WIDTH}_two_layers": round(two, 2),
    }


def speedup(hidden: tuple[int, ...], chained: bool = False) -> float:
    """FP32's time over INT8's; ``chained``: every hidden layer is in INT8, not the first alone, behind 74 ramps."""
    network = draw(hidden, RampPlan() if chained else Recipe().ramps)
    steps = [1.0] * (len(hidden) - 1) if chained else []
    runs = _run(export(network, "fp32"), "fp32"), _run(export(network, "int8", steps), "int8")
    pairs = [[_cpu_ns(run) for run in runs] for _ in range(PAIRS)]
    return median(fp32 / int8 for fp32, int8 in pairs)


def draw(hidden: tuple[int, ...], plan: RampPlan) -> Network:
    """A network of this shape on the ramps of ``plan``."""
    ramps, random = ramp_layer(plan), np.random.default_rng(SEED)
    widths = (len(ramps.bias), *hidden, 1)
    weights = tuple(random.normal(0, 0.1, pair).astype(np.float32) for pair in pairwise(widths))
    return Network(ramps, weights, tuple(np.zeros(width, np.float32) for width in widths[1:]))


def _run(graph: bytes, precision: Precision) -> Callable[[], object]:
    engine = served.engine_of(graph, precision)
    slab = Slab(engine.features)
    slab.pack(np.abs(np.random.default_rng(SEED).normal(50, 40, (BATCH_ROWS_MAX, engine.features))))
    engine.bind([slab])
    return lambda: engine.run(0)


def _cpu_ns(run: Callable[[], object]) -> float:
    start_ns = process_time_ns()
    for _ in range(RUNS):
        run()
    return (process_time_ns() - start_ns) / RUNS
