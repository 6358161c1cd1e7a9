"""The graph reader against the onnx package, on arbitrary nested models, and on arbitrary bytes."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines.graph import read_graph
from fraudgate.errors import EngineRefused

OPS = ["Relu", "Gemm", "QuantizeLinear", "DynamicQuantizeLinear", "Ünïcode", "If", "Loop", ""]
TENSOR = numpy_helper.from_array(np.arange(300, dtype=np.float32), "t")

plain_attributes = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(-5, 5), min_size=1, max_size=3),
    st.just(TENSOR),
)


def nodes(attributes):
    return st.builds(
        lambda op, inputs, extra: helper.make_node(op, inputs, ["y"], domain="d", **extra),
        st.sampled_from(OPS),
        st.lists(st.sampled_from(["x", "t", ""]), max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), attributes, max_size=2),
    )


def graphs(attributes):
    return st.lists(nodes(attributes), max_size=3).map(
        lambda made: helper.make_graph(
            made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, "n"])], [], [TENSOR], doc_string="d"
        )
    )


nested = st.recursive(
    plain_attributes,
    lambda inner: st.one_of(graphs(inner), st.lists(graphs(inner), min_size=1, max_size=2)),
    max_leaves=6,
)
functions = st.builds(
    lambda made, name: helper.make_function("d", name, ["x"], ["y"], made, [helper.make_opsetid("", 17)]),
    st.lists(nodes(nested), max_size=2),
    st.sampled_from(["F", "G"]),
)
models = st.builds(
    lambda graph, made, metadata: helper.make_model(graph, functions=made, producer_name=metadata, model_version=7),
    graphs(nested),
    st.lists(functions, max_size=2),
    st.text(max_size=5),
)


def naive_ops(model: onnx.ModelProto) -> set[str]:
    """Every op_type, by the onnx package."""
    found = set()
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        found.add(node.op_type)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
    return found


@settings(max_examples=150, deadline=None)
@given(models)
def test_the_reader_sees_what_the_onnx_package_sees(model):
    facts = read_graph(model.SerializeToString())
    # An empty op_type is not written to the wire.
    assert facts.ops - {""} == naive_ops(model) - {""}
    assert not facts.external_data


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), models.map(lambda model: model.SerializeToString())), st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3)) if damaged else 0):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read_graph(bytes(damaged))
    except EngineRefused:
        return
