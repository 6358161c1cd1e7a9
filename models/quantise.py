"""A fitted network as an ONNX graph, float32 [32, F] in, float32 [32, 1] out: in FP32, or its first layer in INT8.

    features -> Gemm -> Clip 0..1 ->[ u8 x s8 -> Gemm ]-> Max -> Gemm, Relu ... -> Gemm -> Sigmoid -> score
        |       the ramps, float     the first hidden layer     ^ float       float ^
        +---------------> Gemm by zeros, the bias ----------------------------------+

Static, as QuantizeLinear / DequantizeLinear pairs. A ramp's range is 0..1 by construction, so its step is 1/255 and no
calibration data are asked. Weights are symmetric, one scale per unit, and use 7 bits: two products of u8 and s8 then
fit in 16 bits, so nothing saturates on a CPU without VNNI. Where training laid the ramps for it (``pairs``), 8 bits.

INT8 is the layer that holds two thirds of the multiplications. Quantising the ramps would destroy the model, quantising
the last layer would leave few distinct scores, and a small second layer costs less in float than rounding its inputs.
Where layers are wide this turns round: ``export`` can keep a chain of them in INT8, from u8 to u8.

The first layer's bias b needs no integers of its own: Relu(h + b) = Max(h, -b) + b, and the second b is a constant of
the next layer. (A Relu or Clip behind the Gemm would be fused with it first, and the runtime would then miss the INT8
kernel.)

A quantised value cannot be NaN, so a feature that is not finite would vanish in the first layer and leave a score that
looks sound. The branch by zeros carries it: 0 for every finite feature, NaN for any other.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines.repository import Precision
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32, Float64
from models.network import Network
from models.pairs import PAIR_MAX, WEIGHT_MAX, pair_sums

INPUT, OUTPUT = "features", "score"
RAMP_STEP = np.float32(1 / 255)
STEPS_MAX = 63  # 7 bits with the sign
OPSET, IR_VERSION = 17, 8

Constant = npt.NDArray[Any] | np.generic


class QuantisedWeight(NamedTuple):
    """The first layer's weights in integers; a weight is ``steps`` x ``scale`` of its unit."""

    steps: npt.NDArray[np.int8]  # [ramps, width]
    scale: Float32  # [width]


def quantise(weight: Float32, step: Float32 | None = None) -> QuantisedWeight:
    """Round ``weight`` [ramps, width] to 7 bits, one scale per unit.

    ``step`` [width]: what one step stands for, where quantisation-aware training has fixed it. Raises ValueError where
    such weights would saturate.
    """
    step = seven_bit_step(np.abs(weight).max(axis=0)) if step is None else step
    steps = np.rint(weight / step)
    if pair_sums(steps).max() > PAIR_MAX or np.abs(steps).max() > WEIGHT_MAX:
        raise ValueError("two neighbouring weights come to more than fits in 16 bits: lay the ramps in pairs")
    return QuantisedWeight(steps.astype(np.int8), step)


def seven_bit_step(largest: Float32) -> Float32:
    """The steps [width] in which the ``largest`` weights [width] have 7 bits."""
    return np.asarray(np.where(largest > 0, largest, 1.0) / STEPS_MAX, np.float32)


def export(network: Network, precision: Precision, steps: Sequence[float] = ()) -> bytes:
    """The serialised ONNX graph of ``network``.

    With ``steps``, a u8 step for the units of each of the first hidden layers, the layers after these are in INT8 too.
    """
    graph = _Graph()
    ramps = graph.node(
        "Gemm", "ramps", INPUT, *graph.constants(ramp_weight=network.ramps.weight, ramp_bias=network.ramps.bias)
    )
    active = graph.node("Clip", "clipped", ramps, *graph.constants(zero=np.float32(0), one=np.float32(1)))
    if precision == "fp32":
        return _float_layers(graph, network, 0, active, network.biases[0])
    active, first = graph.rounded("ramps", active, RAMP_STEP), len(steps)
    for layer, (step_in, step) in enumerate(pairwise([RAMP_STEP, *map(np.float32, steps)])):
        active = _rounded_layer(graph, network, layer, active, step_in, step)
    weight = graph.integers(f"weight_{first}", *quantise(network.weights[first], _step(network, first)))
    sums = graph.node("Gemm", f"sums_{first}", active, weight)
    floor = np.tile(-network.biases[first], (BATCH_ROWS_MAX, 1))  # of the sums' shape: repeating a row costs more
    active = graph.node("Max", f"active_{first}", sums, *graph.constants(floor=floor))
    left_over = network.biases[first].astype(np.float64) @ network.weights[first + 1]
    return _float_layers(graph, network, first + 1, active, network.biases[first + 1] + left_over)


def _float_layers(graph: "_Graph", network: Network, first: int, active: str, first_bias: Float32 | Float64) -> bytes:
    """Layer ``first``, whose inputs are ``active`` and whose bias is ``first_bias``, and everything after it."""
    bias = np.asarray(first_bias, np.float32)
    for layer in range(first, len(network.weights) - 1):
        constants = {f"weight_{layer}": network.weights[layer], f"bias_{layer}": bias}
        sums = graph.node("Gemm", f"sums_{layer}", active, *graph.constants(**constants))
        active = graph.node("Relu", f"active_{layer}", sums)
        bias = network.biases[layer + 1]
    features = len(network.ramps.weight)
    zeros = graph.constants(zeros=np.zeros((features, 1), np.float32), output_bias=bias)
    finite = graph.node("Gemm", "finite", INPUT, *zeros)
    logit = graph.node("Gemm", "logit", active, *graph.constants(output_weight=network.weights[-1]), finite)
    graph.node("Sigmoid", OUTPUT, logit)
    return graph.serialise(features)


def _rounded_layer(
    graph: "_Graph", network: Network, layer: int, active: str, step_in: np.float32, step: np.float32
) -> str:
    """A hidden layer from u8 to u8. Its ReLU is the rounding: what is under zero is cut to the zero point, zero."""
    weight = quantise(network.weights[layer], _step(network, layer))
    scale = weight.scale * step_in  # of the sums; the bias is added to them in their own 32 bits
    bias = graph.integers(f"bias_{layer}", np.rint(network.biases[layer] / scale).astype(np.int32), scale)
    sums = graph.node("Gemm", f"sums_{layer}", active, graph.integers(f"weight_{layer}", *weight), bias)
    return graph.rounded(f"active_{layer}", sums, step)


def _step(network: Network, layer: int) -> Float32 | None:
    return network.weight_step if layer == 0 else None


class _Graph:
    """Nodes and constants of a graph being written."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constants(self, **values: Constant) -> list[str]:
        """Add constants; returns their names."""
        self._constants += [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
        return list(values)

    def node(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def rounded(self, name: str, values: str, step: np.float32) -> str:
        """``values`` in u8 steps from zero; returns the name of what the steps stand for."""
        parts: dict[str, Constant] = {f"{name}_step": step, f"{name}_zero": np.uint8(0)}
        names = self.constants(**parts)
        steps = self.node("QuantizeLinear", f"{name}_u8", values, *names)
        return self.node("DequantizeLinear", f"{name}_dq", steps, *names)

    def integers(self, name: str, steps: npt.NDArray[Any], scale: Float32) -> str:
        """Constants: ``steps`` [..., width] of any integer type, each ``scale`` [width] large."""
        parts: dict[str, Constant] = {f"{name}_steps": steps, f"{name}_scale": scale}
        zeros = {f"{name}_zero": np.zeros(len(scale), steps.dtype)}
        return self.node("DequantizeLinear", name, *self.constants(**parts, **zeros), axis=steps.ndim - 1)

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
