"""Unsigned activations made signed: which graphs are taken, and why they must be."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from fraudgate.engines import golden
from fraudgate.engines.repository import GOLDEN, MODEL, read_files, read_manifest
from fraudgate.engines.signed import signed_activations
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import HIDDEN, INPUT, OUTPUT, GraphBuilder, fp32_graph, int8_graph

REPOSITORY = Path(__file__).resolve().parents[2] / "models" / "repository"
PUBLISHED = sorted(path.parent for path in REPOSITORY.glob("*/*/manifest.json"))


def scores(model: bytes, features: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches = [features[start : start + 32] for start in range(0, len(features) // 32 * 32, 32)]
    return np.concatenate([session.run(None, {INPUT: batch})[0] for batch in batches])


def zero_points(model: bytes) -> set[tuple[str, int]]:
    graph = onnx.load_from_string(model).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used = [constants[node.input[2]] for node in graph.node if node.op_type.endswith("quantizeLinear")]
    used += [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    return {(value.dtype.name, int(np.abs(value).max())) for value in used}


def read_as_tensorrt_does(model: bytes) -> bytes:
    """The graph with its zero points' type changed and nothing else: TensorRT's parser does that, and warns."""
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.int8), tensor.name))
    return proto.SerializeToString()


@pytest.mark.parametrize("model_dir", PUBLISHED, ids=lambda path: path.parent.name)
def test_the_published_models_keep_their_scores(model_dir):
    files = read_files(model_dir, read_manifest(model_dir))
    features = golden.decode(files[GOLDEN]).features
    signed = signed_activations(files[MODEL])
    assert zero_points(signed) == {("int8", 0)}
    expected = scores(files[MODEL], features)
    assert np.abs(scores(signed, features) - expected).max() <= 1e-6
    assert np.abs(scores(read_as_tensorrt_does(files[MODEL]), features) - expected).max() > 0.1


def test_graphs_without_unsigned_activations_come_back_unchanged():
    for model in (fp32_graph().SerializeToString(), signed_activations(int8_graph().SerializeToString())):
        assert signed_activations(model) == model


def quantised(zero_point: int = 0) -> GraphBuilder:
    """features -> uint8 -> float, named a_dq."""
    builder = GraphBuilder()
    builder.quantised("a", INPUT, 1 / 32, zero_point)
    return builder


def with_product(builder: GraphBuilder, op: str = "Gemm", inputs: tuple[str, ...] = (), **attributes: object) -> bytes:
    weights = builder.weights("w", 15, HIDDEN)
    hidden = builder.node(op, list(inputs) or ["a_dq", weights], "hidden", **attributes)
    builder.head(hidden)
    return builder.model().SerializeToString()


def read_by_a_relu() -> bytes:
    builder = quantised()
    builder.node("Relu", ["a_dq"], "relu")
    return with_product(builder, inputs=("relu", "w"))


def weights_of_the_input() -> bytes:
    builder = quantised()
    builder.node("Transpose", [INPUT], "turned")
    builder.node("MatMul", ["a_dq", "turned"], "square")
    builder.head("square", 32)
    return builder.model().SerializeToString()


def scale_per_channel() -> bytes:
    builder = GraphBuilder()
    scale = builder.constant("scale", np.full(15, 0.1, np.float32))
    zero = builder.constant("zero", np.zeros(15, np.uint8))
    builder.node("QuantizeLinear", [INPUT, scale, zero], "q")
    builder.node("DequantizeLinear", ["q", scale, zero], "a_dq")
    return with_product(builder)


def no_zero_point() -> bytes:
    builder = GraphBuilder()
    builder.node("QuantizeLinear", [INPUT, builder.constant("scale", np.float32(0.1))], "q")
    builder.node("DequantizeLinear", ["q", "scale"], "a_dq")
    return with_product(builder)


def unsigned_weights() -> bytes:
    builder = GraphBuilder()
    constants = [
        builder.constant("w_q", np.ones((15, HIDDEN), np.uint8)),
        builder.constant("w_scale", np.float32(0.1)),
        builder.constant("w_zero", np.uint8(3)),
    ]
    builder.node("DequantizeLinear", constants, "weights")
    return with_product(builder, inputs=(INPUT, "weights"))


def activation_as_output() -> bytes:
    builder = quantised()
    proto = onnx.load_from_string(with_product(builder))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("a_dq", onnx.TensorProto.FLOAT, (32, 15)))
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (read_by_a_relu(), "Relu of relu reads it, and is no plain product"),
        (with_product(quantised(), alpha=0.5), "Gemm of hidden reads it, and is no plain product"),
        (weights_of_the_input(), "MatMul of square has weights that are no constant"),
        (scale_per_channel(), "QuantizeLinear of q has a scale per channel"),
        (no_zero_point(), "QuantizeLinear of q has no constant zero point"),
        (unsigned_weights(), "DequantizeLinear of weights has no QuantizeLinear before it"),
        (activation_as_output(), "gives its unsigned activation a_dq as an output"),
    ],
)
def test_a_graph_that_cannot_be_made_signed_is_refused(model, message):
    with pytest.raises(EngineRefused, match=message):
        signed_activations(model)


def test_the_score_stays_the_output():
    graph = onnx.load_from_string(signed_activations(int8_graph().SerializeToString())).graph
    assert [value.name for value in graph.output] == [OUTPUT]
    onnx.checker.check_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)]))
