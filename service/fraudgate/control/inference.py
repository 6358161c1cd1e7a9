"""The Open Inference Protocol v2: the live engine by itself, on a replica of its own, counted apart from Score()."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from google.rpc import code_pb2

import fraudgate
from fraudgate.clock import Clock, monotonic_ns, time_ns
from fraudgate.control.inference_request import FP32, Rows, rows_of, shown
from fraudgate.control.inference_statistics import Statistics, Took
from fraudgate.control.requests import Refused, abort, refuse
from fraudgate.engines.base import Engine, EngineInfo
from fraudgate.engines.replica import Replica, Run
from fraudgate.engines.repository import MODEL, Tensor, read_manifest
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.frontend.refusals import Refusal
from fraudgate.inference import grpc_service_pb2 as pb
from fraudgate.inference import grpc_service_pb2_grpc
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32

EXTENSIONS = ("model_configuration", "statistics")
BACKEND, PLATFORM = "onnxruntime", "onnxruntime_onnx"
_ANY_ROWS = -1
"""The protocol's word for a number of rows that the request chooses."""


class Served(NamedTuple):
    """The live engine and its two tensors, [32, features] and [32, 1], as its manifest names them."""

    info: EngineInfo
    input: Tensor
    output: Tensor


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for ``live``, a version of the repository ``root``.

    ``ready`` says whether payments are decided now; ``open_engine`` opens another instance of a version, see Replica.
    """

    def __init__(
        self,
        root: Path,
        live: Callable[[], Engine],
        ready: Callable[[], bool],
        open_engine: Callable[[EngineInfo], Engine],
        clock: Clock = monotonic_ns,
        wall_clock: Clock = time_ns,
    ) -> None:
        self._root, self._live, self._ready = root, live, ready
        self._clock, self._wall_clock = clock, wall_clock
        self._replica = Replica(open_engine, clock)
        self._statistics: dict[tuple[str, str], Statistics] = defaultdict(Statistics)
        self._served: Served | None = None

    async def ServerLive(  # noqa: N802 - the name is the protocol's
        self, request: pb.ServerLiveRequest, context: Any
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802 - the name is the protocol's
        self, request: pb.ServerReadyRequest, context: Any
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(  # noqa: N802 - the name is the protocol's
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        info = self._live().info
        live = request.name == info.name and request.version in ("", info.version)
        return pb.ModelReadyResponse(ready=live and self._ready())

    async def ServerMetadata(  # noqa: N802 - the name is the protocol's
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="fraudgate", version=fraudgate.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(  # noqa: N802 - the name is the protocol's
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        try:
            served = self._find(request.name, request.version)
        except Refused as refused:
            await abort(context, refused.refusal)
        return pb.ModelMetadataResponse(
            name=served.info.name,
            versions=[served.info.version],
            platform=PLATFORM,
            inputs=[_metadata(served.input)],
            outputs=[_metadata(served.output)],
        )

    async def ModelConfig(  # noqa: N802 - the name is the protocol's
        self, request: pb.ModelConfigRequest, context: Any
    ) -> pb.ModelConfigResponse:
        try:
            served = self._find(request.name, request.version)
        except Refused as refused:
            await abort(context, refused.refusal)
        return pb.ModelConfigResponse(config=_config(served))

    async def ModelStatistics(  # noqa: N802 - the name is the protocol's
        self, request: pb.ModelStatisticsRequest, context: Any
    ) -> pb.ModelStatisticsResponse:
        info = self._live().info
        try:
            _require(info, request.name or info.name, request.version)
        except Refused as refused:
            await abort(context, refused.refusal)
        statistics = self._statistics[info.name, info.version]
        return pb.ModelStatisticsResponse(model_stats=[statistics.to_wire(info.name, info.version)])

    async def ModelInfer(  # noqa: N802 - the name is the protocol's
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        started_ns = self._clock()
        try:
            served = self._find(request.model_name, request.model_version)
            return await self._infer(served, request, started_ns)
        except Refused as refused:
            await abort(context, refused.refusal)

    def _find(self, name: str, version: str) -> Served:
        """The live engine, if this names it. Raises Refused."""
        info = self._live().info
        _require(info, name, version)
        if self._served is None or self._served.info != info:
            try:
                manifest = read_manifest(self._root / info.name / info.version)
            except EngineRefused as refusal:
                raise Refused(Refusal(code_pb2.FAILED_PRECONDITION, str(refusal))) from refusal
            self._served = Served(info, *manifest.inputs, *manifest.outputs)
        return self._served

    async def _infer(self, served: Served, request: pb.ModelInferRequest, started_ns: int) -> pb.ModelInferResponse:
        statistics = self._statistics[served.info.name, served.info.version]
        answered = False
        try:
            rows = rows_of(request, served.input, served.output)
            checked_ns = self._clock()
            run = await self._score(served.info, rows.values)
            response = _response(served, request.id, rows, run.scores)
            answered = True
        finally:  # also when the caller went away
            if not answered:
                statistics.failed(self._clock() - started_ns)
        took = _took(started_ns, checked_ns, run, self._clock())
        statistics.succeeded(len(rows.values), took, self._wall_clock())
        return response

    async def _score(self, info: EngineInfo, rows: Float32) -> Run:
        try:
            return await self._replica.score(info, rows)
        except EngineRefused as refusal:
            raise Refused(Refusal(code_pb2.FAILED_PRECONDITION, str(refusal))) from refusal
        except EngineFailed as failure:
            raise Refused(Refusal(code_pb2.INTERNAL, str(failure))) from failure


def _require(info: EngineInfo, name: str, version: str) -> None:
    if name != info.name:
        refuse(Refusal(code_pb2.NOT_FOUND, f"model {shown(name)} is not live: send {info.name!r}"))
    if version not in ("", info.version):
        refuse(
            Refusal(
                code_pb2.NOT_FOUND,
                f"version {shown(version)} of {info.name!r} is not live: send {info.version!r}, or no version",
            )
        )


def _metadata(tensor: Tensor) -> pb.TensorMetadata:
    return pb.TensorMetadata(name=tensor.name, datatype=FP32, shape=[_ANY_ROWS, *tensor.shape[1:]])


def _config(served: Served) -> pb.ModelConfig:
    info, kind = served.info, pb.TYPE_FP32
    parameters = {
        "version": info.version,
        "engine_digest": info.engine_digest,
        "precision": info.precision,
        "provider": info.provider,
        "isa": info.isa,
        "runtime": info.runtime,
        "bit_proved": str(info.bit_proved).lower(),
    }
    return pb.ModelConfig(
        name=info.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=BATCH_ROWS_MAX,
        input=[pb.ModelInput(name=served.input.name, data_type=kind, dims=served.input.shape[1:])],
        output=[pb.ModelOutput(name=served.output.name, data_type=kind, dims=served.output.shape[1:])],
        default_model_filename=MODEL,
        parameters={name: pb.ModelParameter(string_value=value) for name, value in parameters.items()},
    )


def _response(served: Served, id: str, rows: Rows, scores: Float32) -> pb.ModelInferResponse:
    output = pb.InferOutputTensor(name=served.output.name, datatype=FP32, shape=[len(scores), 1])
    response = pb.ModelInferResponse(model_name=served.info.name, model_version=served.info.version, id=id)
    if rows.raw:
        response.raw_output_contents.append(scores.astype("<f4").tobytes())
    else:
        output.contents.fp32_contents.extend(scores.tolist())
    response.outputs.append(output)
    return response


def _took(started_ns: int, checked_ns: int, run: Run, ended_ns: int) -> Took:
    return Took(
        queue_ns=run.begun_ns - checked_ns,
        compute_input_ns=checked_ns - started_ns + run.packed_ns - run.begun_ns,
        compute_infer_ns=run.ended_ns - run.packed_ns,
        compute_output_ns=ended_ns - run.ended_ns,
    )
