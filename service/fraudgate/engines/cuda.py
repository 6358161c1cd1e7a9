"""The calls of the CUDA runtime that a plan needs, each checked. Without a driver they raise EngineRefused."""

import ctypes
from typing import Any

import numpy as np

from fraudgate.engines.extras import need
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.transaction import Float32

RUNTIME = "cuda.bindings.runtime"


def device_count() -> int:
    """GPUs that the driver shows; asked first, since TensorRT can crash without a driver. Raises EngineRefused."""
    error, count = need(RUNTIME).cudaGetDeviceCount()
    if error.value or not count:
        raise EngineRefused(f"no GPU answers ({error.name}): run this on a machine with an NVIDIA GPU and its driver")
    return int(count)


def compute_capability(device: int = 0) -> str:
    """The compute capability of a GPU, as "8.9". Raises EngineRefused."""
    device_count()
    runtime = need(RUNTIME)
    parts = runtime.cudaDeviceAttr
    major, minor = parts.cudaDevAttrComputeCapabilityMajor, parts.cudaDevAttrComputeCapabilityMinor
    return ".".join(str(checked(runtime.cudaDeviceGetAttribute(part, device))) for part in (major, minor))


def checked(answer: Any) -> Any:
    """The value of a call's answer (error, value...). Raises EngineFailed where the error is one."""
    error, *values = answer
    if error.value:
        raise EngineFailed(f"CUDA: {error.name}")
    return values[0] if values else None


class Stream:
    """A stream of its own, which does not wait for the default one."""

    def __init__(self) -> None:
        self.runtime = need(RUNTIME)
        self.handle = checked(self.runtime.cudaStreamCreateWithFlags(self.runtime.cudaStreamNonBlocking))

    def wait(self) -> None:
        """Until everything given to the stream is done. Raises EngineFailed."""
        checked(self.runtime.cudaStreamSynchronize(self.handle))

    def begin_capture(self) -> None:
        """From here on work is recorded instead of run; other threads of the process go on as they like."""
        mode = self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(self.runtime.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> Any:
        """What was recorded, ready to be launched."""
        graph = checked(self.runtime.cudaStreamEndCapture(self.handle))
        try:
            return checked(self.runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self.runtime.cudaGraphDestroy(graph)

    def launch(self, graph: Any) -> None:
        """Run what was recorded. Raises EngineFailed."""
        checked(self.runtime.cudaGraphLaunch(graph, self.handle))


class Buffer:
    """float32[rows, columns] twice: ``host`` is page-locked, so that copies need no staging, ``device`` an address."""

    def __init__(self, stream: Stream, rows: int, columns: int) -> None:
        self._stream, self._runtime = stream, stream.runtime
        self._bytes = rows * columns * np.dtype(np.float32).itemsize
        self._page_locked = checked(self._runtime.cudaHostAlloc(self._bytes, self._runtime.cudaHostAllocDefault))
        self.device: int = int(checked(self._runtime.cudaMalloc(self._bytes)))
        self.host: Float32 = floats_at(int(self._page_locked), rows, columns)
        self.host[:] = 0.0

    def to_device(self) -> None:
        """Queue the copy of ``host`` to the device."""
        self._copy(self.device, self._page_locked, self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def to_host(self) -> None:
        """Queue the copy back."""
        self._copy(self._page_locked, self.device, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def free(self) -> None:
        """Give both back; ``host`` may not be read afterwards."""
        self._runtime.cudaFree(self.device)
        self._runtime.cudaFreeHost(self._page_locked)

    def _copy(self, target: int, source: int, kind: Any) -> None:
        checked(self._runtime.cudaMemcpyAsync(target, source, self._bytes, kind, self._stream.handle))


def floats_at(address: int, rows: int, columns: int) -> Float32:
    """float32[rows, columns] over memory that somebody else keeps alive."""
    raw = (ctypes.c_float * (rows * columns)).from_address(address)
    # np.ctypeslib.as_array would say "<f4", which native code does not take for a native float.
    return np.frombuffer(memoryview(raw), np.float32).reshape(rows, columns)
