"""The second instance of the live engine: rows are never mixed, and it follows what is live."""

import asyncio
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.engines.base import EngineInfo, Thresholds
from fraudgate.engines.replica import Replica
from fraudgate.errors import EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX, INLINE_ENGINE_NS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32

FEATURES = 3


def info(version: str, digest: str = "") -> EngineInfo:
    return EngineInfo("m", version, digest or version, "fp32", "f", Thresholds(0.5, 0.9), "cpu", "avx2", "1", False)


class SummingEngine:
    """Scores a row with its sum, in a slab that a later request must not have touched."""

    features = FEATURES

    def __init__(self, info: EngineInfo, run_ns: int = 0) -> None:
        self.info, self.run_ns = info, run_ns
        self._output = np.zeros(BATCH_ROWS_MAX, np.float32)
        self._slabs: Sequence[Slab] = ()

    def bind(self, slabs: Sequence[Slab]) -> None:
        self._slabs = slabs

    def run(self, slot: int) -> Float32:
        self._output[:] = self._slabs[slot].array.sum(axis=1)
        return self._output


def replica(run_ns: int = 0) -> tuple[Replica, list[EngineInfo]]:
    """A replica, and what it has opened."""
    opened: list[EngineInfo] = []

    def open_engine(wanted: EngineInfo) -> SummingEngine:
        opened.append(wanted)
        return SummingEngine(wanted, run_ns)

    return Replica(open_engine, itertools.count().__next__), opened


@pytest.mark.parametrize("run_ns", [0, INLINE_ENGINE_NS_MAX], ids=["inline", "thread"])
@given(sizes=st.lists(st.integers(1, BATCH_ROWS_MAX), min_size=1, max_size=12))
def test_requests_at_once_get_the_scores_of_their_own_rows(run_ns: int, sizes: list[int]) -> None:
    batches = [np.full((size, FEATURES), number, np.float32) for number, size in enumerate(sizes)]
    live = info("1")

    async def score_all() -> list[list[float]]:
        shared, opened = replica(run_ns)
        runs = await asyncio.gather(*(shared.score(live, rows) for rows in batches))
        shared.close()
        assert opened == [live]
        assert all(run.begun_ns < run.packed_ns < run.ended_ns for run in runs)
        return [run.scores.tolist() for run in runs]

    assert asyncio.run(score_all()) == [rows.sum(axis=1).tolist() for rows in batches]


async def test_it_opens_again_only_when_another_version_is_live() -> None:
    shared, opened = replica()
    rows = np.ones((2, FEATURES), np.float32)
    for version in ("1", "1", "2", "2", "1"):
        await shared.score(info(version), rows)
    assert [each.version for each in opened] == ["1", "2", "1"]


async def test_bytes_other_than_the_live_ones_are_refused_and_tried_again() -> None:
    found = ["changed", "1"]
    shared = Replica(lambda wanted: SummingEngine(info(wanted.version, found.pop(0))), itertools.count().__next__)
    rows = np.ones((1, FEATURES), np.float32)
    with pytest.raises(EngineRefused, match="m/1 changed in the repository after it went live"):
        await shared.score(info("1"), rows)
    assert (await shared.score(info("1"), rows)).scores.tolist() == [FEATURES]
