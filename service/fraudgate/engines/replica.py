"""A second instance of the live engine, for callers beside the scoring path: it never touches the path's slabs."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fraudgate.engines.base import Engine, EngineInfo
from fraudgate.engines.placement import InlineEngine, ThreadedEngine, place
from fraudgate.errors import EngineRefused
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32

NowNs = Callable[[], int]


class Run(NamedTuple):
    """The scores of one run, float32[n], and when its stages ended: nanoseconds of the caller's clock."""

    scores: Float32
    begun_ns: int
    packed_ns: int
    ended_ns: int


class _Opened(NamedTuple):
    """An instance for ``info``, and the slab bound as its slot 0."""

    info: EngineInfo
    slab: Slab
    inference: InlineEngine | ThreadedEngine


class Replica:
    """Opens with ``open_engine`` what the caller says is live, at the first use and again after a change.

    ``open_engine`` loads, warms up and proves the version of an EngineInfo, on a thread; it raises EngineRefused.
    """

    def __init__(self, open_engine: Callable[[EngineInfo], Engine], now_ns: NowNs) -> None:
        self._open_engine, self._now_ns = open_engine, now_ns
        self._lock = asyncio.Lock()
        self._opened: _Opened | None = None

    def __repr__(self) -> str:
        return f"<Replica {self._opened and self._opened.inference!r}>"

    async def score(self, info: EngineInfo, rows: Float32) -> Run:
        """Score float32[n, features], 1 <= n <= 32, with this very engine. Raises EngineRefused and EngineFailed."""
        async with self._lock:  # one slab, one output, and a run may be on a thread
            opened = await self._open(info)
            begun_ns = self._now_ns()
            opened.slab.pack(rows.astype(np.float64))
            packed_ns = self._now_ns()
            scores = (await opened.inference.infer(0))[: len(rows)].copy()
            return Run(scores, begun_ns, packed_ns, self._now_ns())

    async def _open(self, info: EngineInfo) -> _Opened:
        if self._opened is None or self._opened.info != info:
            self.close()
            # Files are read and hashed, golden rows are run: on a thread, so that the loop does not stall.
            engine = await asyncio.to_thread(self._open_engine, info)
            if engine.info.engine_digest != info.engine_digest:
                raise EngineRefused(f"{info.model} changed in the repository after it went live")
            slab = Slab(engine.features)
            engine.bind([slab])
            self._opened = _Opened(info, slab, place(engine))
        return self._opened

    def close(self) -> None:
        """Let the instance go; the next use opens another."""
        if self._opened is not None:
            self._opened.inference.close()
        self._opened = None
