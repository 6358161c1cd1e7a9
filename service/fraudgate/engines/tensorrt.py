"""A native TensorRT plan as an engine: own stream, page-locked buffers, one CUDA graph a slot.

A slot's graph holds the copy to the device, the plan's kernels and the copy back: a run is one launch and one wait.
"""

import multiprocessing
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fraudgate.engines import cuda, golden
from fraudgate.engines.base import EngineInfo, warm_up
from fraudgate.engines.extras import need
from fraudgate.engines.plan import MODULES, Plan, Target, read_plan
from fraudgate.engines.repository import GOLDEN, Manifest, Version, check_schema
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32

CHILD_SECONDS_MAX = 60.0


class TensorRTEngine:
    """An ``Engine`` on a TensorRT plan, on the first GPU. One thread at a time calls it."""

    @classmethod
    def of(cls, version: Version, schema_fingerprint: str, plan_path: Path) -> "TensorRTEngine":
        """Open the plan of a version, warm it up and prove its golden rows. Raises EngineRefused with the reason."""
        manifest, files = version
        try:
            check_schema(manifest, schema_fingerprint)
            engine = cls(read_plan(plan_path, manifest), manifest)
            if GOLDEN in files:
                bit_proved = golden.check(engine, golden.decode(files[GOLDEN]))
                engine.info = engine.info._replace(bit_proved=bit_proved)
        except (EngineFailed, EngineRefused) as refusal:
            raise EngineRefused(f"{manifest.name}/{manifest.version}: {refusal}") from refusal
        return engine

    def __init__(self, plan: Plan, manifest: Manifest) -> None:
        """An engine on a plan of this manifest's graph."""
        record = plan.record
        capability = cuda.compute_capability()
        if record.compute_capability != capability:
            raise EngineRefused(
                f"the plan is for compute capability {record.compute_capability}, the GPU has {capability}"
            )
        in_child(deserialise, record.target, plan.data)
        self._engine = deserialise(record.target, plan.data)
        self._stream = cuda.Stream()
        self._slots: list[_Slot] = []
        weakref.finalize(self, _free, self._slots)
        self._names = record.inputs[0].name, record.outputs[0].name
        self.features: int = record.inputs[0].shape[1]
        self.info = EngineInfo(
            name=manifest.name,
            version=manifest.version,
            engine_digest=record.plan_digest,
            precision=manifest.precision,
            schema_fingerprint=manifest.schema_fingerprint,
            thresholds=manifest.thresholds,
            provider=record.target,
            isa=f"sm{capability}",
            runtime=f"{MODULES[record.target]}-{record.runtime}",
            bit_proved=False,
        )
        self.run_ns = warm_up(self)

    def __repr__(self) -> str:
        info = self.info
        return f"<TensorRTEngine {info.model} {info.precision} {info.provider} {self.run_ns / 1000:.1f} us>"

    def bind(self, slabs: Sequence[Slab]) -> None:
        """Bind the slabs as slots 0..len(slabs); earlier slots are forgotten and their memory is given back."""
        assert all(slab.features == self.features for slab in slabs), "slabs of another width"
        _free(self._slots)
        for slab in slabs:
            self._slots.append(_Slot(slab, self._stream, self._engine, self._names))

    def run(self, slot: int) -> Float32:
        """Score the slab of ``slot``: float32[32], valid until that slot runs again. Raises EngineFailed."""
        return self._slots[slot].run()


def _free(slots: "list[_Slot]") -> None:
    while slots:
        slots.pop().free()


class _Slot:
    """A slab, its buffers on both sides and the graph between them."""

    def __init__(self, slab: Slab, stream: cuda.Stream, engine: Any, names: tuple[str, str]) -> None:
        self._slab, self._stream = slab, stream
        self._input = cuda.Buffer(stream, BATCH_ROWS_MAX, slab.features)
        self._output = cuda.Buffer(stream, BATCH_ROWS_MAX, 1)
        self._scores = self._output.host.reshape(BATCH_ROWS_MAX)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineFailed("TensorRT gives no execution context: is the GPU's memory full?")
        self._context.set_input_shape(names[0], self._input.host.shape)
        self._context.set_tensor_address(names[0], self._input.device)
        self._context.set_tensor_address(names[1], self._output.device)
        # The first run sets the context up, which must not be recorded.
        self._queue()
        stream.wait()
        stream.begin_capture()
        self._queue()
        self._graph = stream.end_capture()

    def run(self) -> Float32:
        np.copyto(self._input.host, self._slab.array)
        self._stream.launch(self._graph)
        self._stream.wait()
        return self._scores

    def free(self) -> None:
        """Give the memory back. The scores of earlier runs are no longer there."""
        self._stream.runtime.cudaGraphExecDestroy(self._graph)
        self._input.free()
        self._output.free()

    def _queue(self) -> None:
        self._input.to_device()
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise EngineFailed("TensorRT refused the run")
        self._output.to_host()


def deserialise(target: Target, data: bytes) -> Any:
    """The engine in a plan's bytes. Raises EngineRefused. Bytes that are no plan may crash: ``in_child`` first."""
    trt = need(MODULES[target])
    # The runtime must outlive its engine, and the engine keeps it.
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineRefused(f"TensorRT {trt.__version__} does not take the plan: compile it here, with this version")
    return engine


def in_child(task: Callable[..., object], *arguments: object, seconds_max: float = CHILD_SECONDS_MAX) -> None:
    """Call ``task`` in a new process. Raises EngineRefused where it raises, crashes or does not end in time."""
    child = multiprocessing.get_context("spawn").Process(target=task, args=arguments, daemon=True)
    child.start()
    child.join(seconds_max)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise EngineRefused(f"{task.__name__} did not end within {seconds_max:.0f} s in a child process")
    if child.exitcode:
        how = f"by signal {-child.exitcode}" if child.exitcode < 0 else f"with status {child.exitcode}"
        raise EngineRefused(f"{task.__name__} ended {how} in a child process: the plan is not to be trusted")
