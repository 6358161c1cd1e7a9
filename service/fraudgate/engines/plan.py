"""Plans: what TensorRT compiles a published graph to, and the record that ties one to its model.

    tensorrt   for the GPU that it is compiled on (TensorRT 10 and 11)
    rtx        for a named compute capability, also on a machine without a GPU (TensorRT for RTX)

A plan is one file; its record lies beside it as ``<plan>.json``. Two compilations need not give the same bytes, so the
SHA-256 of a plan is its identity, and the record names the graph that it was made from.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from fraudgate.engines import cuda
from fraudgate.engines.extras import need
from fraudgate.engines.graph import check_graph
from fraudgate.engines.repository import FILE_BYTES_MAX, MODEL, Digest, Manifest, Tensor
from fraudgate.engines.signed import signed_activations
from fraudgate.errors import EngineRefused

Target = Literal["tensorrt", "rtx"]
MODULES: dict[Target, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
PROVIDERS: dict[str, Target] = {"tensorrt-plan": "tensorrt", "rtx-plan": "rtx"}
"""What ``model.provider`` calls the targets."""
RECORD_BYTES_MAX = 1 << 20
PRODUCTS = ("gemm", "fully_connected", "convolution", "fusion")
"""Kinds of layers that multiply matrices; a fusion is one with what follows it."""
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT8": "int8", "UINT8": "uint8"}


class PlanRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a plan."""

    target: Target
    runtime: str
    """The version that compiled it; the same must run it."""
    compute_capability: str
    """"8.9", for example."""
    model_digest: Digest
    """SHA-256 of the published model.onnx."""
    plan_digest: Digest
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    integer_layers: tuple[str, ...]
    """The compiled layers that multiply INT8, by name, as the builder lists them."""


class Plan(NamedTuple):
    """A compiled engine and its record."""

    data: bytes
    record: PlanRecord


def compile_plan(
    model: bytes,
    manifest: Manifest,
    target: Target,
    compute_capability: str | None = None,
    timing_cache: Path | None = None,
) -> Plan:
    """Compile a published graph for a batch of 32. Raises EngineRefused with the builder's reason, OSError.

    ``compute_capability``: of rtx, as "8.9". ``timing_cache``: of tensorrt, a file that is read and written.
    """
    check_graph(model)
    capability = _capability(target, compute_capability)
    trt = need(MODULES[target])
    log = _log(trt)
    builder = trt.Builder(log)
    network = _network(trt, builder, log, signed_activations(model))
    _check_tensors(network, manifest)
    config = _config(trt, builder, network, target, capability)
    kept = _read_timings(config, timing_cache) if timing_cache else None
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise EngineRefused(f"{target} does not compile the graph: {log.complaint() or 'it does not say why'}")
    if timing_cache and kept is not None:
        timing_cache.write_bytes(bytes(kept.serialize()))
    return _checked(bytes(data), manifest, log, target, capability, trt.__version__)


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan and its record. Raises OSError."""
    path.write_bytes(plan.data)
    record_path(path).write_bytes(msgspec.json.format(msgspec.json.encode(plan.record), indent=2) + b"\n")


def read_plan(path: Path, manifest: Manifest) -> Plan:
    """A plan that was made from this published graph, digests checked on the bytes returned. Raises EngineRefused."""
    data = _read(path, FILE_BYTES_MAX)
    try:
        record = msgspec.json.decode(_read(record_path(path), RECORD_BYTES_MAX), type=PlanRecord)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"{record_path(path)}: {error}") from error
    if record.plan_digest != _sha256(data):
        raise EngineRefused(f"{path} is not the plan of its record: compile it again")
    if record.model_digest != manifest.files[MODEL]:
        raise EngineRefused(f"{path} was compiled from another {MODEL} than {manifest.name}/{manifest.version}")
    if (record.inputs, record.outputs) != (manifest.inputs, manifest.outputs):
        raise EngineRefused(f"{path} has other inputs or outputs than {manifest.name}/{manifest.version}")
    return Plan(data, record)


def plan_name(manifest: Manifest, target: Target) -> str:
    """What the plan of a version is called, wherever it lies."""
    return f"{manifest.name}-{manifest.version}-{target}.plan"


def record_path(path: Path) -> Path:
    """Where the record of a plan lies."""
    return path.with_name(path.name + ".json")


def _capability(target: Target, asked: str | None) -> str:
    if target == "rtx":
        if asked is None:
            raise EngineRefused("rtx compiles for a compute capability: name one, for example 8.9")
        return asked
    if asked is not None:
        raise EngineRefused("tensorrt compiles for the GPU of this machine: leave the compute capability out")
    return cuda.compute_capability()


def _log(trt: Any) -> Any:
    """A logger that keeps what the builder complains of, and the layers that it lists at the end."""

    class Log(trt.ILogger):  # type: ignore[misc]  # a class of a package without types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.layers.extend(message.splitlines()[1:])

        def complaint(self) -> str:
            return "; ".join(self.errors)

    return Log()


def _network(trt: Any, builder: Any, log: Any, model: bytes) -> Any:
    # What Q/DQ marks is INT8, the rest is float32: the builder may not choose. TensorRT 11 knows nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{error.node_operator()}: {error.desc()}" for error in errors)
        raise EngineRefused(f"TensorRT does not take the graph: {reasons}")
    return network


def _check_tensors(network: Any, manifest: Manifest) -> None:
    inputs = tuple(_tensor(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(index)) for index in range(network.num_outputs))
    if (inputs, outputs) != (manifest.inputs, manifest.outputs):
        raise EngineRefused(
            f"the manifest says {manifest.inputs} -> {manifest.outputs}, TensorRT {inputs} -> {outputs}"
        )


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tensor.name, _DTYPES.get(tensor.dtype.name, tensor.dtype.name), tuple(tensor.shape))


def _config(trt: Any, builder: Any, network: Any, target: Target, capability: str) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # A tensor core in TF32 keeps 10 bits of mantissa; a value that is no number must reach the score.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.STRICT_NANS)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, tensor.shape, tensor.shape, tensor.shape)
    config.add_optimization_profile(profile)
    if target == "rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(_named_capability(trt, capability), 0)
    return config


def _named_capability(trt: Any, capability: str) -> Any:
    known = named_capabilities(trt)
    if capability not in known:
        raise EngineRefused(f"no compute capability {capability!r}: choose one of {', '.join(known)}")
    return known[capability]


def named_capabilities(trt: Any) -> dict[str, Any]:
    """The compute capabilities that TensorRT for RTX compiles for, by name, as "8.9"."""
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members if name[2:].isdigit()}


def _read_timings(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineRefused(f"{path} holds timings of another GPU or TensorRT: delete it")
    return cache


def _checked(data: bytes, manifest: Manifest, log: Any, target: Target, capability: str, runtime: str) -> Plan:
    layers = tuple(integer_layers(log.layers))
    if log.layers and manifest.precision == "int8" and not layers:
        raise EngineRefused("no layer of the plan multiplies INT8: the graph's Q/DQ nodes were not fused")
    record = PlanRecord(
        target=target,
        runtime=runtime,
        compute_capability=capability,
        model_digest=manifest.files[MODEL],
        plan_digest=_sha256(data),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        integer_layers=layers,
    )
    return Plan(data, record)


def integer_layers(lines: list[str]) -> Iterator[str]:
    """The names of the matrix products whose inputs are INT8, from the builder's list of layers, one a line."""
    for line in lines:
        name, _, rest = line.partition(", LayerType: ")
        kind, _, rest = rest.partition(", Inputs: ")
        inputs = rest.partition("], Constants: ")[0]
        if kind in PRODUCTS and "Datatype: Int8" in inputs:
            yield name.removeprefix("Name: ")


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        if path.stat().st_size > bytes_max:
            raise EngineRefused(f"{path} is larger than {bytes_max} bytes")
        return path.read_bytes()
    except OSError as error:
        raise EngineRefused(f"cannot read {path}: {error.strerror}; fraudgate model compile makes one") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
