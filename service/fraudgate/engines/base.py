"""The engine port: what the pipeline needs of whatever scores a slab."""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import NamedTuple, Protocol

from fraudgate.engines.pacing import PAUSE_RUNS, pause
from fraudgate.engines.repository import Thresholds
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32

__all__ = ["Engine", "EngineInfo", "Inference", "Thresholds", "warm_up"]

WARM_UP_RUNS = 51


class EngineInfo(NamedTuple):
    """Which engine this is; it goes back to the caller with every decision."""

    name: str
    version: str
    engine_digest: str
    """SHA-256 of the engine's bytes, 64 hex digits."""
    precision: str
    """"int8" or "fp32"."""
    schema_fingerprint: str
    thresholds: Thresholds
    provider: str
    """Where it really runs: "cpu", "cuda" or "tensorrt" of ONNX Runtime, or a plan's target."""
    isa: str
    """The host's instruction-set class, see ``golden.host_isa``; of a GPU its compute capability, as "sm8.9"."""
    runtime: str
    """The runtime's version; with ``isa`` it names the golden bits of this host."""
    bit_proved: bool
    """The golden rows gave the expected bits on this host."""

    @property
    def model(self) -> str:
        """NAME/VERSION, as people write it."""
        return f"{self.name}/{self.version}"


class Engine(Protocol):
    """Scores slabs of a fixed shape. One thread at a time calls it."""

    info: EngineInfo
    features: int
    """Columns of the slabs that it takes."""
    run_ns: int
    """One run at 32 rows: the median measured at warm-up. Nanoseconds."""

    def bind(self, slabs: Sequence[Slab]) -> None:
        """Bind the slabs as slots 0..len(slabs); earlier slots are forgotten. Done once, before traffic."""
        ...

    def run(self, slot: int) -> Float32:
        """Score the slab bound as ``slot``: float32[32], valid until that slot runs again.

        Padding rows have scores too, and they mean nothing. Raises EngineFailed.
        """
        ...


class Inference(Protocol):
    """An engine as the pipeline sees it, wherever it runs."""

    async def infer(self, slot: int) -> Float32:
        """Scores of the slab ``slot``, float32[32], valid until the slab is packed again. Raises EngineFailed."""
        ...


def warm_up(engine: Engine) -> int:
    """Run on zeros; the median run in nanoseconds. Binds a slab of its own. Raises EngineRefused."""
    engine.bind([Slab(engine.features)])
    runs_ns = []
    for run in range(WARM_UP_RUNS):
        if run % PAUSE_RUNS == 0:
            pause()
        start_ns = perf_counter_ns()
        try:
            score = engine.run(0)
        except EngineFailed as failure:
            raise EngineRefused(f"a run on zeros failed: {failure}") from failure
        runs_ns.append(perf_counter_ns() - start_ns)
    _check_layout(score)
    return sorted(runs_ns)[len(runs_ns) // 2]


def _check_layout(score: Float32) -> None:
    """What reads scores takes native floats only; an array over memory of ctypes says "<f" and is another thing."""
    layout = score.data
    if (layout.format, score.shape, layout.c_contiguous) != ("f", (BATCH_ROWS_MAX,), True):
        raise EngineRefused(f"scores are {layout.format}{list(score.shape)}, not float32[{BATCH_ROWS_MAX}] as it lies")
