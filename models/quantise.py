"""A fitted network as an ONNX graph, float32 [32, F] in, float32 [32, 1] out: in FP32, or its hidden layer in INT8.

    features -> Gemm -> Clip 0..1 ->[ u8 x s8 -> Gemm ]-> Max -> Gemm -> Sigmoid -> score
        |       the ramps, float      the hidden layer            ^ float
        +---------------> Gemm by zeros, the bias ----------------+

Static, as QuantizeLinear / DequantizeLinear pairs. A ramp's range is 0..1 by construction, so its step is 1/255 and no
calibration data are asked. Weights are symmetric, one scale per unit, and use 7 bits: two products of u8 and s8 then
fit in 16 bits, so nothing saturates on a CPU without VNNI. Quantising the ramps would destroy the model, quantising the
last layer would leave few distinct scores: both stay in float.

The hidden bias b needs no integers of its own: Relu(h + b) = Max(h, -b) + b, and the second b is a constant of the last
layer. (A Relu or Clip behind the Gemm would be fused with it first, and the runtime would then miss the INT8 kernel.)

A quantised value cannot be NaN, so a feature that is not finite would vanish in the hidden layer and leave a score that
looks sound. The branch by zeros carries it: 0 for every finite feature, NaN for any other.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32
from models.network import Network

INPUT, OUTPUT = "features", "score"
RAMP_STEP = np.float32(1 / 255)
STEPS_MAX = 63  # 7 bits with the sign
OPSET, IR_VERSION = 17, 8


class QuantisedWeight(NamedTuple):
    """The hidden layer's weights in integers; a weight is ``steps`` x ``scale`` of its unit."""

    steps: npt.NDArray[np.int8]  # [ramps, hidden]
    scale: Float32  # [hidden]


def quantise(weight: Float32) -> QuantisedWeight:
    """Round ``weight`` [ramps, hidden] to 7 bits, one scale per unit."""
    largest = np.abs(weight).max(axis=0)
    scale = (np.where(largest > 0, largest, 1.0) / STEPS_MAX).astype(np.float32)
    return QuantisedWeight(np.rint(weight / scale).astype(np.int8), scale)


def export(network: Network, precision: str) -> bytes:
    """The serialised ONNX graph of ``network`` in "int8" or "fp32"."""
    graph = _Graph()
    ramps = graph.node(
        "Gemm", "ramps", INPUT, *graph.constants(ramp_weight=network.ramps.weight, ramp_bias=network.ramps.bias)
    )
    ramps = graph.node("Clip", "clipped", ramps, *graph.constants(zero=np.float32(0), one=np.float32(1)))
    if precision == "int8":
        ramps, weight = graph.quantised_ramps(ramps), graph.quantised_weight(quantise(network.hidden_weight))
    else:
        (weight,) = graph.constants(hidden_weight=network.hidden_weight)
    hidden = graph.node("Gemm", "hidden", ramps, weight)
    active = graph.node("Max", "active", hidden, *graph.constants(floor=-network.hidden_bias))
    features = len(network.ramps.weight)
    bias = network.output_bias + network.hidden_bias.astype(np.float64) @ network.output_weight
    zeros = graph.constants(zeros=np.zeros((features, 1), np.float32), output_bias=bias.astype(np.float32))
    finite = graph.node("Gemm", "finite", INPUT, *zeros)
    logit = graph.node("Gemm", "logit", active, *graph.constants(output_weight=network.output_weight), finite)
    graph.node("Sigmoid", OUTPUT, logit)
    return graph.serialise(features)


class _Graph:
    """Nodes and constants of a graph being written."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constants(self, **values: npt.ArrayLike) -> list[str]:
        """Add constants; returns their names."""
        self._constants += [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
        return list(values)

    def node(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def quantised_ramps(self, ramps: str) -> str:
        step = self.constants(ramp_step=RAMP_STEP, ramp_zero=np.uint8(0))
        return self.node("DequantizeLinear", "ramps_dq", self.node("QuantizeLinear", "ramps_u8", ramps, *step), *step)

    def quantised_weight(self, weight: QuantisedWeight) -> str:
        zeros = np.zeros(len(weight.scale), np.int8)
        parts = self.constants(hidden_steps=weight.steps, hidden_scale=weight.scale, hidden_zero=zeros)
        return self.node("DequantizeLinear", "hidden_weight", *parts, axis=1)

    def serialise(self, features: int) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            "fraudgate",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH_ROWS_MAX, features])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH_ROWS_MAX, 1])],
            self._constants,
        )
        model = helper.make_model(
            graph, producer_name="fraudgate", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
