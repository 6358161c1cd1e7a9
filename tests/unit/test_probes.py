"""Probes against engines written in Python, sound and spoilt: what no graph can do, a leak, is caught here too."""

import mmap
from collections.abc import Callable

import numpy as np
import pytest

from fraudgate.engines import probes
from fraudgate.engines.base import EngineInfo
from fraudgate.engines.golden import Golden
from fraudgate.engines.repository import Thresholds
from fraudgate.errors import EngineRefused
from fraudgate.limits import SECOND_NS
from fraudgate.tensors import Slab

FEATURES = 3
ROWS = np.random.default_rng(0).normal(size=(1_024, FEATURES)).astype(np.float32)
INFO = EngineInfo("fake", "1", "0" * 64, "fp32", "0" * 64, Thresholds(0.6, 0.8), "cpu", "other", "0", False)


def probability(rows: np.ndarray) -> np.ndarray:
    """Rises with feature 0, falls with feature 1, does not care for feature 2 but for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.asarray(1 / (1 + np.exp(rows[:, 1] - rows[:, 0])) + 0 * rows[:, 2])
    return np.where(np.isfinite(rows).all(axis=1), scores, np.nan)


class FakeEngine:
    """An engine that is a function of its rows."""

    features = FEATURES
    run_ns = 1
    info = INFO

    def __init__(self, score: Callable[[np.ndarray], np.ndarray] = probability) -> None:
        self._score = score

    def bind(self, slabs: list[Slab]) -> None:
        self._slabs = slabs

    def run(self, slot: int) -> np.ndarray:
        return self._score(self._slabs[slot].array).astype(np.float32)


class LeakingEngine(FakeEngine):
    """Keeps 8 KiB of each run, in pages that this process did not have before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[mmap.mmap] = []

    def run(self, slot: int) -> np.ndarray:
        self.kept.append(mmap.mmap(-1, 8_192))
        self.kept[-1].write(b"x" * 8_192)
        return super().run(slot)


def test_a_sound_engine_passes_every_probe():
    engine = FakeEngine()
    rows = Golden(ROWS, {}, probability(ROWS).astype(np.float32))
    assert "0 of 1,024 decisions flip" in probes.parity(engine, rows)
    assert probes.distinct(engine, rows).startswith("1,0")
    assert "approved" in probes.decisions(engine, rows)
    assert "not finite: no score" in probes.extremes(engine, rows)
    assert "2 features over 64 rows" in probes.monotone(engine, rows, {0: 1, 1: -1}, 64)
    assert "0 differing bits" in probes.invariance(engine, rows, 64, 5)
    assert "fake/1: 100% of the rows" in probes.against(engine, engine, rows, 50)


def test_golden_rows_without_fp32_scores_are_no_failure():
    assert probes.parity(FakeEngine(), Golden(ROWS, {})) == "not published with FP32 scores"


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({0: -1}, r"raising feature 0 raises the score of 64 of 64 rows, by up to 0\.[1-9]"),
        ({0: 1, 1: 1}, "raising feature 1 lowers the score of 64 of 64 rows"),
    ],
)
def test_a_score_that_goes_the_wrong_way_is_refused(directions, message):
    with pytest.raises(EngineRefused, match=message):
        probes.monotone(FakeEngine(), Golden(ROWS, {}), directions, 64)


def test_a_score_that_is_lost_on_the_way_is_refused():
    engine = FakeEngine(lambda rows: np.where(rows[:, 0] > 1, np.nan, probability(rows)))
    with pytest.raises(EngineRefused, match="raising feature 0"):
        probes.monotone(engine, Golden(ROWS, {}), {0: 1}, 64)


def test_no_direction_is_no_demand():
    assert probes.monotone(FakeEngine(), Golden(ROWS, {}), {}, 64) == "the schema declares none"


def test_a_leak_is_refused():
    with pytest.raises(EngineRefused, match="the engine leaks"):
        probes.memory(LeakingEngine(), 2_000, SECOND_NS)


def test_growth_is_what_the_process_grew_by():
    sizes = iter([10 << 20, (10 << 20) + 4_096])
    assert probes.memory(FakeEngine(), 3_000, 60 * SECOND_NS, lambda: next(sizes)) == "+4 KiB over 3,000 runs"


def test_a_slow_engine_is_probed_for_as_long_as_it_is_allowed():
    assert probes.memory(FakeEngine(), 3_000, 0, lambda: 0) == "+0 KiB over 1,000 runs"


def test_a_run_far_over_its_promise_is_refused(monkeypatch):
    monkeypatch.setattr(probes, "run_times_ns", lambda engine, runs: [101_000] * runs)
    assert probes.latency(FakeEngine(), 10, 11.0).endswith("published 11.0 us: runs on the scoring loop")
    assert probes.latency(FakeEngine(), 10).endswith("at 32 rows: runs on the scoring loop")
    with pytest.raises(EngineRefused, match=r"p50 101\.0 us.*over 10 times the 10\.0 us"):
        probes.latency(FakeEngine(), 10, 10.0)


def test_a_run_over_the_engine_budget_is_refused(monkeypatch):
    monkeypatch.setattr(probes, "run_times_ns", lambda engine, runs: [600_000] * runs)
    assert probes.latency(FakeEngine(), 10).endswith("runs on the engine thread")
    monkeypatch.setattr(probes, "run_times_ns", lambda engine, runs: [10_000_001] * runs)
    with pytest.raises(EngineRefused, match="the engine budget is 10 ms"):
        probes.latency(FakeEngine(), 10)


def test_run_times_are_counted_in_runs():
    assert len(probes.run_times_ns(FakeEngine(), 7)) == 7
