"""The Open Inference Protocol over the wire: the engine's own bits, every refusal, metadata, statistics."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import fraudgate
from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, MODEL, Manifest, read_manifest, resolve
from fraudgate.errors import EngineFailed
from fraudgate.inference import grpc_service_pb2 as pb
from fraudgate.inference import grpc_service_pb2_grpc
from fraudgate.transaction import Float32
from tests.integration.server import End, Running, end_of, end_of_error, serve, transaction, unary
from tests.unit.onnx_graphs import int8_graph, publish_graph

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode
PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "repository"
NAME = "handbook"
FEATURES = 15
CALL = "/inference.GRPCInferenceService/"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Running]:
    """Serves a published model."""
    async with serve(PUBLISHED, model={"name": NAME}) as running:
        yield running


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(resolve(PUBLISHED, NAME))


def stub(server: Running) -> Any:
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(server.control)


def tensor(rows: int = 1, features: int = FEATURES, **fields: Any) -> pb.InferInputTensor:
    return pb.InferInputTensor(**{"name": "features", "datatype": "FP32", "shape": [rows, features], **fields})


def raw_request(values: Float32, **fields: Any) -> pb.ModelInferRequest:
    """Float32[n, features] as bytes."""
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    good = {"model_name": NAME, "inputs": [tensor(*values.shape)], "raw_input_contents": [raw]}
    return pb.ModelInferRequest(**{**good, **fields})


def typed_request(values: Float32, **fields: Any) -> pb.ModelInferRequest:
    """Float32[n, features] as numbers."""
    numbers = pb.InferTensorContents(fp32_contents=values.ravel().tolist())
    good = {"model_name": NAME, "inputs": [tensor(*values.shape, contents=numbers)]}
    return pb.ModelInferRequest(**{**good, **fields})


ZEROS = np.zeros((1, FEATURES), np.float32)


async def refused(server: Running, request: pb.ModelInferRequest) -> End:
    """What an infer that must fail ended with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(server).ModelInfer(request)
    return end_of_error(caught.value)


async def statistics(server: Running) -> pb.ModelStatistics:
    (entry,) = (await stub(server).ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    return entry


# -- infer -------------------------------------------------------------------------------------------------------------


async def test_golden_rows_have_the_engines_own_bits_in_requests_of_every_size(
    server: Running, manifest: Manifest
) -> None:
    path = resolve(PUBLISHED, NAME)
    rows = golden.decode((path / GOLDEN).read_bytes()).features
    engine = OnnxEngine.load(path, manifest.schema_fingerprint)
    wanted = golden.score(engine, rows.astype(np.float64)).view(np.uint32)
    sizes = [*range(1, 33), *range(31, 0, -1)]
    assert sum(sizes) <= len(rows)
    start = 0
    for size in sizes:
        part, bits = rows[start : start + size], wanted[start : start + size].tolist()
        raw = await stub(server).ModelInfer(raw_request(part))
        assert np.frombuffer(raw.raw_output_contents[0], "<u4").tolist() == bits
        typed = await stub(server).ModelInfer(typed_request(part))
        assert np.array(typed.outputs[0].contents.fp32_contents, np.float32).view(np.uint32).tolist() == bits
        start += size


async def test_an_answer_has_the_form_of_its_request(server: Running, manifest: Manifest) -> None:
    rows = np.repeat(ZEROS, 3, axis=0)
    asked = [pb.InferRequestedOutputTensor(name="score")]
    raw = await stub(server).ModelInfer(raw_request(rows, id="r-1", model_version=manifest.version, outputs=asked))
    typed = await stub(server).ModelInfer(typed_request(rows))
    assert (raw.model_name, raw.model_version, raw.id, typed.id) == (NAME, manifest.version, "r-1", "")
    for answer in (raw, typed):
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("score", "FP32", [3, 1])
    assert [len(entry) for entry in raw.raw_output_contents] == [12]
    assert not raw.outputs[0].HasField("contents")
    assert (len(typed.outputs[0].contents.fp32_contents), len(typed.raw_output_contents)) == (3, 0)


async def test_score_used_the_same_bits_and_its_slabs_are_not_touched(server: Running) -> None:
    ends = await server.score_rows([transaction(f"slab {i}", amount_minor=100 * i) for i in range(5)])
    scores = np.array([end.response.score for end in ends], np.float32).tobytes()
    before = [slab.array.copy() for slab in server.service.parts.slabs]
    answers = [await stub(server).ModelInfer(raw_request(slab[:5])) for slab in before]
    assert scores in [answer.raw_output_contents[0] for answer in answers]
    assert all(np.array_equal(was, slab.array) for was, slab in zip(before, server.service.parts.slabs, strict=True))


async def test_what_is_not_finite_goes_through_and_leaves_its_neighbours_alone(server: Running) -> None:
    rows = np.ones((4, FEATURES), np.float32)
    wanted = (await stub(server).ModelInfer(raw_request(rows))).raw_output_contents[0]
    rows[1], rows[3] = np.nan, np.inf
    answer = (await stub(server).ModelInfer(raw_request(rows))).raw_output_contents[0]
    assert (answer[0:4], answer[8:12], len(answer)) == (wanted[0:4], wanted[8:12], 16)


SHARED = {"shared_memory_region": pb.InferParameter(string_param="input_data")}
ANY = {"priority": pb.InferParameter(uint64_param=1)}
NUMBERS = pb.InferTensorContents(fp32_contents=[0.0] * FEATURES)
DOUBLES = pb.InferTensorContents(fp64_contents=[0.0] * FEATURES)
SCORE = pb.InferRequestedOutputTensor(name="score")

NOT_VALID = {
    "no input": ({"inputs": []}, "inputs", "'features'"),
    "two inputs": ({"inputs": [tensor(), tensor()]}, "inputs", "'features'"),
    "another input": ({"inputs": [tensor(name="x")]}, "inputs[0].name", "'x' is no input: send 'features'"),
    "a long name": ({"inputs": [tensor(name="x" * 9_999)]}, "inputs[0].name", "send 'features'"),
    "another type": ({"inputs": [tensor(datatype="FP64")]}, "inputs[0].datatype", "send 'FP32'"),
    "no rows": ({"inputs": [tensor(0)], "raw_input_contents": [b""]}, "inputs[0].shape", "[rows, 15] with 1 to 32"),
    "33 rows": ({"inputs": [tensor(33)]}, "inputs[0].shape", "1 to 32 rows"),
    "a negative shape": ({"inputs": [tensor(-1, -15)]}, "inputs[0].shape", "1 to 32 rows"),
    "a feature more": ({"inputs": [tensor(1, 16)]}, "inputs[0].shape", "[rows, 15]"),
    "one axis": ({"inputs": [tensor(shape=[15])]}, "inputs[0].shape", "[rows, 15]"),
    "three axes": ({"inputs": [tensor(shape=[1, 15, 1])]}, "inputs[0].shape", "[rows, 15]"),
    "bytes for another shape": ({"inputs": [tensor(2)]}, "raw_input_contents", "one entry of 120 bytes"),
    "two raw entries": ({"raw_input_contents": [bytes(60)] * 2}, "raw_input_contents", "one entry of 60 bytes"),
    "both forms": ({"inputs": [tensor(contents=NUMBERS)]}, "inputs[0].contents", "send one of the two"),
    "neither form": ({"raw_input_contents": []}, "inputs[0].contents.fp32_contents", "needs 15 numbers"),
    "numbers for another shape": (
        {"inputs": [tensor(2, contents=NUMBERS)], "raw_input_contents": []},
        "inputs[0].contents.fp32_contents",
        "needs 30 numbers, as the shape says, and has 15",
    ),
    "doubles": (
        {"inputs": [tensor(contents=DOUBLES)], "raw_input_contents": []},
        "inputs[0].contents.fp64_contents",
        "send fp32_contents",
    ),
    "another output": (
        {"outputs": [pb.InferRequestedOutputTensor(name="y")]},
        "outputs[0].name",
        "'y' is no output: send 'score'",
    ),
    "an output twice": ({"outputs": [SCORE, SCORE]}, "outputs", "needs one tensor, 'score'"),
}


@pytest.mark.parametrize("case", NOT_VALID)
async def test_a_wrong_request_is_told_what_to_send(server: Running, case: str) -> None:
    fields, path, words = NOT_VALID[case]
    end = await refused(server, raw_request(ZEROS, **fields))
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, path)
    assert words in end.message
    assert len(end.message) < 200


NOT_SERVED = {
    "of the request": ({"parameters": ANY}, "parameters['priority'] is not served: send none"),
    "of the input": (
        {"inputs": [tensor(parameters=SHARED)], "raw_input_contents": []},
        "inputs[0].parameters['shared_memory_region'] is not served: send the rows with the request",
    ),
    "of the output": (
        {"outputs": [pb.InferRequestedOutputTensor(name="score", parameters=SHARED)]},
        "outputs[0].parameters['shared_memory_region'] is not served",
    ),
}


@pytest.mark.parametrize("case", NOT_SERVED)
async def test_parameters_are_not_served(server: Running, case: str) -> None:
    fields, words = NOT_SERVED[case]
    end = await refused(server, raw_request(ZEROS, **fields))
    assert end.code is Code.UNIMPLEMENTED
    assert words in end.message


@pytest.mark.parametrize("call", ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_a_model_that_is_not_live_is_not_found(server: Running, manifest: Manifest, call: str) -> None:
    is_infer = call == "ModelInfer"
    kind = getattr(pb, f"{call}Request")
    for name, version, words in (
        ("simulated", "", "model 'simulated' is not live: send 'handbook'"),
        (NAME, "1", f"version '1' of 'handbook' is not live: send '{manifest.version}', or no version"),
    ):
        request = kind(model_name=name, model_version=version) if is_infer else kind(name=name, version=version)
        end = await end_of(unary(server.control, CALL + call)(request.SerializeToString()))
        assert (end.code, end.message) == (Code.NOT_FOUND, words)


async def test_what_is_not_built_is_unimplemented(server: Running) -> None:
    end = await end_of(unary(server.control, CALL + "SystemSharedMemoryStatus")(b""))
    assert end.code is Code.UNIMPLEMENTED


async def test_bytes_that_do_not_decode_are_invalid_argument(server: Running) -> None:
    end = await end_of(unary(server.control, CALL + "ModelInfer")(b"\x0a\xff\xff\xff"))
    assert end.code is Code.INVALID_ARGUMENT


# -- what is served ----------------------------------------------------------------------------------------------------


async def test_live_and_ready(models: Path) -> None:
    async with serve(models) as server:
        info = server.service.parts.engine.info

        async def ready(name: str, version: str = "") -> bool:
            return bool((await stub(server).ModelReady(pb.ModelReadyRequest(name=name, version=version))).ready)

        assert (await stub(server).ServerLive(pb.ServerLiveRequest())).live
        assert (await stub(server).ServerReady(pb.ServerReadyRequest())).ready
        assert await ready(info.name)
        assert await ready(info.name, info.version)
        assert not await ready(info.name, "another")
        assert not await ready("another")
        await server.service._set_serving(False)
        assert (await stub(server).ServerLive(pb.ServerLiveRequest())).live
        assert not (await stub(server).ServerReady(pb.ServerReadyRequest())).ready
        assert not await ready(info.name)


async def test_metadata_and_configuration_agree_with_the_manifest(server: Running, manifest: Manifest) -> None:
    about = await stub(server).ServerMetadata(pb.ServerMetadataRequest())
    assert (about.name, about.version) == ("fraudgate", fraudgate.__version__)
    assert list(about.extensions) == ["model_configuration", "statistics"]
    metadata = await stub(server).ModelMetadata(pb.ModelMetadataRequest(name=NAME))
    config = (await stub(server).ModelConfig(pb.ModelConfigRequest(name=NAME))).config
    assert (metadata.name, list(metadata.versions)) == (config.name, [manifest.version]) == (NAME, [manifest.version])
    for wanted, tensors, configured in (
        (manifest.inputs, metadata.inputs, config.input),
        (manifest.outputs, metadata.outputs, config.output),
    ):
        shapes = {tensor.name: tensor.shape[1:] for tensor in wanted}
        assert {each.name: tuple(each.shape) for each in tensors} == {n: (-1, *shape) for n, shape in shapes.items()}
        assert {each.name: tuple(each.dims) for each in configured} == shapes
        assert {each.datatype for each in tensors} == {"FP32"}
        assert {each.data_type for each in configured} == {pb.TYPE_FP32}
    assert config.max_batch_size == manifest.batch.max
    assert config.default_model_filename == MODEL
    assert config.parameters["engine_digest"].string_value == manifest.engine_digest
    assert config.parameters["version"].string_value == manifest.version


async def test_another_live_engine_is_served_at_once(models: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(models, root)
    async with serve(root) as server:
        parts = server.service.parts
        first = parts.engine.info
        request = raw_request(np.ones((2, FEATURES), np.float32), model_name=first.name)
        before = await stub(server).ModelInfer(request)
        second = publish_graph(
            root, int8_graph(7), name=first.name, version="2", schema_fingerprint=first.schema_fingerprint
        )
        parts.fleet.live = await parts.engines.open(second)
        after = await stub(server).ModelInfer(request)
        assert (before.model_version, after.model_version) == (first.version, "2")
        wanted = golden.score(parts.engine, np.ones((2, FEATURES)))
        assert after.raw_output_contents[0] == wanted.tobytes() != before.raw_output_contents[0]
        entry = await statistics(server)
        assert (entry.version, entry.execution_count) == ("2", 1)


async def test_an_engine_that_cannot_be_opened_again_says_so(models: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(models, root)
    async with serve(root) as server:
        info = server.service.parts.engine.info
        (root / info.name / info.version / MODEL).write_bytes(b"another")
        end = await refused(server, raw_request(ZEROS, model_name=info.name))
        assert end.code is Code.FAILED_PRECONDITION
        assert "its manifest says" in end.message
        assert (await statistics(server)).inference_stats.fail.count == 1


async def test_an_engine_that_fails_is_our_fault(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(models) as server:
        info = server.service.parts.engine.info

        def fail(engine: OnnxEngine, slot: int) -> Float32:
            raise EngineFailed("the device is gone")

        await stub(server).ModelInfer(raw_request(ZEROS, model_name=info.name))
        monkeypatch.setattr(OnnxEngine, "run", fail)
        end = await refused(server, raw_request(ZEROS, model_name=info.name))
        assert (end.code, end.message) == (Code.INTERNAL, "the device is gone")


# -- statistics --------------------------------------------------------------------------------------------------------


async def test_statistics_add_up(models: Path) -> None:
    async with serve(models) as server:
        name = server.service.parts.engine.info.name
        empty = await statistics(server)
        assert (empty.name, empty.inference_count, empty.last_inference, len(empty.batch_stats)) == (name, 0, 0, 0)
        for rows in (3, 32, 3, 1):
            await stub(server).ModelInfer(raw_request(np.zeros((rows, FEATURES), np.float32), model_name=name))
        await refused(server, raw_request(ZEROS, model_name=name, inputs=[]))
        await refused(server, raw_request(ZEROS, model_name="another"))
        await server.score_rows([transaction(f"counted apart {i}") for i in range(5)])
        entry = await statistics(server)
    took = entry.inference_stats
    stages = (took.queue, took.compute_input, took.compute_infer, took.compute_output)
    assert (entry.inference_count, entry.execution_count, took.success.count, took.fail.count) == (39, 4, 4, 1)
    assert took.success.ns == sum(stage.ns for stage in stages)
    assert all(stage.count == 4 and stage.ns > 0 for stage in stages)
    assert took.fail.ns > 0
    assert entry.last_inference > 1_700_000_000_000
    assert [(each.batch_size, each.compute_infer.count) for each in entry.batch_stats] == [(1, 1), (3, 2), (32, 1)]
    for stage in ("compute_input", "compute_infer", "compute_output"):
        assert sum(getattr(each, stage).ns for each in entry.batch_stats) == getattr(took, stage).ns
