"""Signed activations against the unsigned ones that they stand for, for any scale, zero point and weights."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from fraudgate.engines.signed import signed_activations
from tests.unit.onnx_graphs import INPUT, GraphBuilder

WIDTH = 9


def graph(scale: float, zero_point: int, quantised_weights: bool, bias: bool, seed: int) -> onnx.ModelProto:
    """A product of unsigned activations, its weights in float or INT8; its result is called hidden."""
    builder = GraphBuilder(seed)
    activation = builder.quantised("a", INPUT, scale, zero_point)
    make_weights = builder.quantised_weights if quantised_weights else builder.weights
    inputs = [activation, make_weights("w", 15, WIDTH), *([builder.weights("b", WIDTH)] if bias else [])]
    builder.head(builder.node("Gemm", inputs, "hidden"), WIDTH)
    return builder.model()


@settings(max_examples=60)
@given(
    scale=st.floats(2**-10, 4.0, width=32),
    zero_point=st.integers(0, 255),
    quantised_weights=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_integers_are_those_less_128(scale, zero_point, quantised_weights, bias, seed):
    model = graph(scale, zero_point, quantised_weights, bias, seed)
    signed = onnx.load_from_string(signed_activations(model.SerializeToString()))
    # Whole steps and a quarter: far from the ties, where rounding of the shift may fall to the other side.
    steps = np.random.default_rng(seed).integers(-300, 600, (32, 15)) - zero_point
    features = ((steps + np.float32(0.25)) * np.float32(scale)).astype(np.float32)
    assert np.array_equal(run(signed, "a_q", features), run(model, "a_q", features).astype(np.int64) - 128)
    # Sums of 15 products of at most 512 steps and a weight of about 1, added in another order.
    difference = np.abs(run(signed, "hidden", features) - run(model, "hidden", features))
    assert difference.max() <= 15 * 512 * scale * 2.0**-20


def run(model: onnx.ModelProto, output: str, features: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # in the sigmoid, which nobody looks at
        return ReferenceEvaluator(_showing(model, output)).run([output], {INPUT: features})[0]


def _showing(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    del shown.graph.output[:]
    shown.graph.output.append(onnx.ValueInfoProto(name=output))
    return shown
