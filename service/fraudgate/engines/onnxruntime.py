"""ONNX Runtime as an engine: fixed shape, one thread, no spinning, inputs and outputs bound once by address."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fraudgate.engines import golden
from fraudgate.engines.base import EngineInfo, warm_up
from fraudgate.engines.graph import check_graph
from fraudgate.engines.pacing import pause
from fraudgate.engines.providers import engine_cache, make_private, provider_options
from fraudgate.engines.repository import (
    GOLDEN,
    MODEL,
    GraphOptimisation,
    Manifest,
    Tensor,
    Version,
    check_schema,
    read_version,
)
from fraudgate.engines.signed import signed_activations
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab, aligned_float32
from fraudgate.transaction import Float32

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_DTYPES = {"tensor(float)": "float32"}
_LEVELS: dict[GraphOptimisation, ort.GraphOptimizationLevel] = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class OnnxEngine:
    """An ``Engine`` on ONNX Runtime. One thread at a time calls it."""

    @classmethod
    def load(
        cls,
        model_dir: Path,
        schema_fingerprint: str,
        provider: str = "cpu",
        allow_fallback: bool = False,
        cache_dir: Path | None = None,
    ) -> "OnnxEngine":
        """Read a published version and open it, see ``of``."""
        return cls.of(read_version(model_dir), schema_fingerprint, provider, allow_fallback, cache_dir)

    @classmethod
    def of(
        cls,
        version: Version,
        schema_fingerprint: str,
        provider: str = "cpu",
        allow_fallback: bool = False,
        cache_dir: Path | None = None,
    ) -> "OnnxEngine":
        """Open a version, warm it up and prove its golden rows. Raises EngineRefused with the reason.

        ``allow_fallback``: run on the CPU where ``provider`` is not at hand; ``info.provider`` says what it became.
        ``cache_dir``: where TensorRT's engines are kept, by default in the user's cache.
        """
        manifest, files = version
        try:
            check_schema(manifest, schema_fingerprint)
            engine = cls(files[MODEL], manifest, provider, allow_fallback, cache_dir)
            if GOLDEN in files:
                bit_proved = golden.check(engine, golden.decode(files[GOLDEN]))
                engine.info = engine.info._replace(bit_proved=bit_proved)
        except EngineRefused as refusal:
            raise EngineRefused(f"{manifest.name}/{manifest.version}: {refusal}") from refusal
        return engine

    def __init__(
        self,
        model: bytes,
        manifest: Manifest,
        provider: str = "cpu",
        allow_fallback: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        """An engine on bytes that are not published yet; ``of`` is the way for those that are."""
        pause()
        check_graph(model)
        pause()
        cache_dir = cache_dir or engine_cache()
        self._session, used = _open_session(model, manifest.graph_optimisation, provider, allow_fallback, cache_dir)
        inputs = [_tensor(argument) for argument in self._session.get_inputs()]
        outputs = [_tensor(argument) for argument in self._session.get_outputs()]
        _check_shapes(inputs, outputs, manifest)
        self.features: int = inputs[0].shape[1]
        self.info = EngineInfo(
            name=manifest.name,
            version=manifest.version,
            engine_digest=manifest.files.get(MODEL, ""),
            precision=manifest.precision,
            schema_fingerprint=manifest.schema_fingerprint,
            thresholds=manifest.thresholds,
            provider=used,
            # Golden bits are of a processor: on a GPU closeness is what can be shown.
            isa=golden.host_isa() if used == "cpu" else used,
            runtime=ort.__version__,
            bit_proved=False,
        )
        # Straight to the runtime's own session: its wrapper checks capture on a device that is never bound here.
        self._run = self._session._sess.run_with_iobinding
        self._run_options = run_options(used)
        self._names = inputs[0].name, outputs[0].name
        self._slots: list[tuple[Any, Float32]] = []
        self._bound: list[tuple[Slab, Any]] = []
        self._copies = used != "cpu"
        self.run_ns = warm_up(self)

    def __repr__(self) -> str:
        info = self.info
        return f"<OnnxEngine {info.model} {info.precision} {info.provider} {self.run_ns / 1000:.1f} us>"

    def bind(self, slabs: Sequence[Slab]) -> None:
        """Bind the slabs as slots 0..len(slabs); earlier slots are forgotten."""
        assert all(slab.features == self.features for slab in slabs), "slabs of another width"
        bound, slots = [], []
        for slab in slabs:
            output = aligned_float32(BATCH_ROWS_MAX, 1)
            binding = self._session.io_binding()
            self._bind_input(binding, slab)
            binding.bind_output(self._names[1], "cpu", 0, np.float32, output.shape, output.ctypes.data)
            bound.append((slab, binding))
            slots.append((binding._iobinding, output.reshape(BATCH_ROWS_MAX)))
        self._bound, self._slots = bound, slots

    def run(self, slot: int) -> Float32:
        """Score the slab of ``slot``: float32[32], valid until that slot runs again. Raises EngineFailed."""
        binding, scores = self._slots[slot]
        try:
            if self._copies:
                slab, wrapper = self._bound[slot]
                self._bind_input(wrapper, slab)
            self._run(binding, self._run_options)
        except Exception as error:  # the runtime's exceptions share no base class
            raise EngineFailed(f"{self.info.model}: {error}") from error
        return scores

    def _bind_input(self, binding: Any, slab: Slab) -> None:
        """The CPU reads a slab at every run. For a GPU the runtime copies it, and does so here alone."""
        binding.bind_input(self._names[0], "cpu", 0, np.float32, slab.array.shape, slab.address)


def _open_session(
    model: bytes, graph_optimisation: GraphOptimisation, provider: str, allow_fallback: bool, cache_dir: Path
) -> tuple[ort.InferenceSession, str]:
    """A session, and the provider that it really runs on. Silent fallback to the CPU is refused."""
    if provider not in PROVIDERS:
        raise EngineRefused(f"no provider {provider!r}: choose one of {', '.join(PROVIDERS)}")
    used = provider if PROVIDERS[provider] in ort.get_available_providers() else "cpu"
    if used != provider and not allow_fallback:
        raise _not_at_hand(provider)
    graph, chosen = _for_provider(model, used, cache_dir)
    options = session_options(graph_optimisation)
    if not allow_fallback and used != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(
            graph,
            options,
            providers=[PROVIDERS[used]],
            provider_options=[chosen],
            enable_fallback=0,
            read_config_from_model=0,
        )
    except Exception as error:  # the runtime's exceptions share no base class
        # Without its libraries TensorRT's provider raises, where CUDA's gives a session on the CPU.
        if used == "cpu" or not allow_fallback:
            raise EngineRefused(f"ONNX Runtime {ort.__version__} does not take the graph on {used}: {error}") from error
        return _open_session(model, graph_optimisation, "cpu", allow_fallback, cache_dir)
    if session.get_providers()[0] == PROVIDERS[used]:
        return session, used
    if not allow_fallback:
        raise _not_at_hand(provider)
    return _open_session(model, graph_optimisation, "cpu", allow_fallback, cache_dir)


def _for_provider(model: bytes, provider: str, cache_dir: Path) -> tuple[bytes, dict[str, str]]:
    """The graph as the provider reads it right, and the provider's options."""
    if provider != "tensorrt":
        return model, provider_options(provider, cache_dir)
    make_private(cache_dir)
    engines = make_private(cache_dir / hashlib.sha256(model).hexdigest())
    return signed_activations(model), provider_options(provider, engines)


def _not_at_hand(provider: str) -> EngineRefused:
    return EngineRefused(
        f"provider {provider!r} was asked for and is not at hand: install fraudgate[gpu] on a machine with a GPU, "
        "or allow the fallback to the CPU"
    )


def session_options(graph_optimisation: GraphOptimisation) -> ort.SessionOptions:
    """One thread that does not spin, at the manifest's optimisation level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[graph_optimisation]
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in {
        # Threads that spin ruin the event loop beside them.
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
        # What was checked is ONNX; nothing else may be read from the bytes.
        "session.load_model_format": "ONNX",
    }.items():
        options.add_session_config_entry(key, value)
    return options


def run_options(provider: str) -> ort.RunOptions:
    """What the runtime is told at every run."""
    options = ort.RunOptions()
    if provider == "cpu":
        # Nothing to wait for: a run on the CPU has ended when it returns. Saves 0.7 us of 7.4.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _tensor(argument: ort.NodeArg) -> Tensor:
    dtype = _DTYPES.get(argument.type, argument.type)
    return Tensor(argument.name, dtype, tuple(argument.shape or ()))


def _check_shapes(inputs: list[Tensor], outputs: list[Tensor], manifest: Manifest) -> None:
    if len(inputs) != 1 or inputs[0].dtype != "float32" or not _is_slab(inputs[0].shape):
        raise EngineRefused(f"needs one input float32 [{BATCH_ROWS_MAX}, features], has {_words(inputs)}")
    if len(outputs) != 1 or outputs[0].dtype != "float32" or outputs[0].shape != (BATCH_ROWS_MAX, 1):
        raise EngineRefused(f"needs one output, the score, float32 [{BATCH_ROWS_MAX}, 1], has {_words(outputs)}")
    if (tuple(inputs), tuple(outputs)) != (manifest.inputs, manifest.outputs):
        told = f"{_words(manifest.inputs)} -> {_words(manifest.outputs)}"
        raise EngineRefused(f"the manifest says {told}, the graph has {_words(inputs)} -> {_words(outputs)}")


def _is_slab(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == BATCH_ROWS_MAX and isinstance(shape[1], int) and shape[1] > 0


def _words(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}" for tensor in tensors) or "none"
