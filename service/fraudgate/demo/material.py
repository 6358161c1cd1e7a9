"""What a demo replays and what it is judged by: the benchmark, or the project's own traffic where that is absent."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraudgate.demo import data
from fraudgate.demo.data import Traffic
from fraudgate.demo.judge import FLOORS
from fraudgate.demo.recompute import recompute
from fraudgate.engines.repository import read_manifest, resolve
from fraudgate.errors import EngineRefused
from fraudgate.simulator import simulate
from fraudgate.transaction import Bool, Float64

SIMULATED = "simulated"
SIMULATED_SEED = 2_018
SIMULATED_CUSTOMERS = 5_000
SIMULATED_TERMINALS = 10_000
SIMULATED_START = "2018-05-01"
SIMULATED_DAYS = 106
"""To the end of the benchmark's replay week: the protocol is the same for both."""


@dataclass(frozen=True)
class Material:
    """What is replayed and what it is judged by."""

    traffic: Traffic
    title: str
    model: str
    expected: Float64  # [n, F]
    excused: Bool
    compared_with: str
    floors: dict[str, float]
    benchmark: Path | None


def prepare(place: str | None, rows_max: int | None, say: Callable[[str], None]) -> Material:
    """Read the benchmark, or simulate where it is absent.

    ``place`` is a folder, SIMULATED, or None: look for it. ``rows_max`` cuts the replay short.
    """
    benchmark = None if place == SIMULATED else data.find_benchmark(place)
    if benchmark:
        say(f"reading the public card-fraud benchmark in {benchmark}")
        return _benchmark(benchmark, rows_max)
    if place != SIMULATED:
        say("the public card-fraud benchmark is not here (--data DIR, $FRAUDGATE_DATA or ../shared/data)")
    say("using the project's own simulated traffic: there are no published results to compare it with")
    return _simulated(rows_max)


def _benchmark(folder: Path, rows_max: int | None) -> Material:
    events = data.read_benchmark(folder)
    traffic = data.prepare("handbook", events, data.REPLAY_START_NS, data.REPLAY_END_NS, rows_max)
    expected = data.published_features(folder, traffic)
    return Material(
        traffic=traffic,
        title="the public card-fraud benchmark, 8 - 14 August 2018",
        model="handbook",
        expected=expected,
        excused=data.excused_rows(traffic.week, expected),
        compared_with="the published ones",
        floors=FLOORS,
        benchmark=folder,
    )


def _simulated(rows_max: int | None) -> Material:
    events = simulate(SIMULATED_SEED, SIMULATED_CUSTOMERS, SIMULATED_TERMINALS, SIMULATED_DAYS, SIMULATED_START)
    traffic = data.prepare(SIMULATED, events, data.REPLAY_START_NS, data.REPLAY_END_NS, rows_max)
    floors = read_manifest(resolve(model_repository(), SIMULATED)).metrics.get("floor")
    if not floors:
        raise EngineRefused(f"the manifest of model {SIMULATED!r} names no floor: publish the model again")
    return Material(
        traffic=traffic,
        title=f"a week of simulated traffic, seed {SIMULATED_SEED}",
        model=SIMULATED,
        expected=recompute(traffic.events, traffic.history_rows),
        excused=np.zeros(len(traffic.week), np.bool_),
        compared_with="a recomputation by other means",
        floors=floors,
        benchmark=None,
    )


def model_repository() -> Path:
    """``models/repository`` here, or in the project that this package is installed from."""
    here = Path("models/repository")
    project = Path(__file__).resolve().parents[3] / here
    return here.resolve() if here.is_dir() else project
