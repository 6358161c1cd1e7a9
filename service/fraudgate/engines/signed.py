"""Unsigned activations as signed ones, for TensorRT, which knows signed INT8 without a zero point only.

Its parser reads a uint8 QuantizeLinear as int8 with no more than a warning: everything above 127 steps saturates, and
the scores are wrong. Here u - 128 takes the place of u, and what that moves a product by is added behind it:

    u = clamp(round(x / s) + z, 0, 255)          v = clamp(round((x - c) / s), -128, 127) = u - 128,  c = (128 - z) s
    (u - z) s W  =  v s W  +  c (column sums of W)

Needs the onnx package, which serving on the CPU does not.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fraudgate.engines.extras import need
from fraudgate.engines.graph import QUANTISING_OPS
from fraudgate.errors import EngineRefused

MIDDLE = 128
PRODUCTS = ("Gemm", "MatMul")


def signed_activations(model: bytes) -> bytes:
    """The model with each uint8 activation as int8 without a zero point; other models come back unchanged.

    Raises EngineRefused where an unsigned value feeds anything but a product with constant weights.
    """
    onnx = need("onnx")
    proto = onnx.load_from_string(model)
    rewriter = _Rewriter(onnx, proto.graph)
    unsigned = rewriter.unsigned_nodes()
    if not unsigned:
        return model
    for node in unsigned:
        if node.op_type == "QuantizeLinear":
            rewriter.rewrite(node)
    rewriter.finish()
    return bytes(proto.SerializeToString())


class _Rewriter:
    """Changes nodes in place and collects those to add, by the output of the node that they go before or behind."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._before: dict[str, Any] = {}
        self._behind: dict[str, Any] = {}

    def unsigned_nodes(self) -> list[Any]:
        """The quantise and dequantise nodes of uint8."""
        nodes = [node for node in self._graph.node if node.op_type in QUANTISING_OPS]
        for node in nodes:
            # Without a zero point the type stands elsewhere, and QuantizeLinear's is uint8.
            if len(node.input) < 3 or node.input[2] not in self._constants:
                raise _refused(node, "has no constant zero point")
        return [node for node in nodes if self._constants[node.input[2]].dtype == np.uint8]

    def rewrite(self, quantise: Any) -> None:
        """Give one QuantizeLinear, and what reads it, signed steps."""
        value, scale_name, zero_name = quantise.input
        scale, zero = self._constants[scale_name], self._constants[zero_name]
        if scale.ndim:
            raise _refused(quantise, "has a scale per channel")
        name = quantise.output[0]
        shift = np.float32((MIDDLE - int(zero)) * float(scale))
        self._before[name] = self._node("Sub", [value, self._constant(f"{name}_shift", shift)], f"{name}_shifted")
        signed_zero = self._constant(f"{name}_zero", np.int8(0))
        for dequantise in self._readers(name):
            if dequantise.op_type != "DequantizeLinear" or list(dequantise.input[1:]) != [scale_name, zero_name]:
                raise _refused(dequantise, "reads it, and is no DequantizeLinear of the same scale")
            dequantise.input[2] = signed_zero
            for product in self._readers(dequantise.output[0]):
                self._correct(product, dequantise.output[0], float(shift))
        quantise.input[0], quantise.input[2] = f"{name}_shifted", signed_zero

    def _correct(self, product: Any, activation: str, shift: float) -> None:
        options = {attribute.name for attribute in product.attribute} - {"beta"}
        place = [index for index, name in enumerate(product.input) if name == activation]
        if product.op_type not in PRODUCTS or options or place != [0]:
            raise _refused(product, "reads it, and is no plain product with constant weights behind it")
        correction = (shift * self._weights(product).astype(np.float64).sum(axis=0)).astype(np.float32)
        output = product.output[0]
        product.output[0] = f"{output}_signed"
        name = self._constant(f"{output}_correction", correction)
        self._behind[product.output[0]] = self._node("Add", [product.output[0], name], output)

    def _weights(self, product: Any) -> npt.NDArray[Any]:
        """The weights [K, N] of a product: a float constant, or a DequantizeLinear of constants."""
        name = product.input[1]
        if name in self._constants and self._constants[name].ndim == 2:
            return np.asarray(self._constants[name])
        maker = next((node for node in self._graph.node if name in node.output), None)
        if maker is None or maker.op_type != "DequantizeLinear" or not self._constants.keys() >= set(maker.input):
            raise _refused(product, "has weights that are no constant")
        steps, scale, zero = (self._constants[read].astype(np.float64) for read in maker.input)
        axis = {attribute.name: attribute.i for attribute in maker.attribute}.get("axis", 1)
        if steps.ndim != 2 or (scale.ndim and axis not in (1, -1)):
            raise _refused(maker, "has a scale per row")
        return np.asarray((steps - zero) * scale)

    def _readers(self, name: str) -> list[Any]:
        if any(output.name == name for output in self._graph.output):
            raise EngineRefused(f"the graph gives its unsigned activation {name} as an output: export it as int8")
        return [node for node in self._graph.node if name in node.input]

    def _constant(self, name: str, value: Any) -> str:
        if name in self._constants:
            raise EngineRefused(f"the graph has a constant {name} already: rename it")
        self._constants[name] = np.asarray(value)
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, op: str, inputs: list[str], output: str) -> Any:
        return self._onnx.helper.make_node(op, inputs, [output], name=output)

    def finish(self) -> None:
        """Put the new nodes in their places. Raises EngineRefused where something unsigned is left."""
        if left := self.unsigned_nodes():
            raise _refused(left[0], "has no QuantizeLinear before it")
        ordered = [
            added
            for node in self._graph.node
            for added in (self._before.get(node.output[0]), node, self._behind.get(node.output[0]))
            if added is not None
        ]
        copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
        del self._graph.node[:]
        self._graph.node.extend(copies)


def _refused(node: Any, why: str) -> EngineRefused:
    name = f"{node.op_type} of {node.output[0]}"
    return EngineRefused(f"the unsigned activation cannot be made signed for TensorRT: {name} {why}; export it as int8")
