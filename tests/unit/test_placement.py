"""Where an engine runs: on the loop when it is fast, else on one thread, in order."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from fraudgate.engines.base import EngineInfo, Thresholds
from fraudgate.engines.placement import InlineEngine, ThreadedEngine, place
from fraudgate.errors import EngineFailed
from fraudgate.limits import INLINE_ENGINE_NS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32


class ScriptedEngine:
    """Notes where and in which order it ran; slot 9 fails."""

    info = EngineInfo("scripted", "1", "", "fp32", "", Thresholds(0.5, 0.9), "cpu", "", "", True)
    features = 2

    def __init__(self, run_ns: int) -> None:
        self.run_ns = run_ns
        self.ran: list[tuple[int, int]] = []  # (slot, thread)
        self.may_run = threading.Event()
        self.may_run.set()

    def bind(self, slabs: Sequence[Slab]) -> None:
        raise AssertionError("placement binds nothing")

    def run(self, slot: int) -> Float32:
        self.may_run.wait(30)
        self.ran.append((slot, threading.get_ident()))
        if slot == 9:
            raise EngineFailed("slot 9")
        return np.full(32, slot, np.float32)


@pytest.mark.parametrize(
    ("run_ns", "kind"),
    [(0, InlineEngine), (INLINE_ENGINE_NS_MAX - 1, InlineEngine), (INLINE_ENGINE_NS_MAX, ThreadedEngine)],
)
def test_the_time_measured_at_warm_up_decides(run_ns: int, kind: type) -> None:
    placed = place(ScriptedEngine(run_ns))
    assert type(placed) is kind
    assert repr(placed) == f"<{kind.__name__} scripted/1>"
    placed.close()


async def test_an_inline_engine_runs_on_the_loop_at_once() -> None:
    engine = ScriptedEngine(0)
    scores = InlineEngine(engine).infer(3)
    assert engine.ran == []
    assert (await scores).tolist() == [3.0] * 32
    assert engine.ran == [(3, threading.get_ident())]


async def test_a_threaded_engine_runs_on_one_other_thread_and_leaves_the_loop_free() -> None:
    engine = ScriptedEngine(INLINE_ENGINE_NS_MAX)
    placed = ThreadedEngine(engine)
    engine.may_run.clear()
    tasks = [asyncio.create_task(placed.infer(slot)) for slot in (0, 1, 0, 1)]
    await asyncio.sleep(0)
    assert engine.ran == [], "the loop goes on while the engine is busy"
    engine.may_run.set()
    assert [scores[0] for scores in await asyncio.gather(*tasks)] == [0, 1, 0, 1]
    assert [slot for slot, _ in engine.ran] == [0, 1, 0, 1]
    assert len({thread for _, thread in engine.ran} - {threading.get_ident()}) == 1
    placed.close()


@pytest.mark.parametrize("kind", [InlineEngine, ThreadedEngine])
async def test_a_failure_reaches_the_pipeline_and_the_engine_goes_on(kind: type) -> None:
    placed = kind(ScriptedEngine(0))
    with pytest.raises(EngineFailed, match="slot 9"):
        await placed.infer(9)
    assert (await placed.infer(1))[0] == 1
    placed.close()


async def until_ended(thread: threading.Thread) -> None:
    async with asyncio.timeout(10):
        while thread.is_alive():
            await asyncio.sleep(0.001)


async def test_the_thread_of_an_engine_that_nobody_holds_any_more_ends() -> None:
    placed = ThreadedEngine(ScriptedEngine(0))
    await placed.infer(0)
    (thread,) = placed._thread._threads
    with pytest.raises(EngineFailed):  # a failure holds frames, and they the engine
        await placed.infer(9)
    assert thread.is_alive()
    del placed
    await until_ended(thread)
