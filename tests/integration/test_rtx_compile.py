"""TensorRT for RTX compiles the published models, which needs no GPU. Running a plan does: tests/gpu.

Its packages are no part of ./.venv: make test-rtx puts them beside it and runs this file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from fraudgate.engines.plan import compile_plan, read_plan
from fraudgate.engines.repository import MODEL, Manifest, read_files, read_manifest
from fraudgate.engines.tensorrt import deserialise, in_child
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import FEATURES, INPUT, GraphBuilder, fp32_graph, manifest_for

trt = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX is not installed: make test-rtx", exc_type=ImportError
)

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "models" / "repository").glob("*/*/manifest.json"))
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
FIRST_LAYER = ("hidden", "sums_0")
"""The node of the hidden layer in INT8, in the published graphs: the second name since there may be several layers."""
CPU_SECONDS_MAX = 5.0
"""Forty times what one compilation takes: a bound on its kind of work, not on this machine."""


def published(model_dir: Path) -> tuple[bytes, Manifest]:
    manifest = read_manifest(model_dir)
    return read_files(model_dir, manifest)[MODEL], manifest


def fraudgate(*words: object) -> dict[str, object]:
    """The JSON of ``fraudgate model compile`` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fraudgate", "model", "compile", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=120).stdout)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("model_dir", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_model_compiles_to_integer_layers(model_dir, capability):
    model, manifest = published(model_dir)
    record = compile_plan(model, manifest, "rtx", capability).record
    assert (record.target, record.runtime, record.compute_capability) == ("rtx", trt.__version__, capability)
    assert (record.inputs, record.outputs) == (manifest.inputs, manifest.outputs)
    [layer] = record.integer_layers
    assert any(name in layer for name in FIRST_LAYER), layer


@pytest.mark.parametrize("model_dir", PUBLISHED, ids=lambda path: path.parent.name)
def test_two_processes_compile_the_same_bytes(model_dir, tmp_path, capsys):
    words = (model_dir, "--target", "rtx", "--compute-capability")
    first = fraudgate(*words, "89", "--out", tmp_path / "1.plan")
    second = fraudgate(*words, "8.9", "--out", tmp_path / "2.plan")
    assert first["plan_digest"] == second["plan_digest"]
    assert (tmp_path / "1.plan").read_bytes() == (tmp_path / "2.plan").read_bytes()
    assert read_plan(tmp_path / "1.plan", read_manifest(model_dir)).record.model_digest == first["model_digest"]
    assert first["cpu_seconds"] < CPU_SECONDS_MAX
    with capsys.disabled():
        print(f"\n{model_dir.parent.name}: {first['bytes']:,} bytes, {first['wall_seconds']:.2f} s,", end=" ")
        print(f"{first['cpu_seconds']:.2f} s of CPU")


def test_what_must_not_be_rounded_is_not():
    model, manifest = published(PUBLISHED[0])
    assert b"tf32=0" in compile_plan(model, manifest, "rtx", "8.9").data


def test_a_float_graph_that_says_int8_is_refused():
    graph = fp32_graph()
    data = graph.SerializeToString()
    assert compile_plan(data, manifest(graph, precision="fp32"), "rtx", "8.9").record.integer_layers == ()
    with pytest.raises(EngineRefused, match="no layer of the plan multiplies INT8"):
        compile_plan(data, manifest(graph), "rtx", "8.9")


def test_a_graph_that_tensorrt_cannot_parse_is_refused_with_its_reason():
    builder = GraphBuilder()
    builder.node("NoSuchOperator", [INPUT], "score")
    graph = builder.model()
    with pytest.raises(EngineRefused, match=r"TensorRT does not take the graph: .*NoSuchOperator"):
        compile_plan(graph.SerializeToString(), manifest(graph), "rtx", "8.9")


def test_a_zero_point_is_refused():
    builder = GraphBuilder()
    quantised = builder.quantised("a", INPUT, 1 / 32, 0)
    builder.head(quantised, FEATURES)
    graph = builder.model()
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("int8") - 7, tensor.name))
    with pytest.raises(EngineRefused, match="TensorRT does not take the graph"):
        compile_plan(graph.SerializeToString(), manifest(graph), "rtx", "8.9")


def test_an_unknown_compute_capability_is_refused():
    model, manifest = published(PUBLISHED[0])
    with pytest.raises(EngineRefused, match=r"no compute capability '9\.9': choose one of .*8\.9, 12\.0"):
        compile_plan(model, manifest, "rtx", "9.9")


def test_another_manifest_is_refused():
    _, manifest = published(PUBLISHED[0])
    graph = fp32_graph(features=manifest.inputs[0].shape[1] + 1)
    with pytest.raises(EngineRefused, match="the manifest says"):
        compile_plan(graph.SerializeToString(), manifest, "rtx", "8.9")


def test_bytes_that_are_no_plan_are_refused_in_a_child():
    with pytest.raises(EngineRefused, match=r"deserialise ended .* in a child process"):
        in_child(deserialise, "rtx", b"not a plan")


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "set_input_shape set_tensor_address execute_async_v3"),
        ("IBuilderConfig", "create_timing_cache set_timing_cache"),
        ("ITimingCache", "serialize"),
    ],
)
def test_what_a_gpu_would_be_asked_for_exists(owner, names):
    assert all(hasattr(getattr(trt, owner), name) for name in names.split())


def manifest(graph: onnx.ModelProto, **changes: object) -> Manifest:
    digest = {"files": {MODEL: "0" * 64}}
    return manifest_for(graph, **(digest | changes))
