"""Where an engine runs: inline on the scoring loop when it is fast, else on a thread of its own.

A thread hand-over costs 28-38 us of CPU, more than a small model's inference, and a busy interpreter can delay its
return by milliseconds; an engine slower than ``INLINE_ENGINE_NS_MAX`` would stall the loop instead.
"""

import asyncio
import weakref
from concurrent.futures import ThreadPoolExecutor

from fraudgate.engines.base import Engine
from fraudgate.limits import INLINE_ENGINE_NS_MAX
from fraudgate.transaction import Float32


class InlineEngine:
    """Runs the engine on the calling loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __repr__(self) -> str:
        return f"<InlineEngine {self._engine.info.model}>"

    async def infer(self, slot: int) -> Float32:
        """Scores of the slab ``slot``, float32[32]. Raises EngineFailed."""
        return self._engine.run(slot)

    def close(self) -> None:
        """Nothing to stop."""


class ThreadedEngine:
    """Runs the engine on one thread, so that batches come back in the order they went.

    The thread ends when nobody holds this any more. So a fleet that lets an engine go need not know which batches still
    run on it: they hold it, and the last one's end is the thread's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        weakref.finalize(self, self._thread.shutdown, wait=False)

    def __repr__(self) -> str:
        return f"<ThreadedEngine {self._engine.info.model}>"

    async def infer(self, slot: int) -> Float32:
        """Scores of the slab ``slot``, float32[32]. Raises EngineFailed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.run, slot)

    def close(self) -> None:
        """Stop the thread after what it runs now."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def place(engine: Engine) -> InlineEngine | ThreadedEngine:
    """Choose by the run time measured at warm-up."""
    return InlineEngine(engine) if engine.run_ns < INLINE_ENGINE_NS_MAX else ThreadedEngine(engine)
