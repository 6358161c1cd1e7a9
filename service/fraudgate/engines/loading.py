"""From a published directory to an engine that may decide: opened on a thread, bound to the pipeline's slabs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fraudgate.engines import golden
from fraudgate.engines.base import Engine
from fraudgate.engines.pacing import pause
from fraudgate.engines.placement import InlineEngine, ThreadedEngine, place
from fraudgate.engines.repository import GOLDEN
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
