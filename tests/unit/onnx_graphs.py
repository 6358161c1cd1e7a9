"""Small seeded ONNX graphs for tests: the kinds that are served, and the kinds that are refused."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import Calibration, Manifest, Tensor, Thresholds, publish

FEATURES = 15
HIDDEN = 64
FINGERPRINT = "f" * 64
INPUT, OUTPUT = "features", "score"


class GraphBuilder:
    """Collects nodes and initializers of a graph float32[32, features] -> float32[32, 1]."""

    def __init__(self, seed: int = 0, features: int = FEATURES) -> None:
        self.random = np.random.default_rng(seed)
        self.features = features
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        scale = 1 / np.sqrt(shape[0])
        return self.constant(name, self.random.normal(0, scale, shape).astype(np.float32))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def quantised(self, name: str, value: str, scale: float, zero_point: int) -> str:
        """A QuantizeLinear / DequantizeLinear pair, unsigned activations."""
        constants = [
            self.constant(f"{name}_scale", np.float32(scale)),
            self.constant(f"{name}_zero", np.uint8(zero_point)),
        ]
        self.node("QuantizeLinear", [value, *constants], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", *constants], f"{name}_dq")

    def quantised_weights(self, name: str, *shape: int) -> str:
        """7-bit signed weights behind a DequantizeLinear."""
        values = self.random.integers(-63, 64, shape, dtype=np.int8)
        self.constant(f"{name}_q", values)
        self.constant(f"{name}_scale", np.float32(1 / (40 * np.sqrt(shape[0]))))
        self.constant(f"{name}_zero", np.int8(0))
        return self.node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], name)

    def head(self, hidden: str, width: int = HIDDEN) -> None:
        """The last layer in float, and the sigmoid."""
        logit = self.node("Gemm", [hidden, self.weights("w_last", width, 1), self.weights("b_last", 1)], "logit")
        self.node("Sigmoid", [logit], OUTPUT)

    def model(
        self,
        input_shape: Sequence[int | str] | None = None,
        output_shape: Sequence[int | str] = (32, 1),
        outputs: Sequence[onnx.ValueInfoProto] = (),
        functions: Sequence[onnx.FunctionProto] = (),
    ) -> onnx.ModelProto:
        shape = (32, self.features) if input_shape is None else input_shape
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape), *outputs],
            self.initializers,
        )
        domains = ["com.microsoft", *{function.domain for function in functions}]
        opsets = [helper.make_opsetid("", 19), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)


def fp32_graph(seed: int = 0, features: int = FEATURES, **shapes: Sequence[int | str]) -> onnx.ModelProto:
    """features -> 64 ReLU -> 64 ReLU -> score, all float."""
    builder = GraphBuilder(seed, features)
    hidden = builder.node("Gemm", [INPUT, builder.weights("w0", features, HIDDEN), builder.weights("b0", HIDDEN)], "h0")
    hidden = builder.node("Relu", [hidden], "r0")
    hidden = builder.node("Gemm", [hidden, builder.weights("w1", HIDDEN, HIDDEN), builder.weights("b1", HIDDEN)], "h1")
    builder.head(builder.node("Relu", [hidden], "r1"))
    return builder.model(**shapes)


def int8_graph(seed: int = 0, features: int = FEATURES) -> onnx.ModelProto:
    """Float ramps -> 64 ReLU in INT8 (u8 activations, 7-bit s8 weights, static QDQ) -> score in float."""
    builder = GraphBuilder(seed, features)
    ramps = builder.node("Gemm", [INPUT, builder.weights("w0", features, HIDDEN), builder.weights("b0", HIDDEN)], "h0")
    ramps = builder.node(
        "Clip", [ramps, builder.constant("zero", np.float32(0)), builder.constant("one", np.float32(1))], "c0"
    )
    ramps = builder.quantised("a0", ramps, 1 / 255, 0)
    hidden = builder.node("MatMul", [ramps, builder.quantised_weights("w1", HIDDEN, HIDDEN)], "h1")
    hidden = builder.node("Add", [hidden, builder.weights("b1", HIDDEN)], "s1")
    hidden = builder.quantised("a1", builder.node("Relu", [hidden], "r1"), 4 / 255, 0)
    builder.head(hidden)
    return builder.model()


def dynamic_graph(seed: int = 0, features: int = FEATURES) -> onnx.ModelProto:
    """The same network with its scale taken from the batch: a score depends on its batch-mates."""
    builder = GraphBuilder(seed, features)
    ramps = builder.node("Gemm", [INPUT, builder.weights("w0", features, HIDDEN), builder.weights("b0", HIDDEN)], "h0")
    builder.nodes.append(helper.make_node("DynamicQuantizeLinear", [ramps], ["q", "q_scale", "q_zero"]))
    hidden = builder.node("DequantizeLinear", ["q", "q_scale", "q_zero"], "dq")
    builder.head(builder.node("Relu", [hidden], "r1"))
    return builder.model()


def manifest_for(model: onnx.ModelProto, **changes: object) -> Manifest:
    """A manifest that holds for a graph of this module."""
    fields: dict[str, object] = {
        "name": "test",
        "version": "1",
        "schema_fingerprint": FINGERPRINT,
        "inputs": tuple(_tensor(value) for value in model.graph.input),
        "outputs": tuple(_tensor(value) for value in model.graph.output),
        "precision": "int8",
        "calibration_set_digest": "0" * 64,
        "metrics": {"fp32": {"auc_roc": 0.9}, "int8": {"auc_roc": 0.9}},
        "thresholds": Thresholds(review=0.4, decline=0.6),
        "calibration": Calibration(scale=1.0, bias=0.0),
        "command": "pytest",
        "published_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


def engine_of(model: onnx.ModelProto, **changes: object) -> OnnxEngine:
    """An engine on an unpublished graph."""
    return OnnxEngine(model.SerializeToString(), manifest_for(model, **changes))


def publish_graph(root: Path, model: onnx.ModelProto, files: dict[str, bytes] | None = None, **changes: object) -> Path:
    """Publish a graph under ``root`` and return its directory."""
    contents = {"model.onnx": model.SerializeToString(), "card.md": b"# A test model\n", **(files or {})}
    return publish(root, manifest_for(model, **changes), contents)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor_type = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
    return Tensor(value.name, dtype, tuple(dim.dim_value for dim in tensor_type.shape.dim))
