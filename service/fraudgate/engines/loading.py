"""From a version to an engine that may decide: on its provider, bound to the pipeline's slabs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fraudgate.engines import golden
from fraudgate.engines.base import Engine
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.pacing import pause
from fraudgate.engines.placement import InlineEngine, ThreadedEngine, place
from fraudgate.engines.plan import PROVIDERS as PLAN_PROVIDERS
from fraudgate.engines.plan import plan_name, read_plan
from fraudgate.engines.repository import GOLDEN, MODEL, Version
from fraudgate.engines.tensorrt import TensorRTEngine
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32


class Opened(NamedTuple):
    """An engine bound to the pipeline's slabs and, as the slot after them, to one of golden rows, or of zeros."""

    engine: Engine
    inference: InlineEngine | ThreadedEngine
    golden_slot: int
    golden_bits: bytes

    @property
    def name(self) -> str:
        return self.engine.info.model


def opened(
    version: Version,
    schema_fingerprint: str,
    provider: str = "cpu",
    allow_fallback: bool = False,
    cache_dir: Path | None = None,
    plan_dir: Path = Path(),
) -> Engine:
    """Open, warm up and prove a version on a provider. Raises EngineRefused with the reason.

    ``allow_fallback`` and ``cache_dir``: of ONNX Runtime's providers. ``plan_dir``: of plans, which must lie there.
    """
    if provider in PLAN_PROVIDERS:
        return TensorRTEngine.of(version, schema_fingerprint, _plan_path(version, provider, plan_dir))
    return OnnxEngine.of(version, schema_fingerprint, provider, allow_fallback, cache_dir)


def opened_unproved(version: Version, provider: str, plan_dir: Path = Path()) -> Engine:
    """The same without schema and golden rows, for those who check both by themselves. Raises EngineRefused."""
    if provider in PLAN_PROVIDERS:
        return TensorRTEngine(read_plan(_plan_path(version, provider, plan_dir), version.manifest), version.manifest)
    return OnnxEngine(version.files[MODEL], version.manifest, provider)


def _plan_path(version: Version, provider: str, plan_dir: Path) -> Path:
    return plan_dir / plan_name(version.manifest, PLAN_PROVIDERS[provider])


def bound(engine: Engine, files: Mapping[str, bytes], slabs: Sequence[Slab]) -> Opened:
    """Bind an engine that was opened from a version of these files."""
    pause()
    rows = Slab(engine.features)
    if GOLDEN in files:
        rows.pack(golden.decode(files[GOLDEN]).features[:BATCH_ROWS_MAX].astype(np.float64))
    pause()
    engine.bind([*slabs, rows])
    slot = len(slabs)
    return Opened(engine, place(engine), slot, score_bits(engine.run(slot)))


def score_bits(score: Float32) -> bytes:
    """The bits of 32 scores."""
    return score[:BATCH_ROWS_MAX].tobytes()
