"""An engine that opens beside traffic pauses; one that opens at the start does not."""

import asyncio
from pathlib import Path

import pytest

from fraudgate.engines import pacing
from fraudgate.engines.loading import Opened, bound
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.pacing import paced
from fraudgate.engines.repository import read_version
from fraudgate.tensors import Slab
from tests.unit.onnx_graphs import FEATURES, FINGERPRINT, int8_graph, publish_graph


async def test_opening_pauses_within_paced_on_whatever_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = publish_graph(tmp_path, int8_graph())
    pauses: list[float] = []
    monkeypatch.setattr(pacing, "sleep", pauses.append)

    def open_() -> Opened:
        version = read_version(directory)
        return bound(OnnxEngine.of(version, FINGERPRINT), version.files, [Slab(FEATURES)])

    at_start = await asyncio.to_thread(open_)
    assert pauses == []
    with paced():
        beside_traffic = await asyncio.to_thread(open_)
    assert len(pauses) >= 10
    assert set(pauses) == {pacing.PAUSE_SECONDS}
    assert beside_traffic.golden_bits == at_start.golden_bits
    await asyncio.to_thread(open_)
    assert len(pauses) < 30
