"""The graph reader finds every operator that could tie a score to more than its row, however deep it hides."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines.graph import check_graph, read_graph
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import INPUT, OUTPUT, GraphBuilder, dynamic_graph, fp32_graph, int8_graph

FLOAT_SLAB = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [32, 15])


def graph_of(*nodes: onnx.NodeProto, initializers=(), functions=()) -> onnx.ModelProto:
    score = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [32, 1])
    graph = helper.make_graph(list(nodes), "test", [FLOAT_SLAB], [score], list(initializers))
    return helper.make_model(graph, functions=list(functions))


def hidden_in_branches(node: onnx.NodeProto, depth: int) -> onnx.NodeProto:
    """``node`` below ``depth`` nested If nodes; one branch each, for two would double it each time."""
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["c"], ["o"], then_branch=branch)
    return node


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(EngineRefused) as refused:
        check_graph(model.SerializeToString())
    return str(refused.value)


@pytest.mark.parametrize("model", [fp32_graph(), int8_graph(), int8_graph(seed=3, features=2)])
def test_static_graphs_pass(model):
    check_graph(model.SerializeToString())


def test_the_operators_are_those_that_the_onnx_package_sees():
    for model in (fp32_graph(), int8_graph(), dynamic_graph()):
        assert read_graph(model.SerializeToString()).ops == {node.op_type for node in model.graph.node}


def test_dropout_that_is_told_whether_it_trains_is_refused():
    check_graph(graph_of(helper.make_node("Dropout", [INPUT, "ratio", ""], ["o"])).SerializeToString())
    training = helper.make_node("Dropout", [INPUT, "", "training"], ["o"])
    assert "1 Dropout nodes may be training" in refusal(graph_of(training))
    assert "1 Dropout nodes" in refusal(graph_of(hidden_in_branches(training, 2)))


@pytest.mark.parametrize("dims", [[50_000, 50_000], [1 << 62], [-1]])
def test_a_tensor_that_declares_more_than_it_holds_is_refused(dims):
    hollow = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(400))
    assert "declare more than they hold (huge)" in refusal(graph_of(initializers=[hollow]))
    constant = helper.make_node("Constant", [], ["huge"], value=hollow)
    assert "declare more than they hold (huge)" in refusal(graph_of(constant))


@pytest.mark.parametrize("kind", [np.float32, np.int8, np.bool_, np.float64])
def test_tensors_of_every_size_hold_what_they_declare(kind):
    for shape in ((), (0,), (0, 1 << 40), (100, 100)):
        if 0 in shape:
            tensor = TensorProto(name="none", data_type=TensorProto.FLOAT, dims=shape)
        else:
            tensor = numpy_helper.from_array(np.zeros(shape, kind), "some")
        check_graph(graph_of(initializers=[tensor]).SerializeToString())


def test_dynamic_quantisation_is_refused_with_its_reason():
    assert "depend on its batch-mates; quantise statically" in refusal(dynamic_graph())


DYNAMIC = [
    ("", "DynamicQuantizeLinear"),
    ("com.microsoft", "DynamicQuantizeMatMul"),
    ("com.microsoft", "MatMulIntegerToFloat"),
    ("com.microsoft", "DynamicQuantizeLSTM"),
]


@pytest.mark.parametrize(("domain", "op"), DYNAMIC)
@pytest.mark.parametrize("depth", [0, 1, 2, 7])
def test_dynamic_quantisation_is_found_in_subgraphs(domain, op, depth):
    node = helper.make_node(op, [INPUT], ["o"], domain=domain)
    assert op in refusal(graph_of(hidden_in_branches(node, depth)))


def test_dynamic_quantisation_is_found_in_a_list_of_subgraphs():
    body = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["y"])], "body", [], [])
    node = helper.make_node("Custom", [INPUT], [OUTPUT], bodies=[body, body])
    assert "DynamicQuantizeLinear" in refusal(graph_of(node))


@pytest.mark.parametrize("depth", [0, 2])
def test_dynamic_quantisation_is_found_in_functions(depth):
    inner = hidden_in_branches(helper.make_node("DynamicQuantizeLinear", ["x"], ["y"]), depth)
    function = helper.make_function("custom", "F", ["x"], ["y"], [inner], [helper.make_opsetid("", 17)])
    model = graph_of(helper.make_node("F", [INPUT], [OUTPUT], domain="custom"), functions=[function])
    assert "DynamicQuantizeLinear" in refusal(model)


def test_dynamic_quantisation_is_found_in_a_function_attributes_default():
    body = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["y"])], "body", [], [])
    function = helper.make_function(
        "custom",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("Relu", ["x"], ["y"])],
        [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("body", body)],
    )
    assert "DynamicQuantizeLinear" in refusal(graph_of(functions=[function]))


def test_dynamic_quantisation_is_found_in_training_information():
    model = graph_of()
    node = model.training_info.add().algorithm.node.add()
    node.op_type = "DynamicQuantizeLinear"
    assert "DynamicQuantizeLinear" in refusal(model)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("position", [1, 2])
def test_a_computed_scale_or_zero_point_is_dynamic_quantisation_by_hand(op, position):
    inputs = [INPUT, "scale", "zero"]
    inputs[position] = "computed"
    constants = [numpy_helper.from_array(np.float32(1), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    nodes = [helper.make_node("ReduceMax", [INPUT], ["computed"]), helper.make_node(op, inputs, [OUTPUT])]
    assert "compute their scale" in refusal(graph_of(*nodes, initializers=constants))


def test_constant_scales_pass_wherever_they_stand():
    scale = helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(np.float32(1)))
    quantise = helper.make_node("QuantizeLinear", [INPUT, "scale", ""], ["q"])
    check_graph(graph_of(scale, hidden_in_branches(quantise, 2)).SerializeToString())


def test_a_scale_of_another_branch_is_no_constant():
    inner = helper.make_graph([], "branch", [], [], [numpy_helper.from_array(np.float32(1), "scale")])
    branch = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)
    quantise = helper.make_node("QuantizeLinear", [INPUT, "scale"], [OUTPUT])
    assert "compute their scale" in refusal(graph_of(branch, quantise))


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniformLike", "Bernoulli", "Multinomial"])
def test_chance_is_refused(op):
    assert f"draws random numbers ({op})" in refusal(graph_of(helper.make_node(op, [INPUT], [OUTPUT])))


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_external_data_is_refused_as_an_initializer():
    tensor = external(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    assert "in other files" in refusal(graph_of(initializers=[tensor]))


@pytest.mark.parametrize("depth", [0, 3])
def test_external_data_is_refused_in_an_attribute(depth):
    tensor = external(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    assert "in other files" in refusal(graph_of(hidden_in_branches(node, depth)))


def test_external_data_is_refused_in_a_sparse_tensor():
    values = external(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [3])
    model = graph_of()
    model.graph.sparse_initializer.append(sparse)
    assert "in other files" in refusal(model)
    assert "in other files" in refusal(graph_of(helper.make_node("Constant", [], ["w"], sparse_value=sparse)))


def test_nesting_has_an_end():
    def field(number: int, payload: bytes) -> bytes:
        size = bytes([len(payload) & 0x7F | 0x80, len(payload) >> 7])
        return bytes([number << 3 | 2]) + size + payload

    graph = b""
    for _ in range(200):  # the onnx package cannot even make this: protobuf's own limit is 100
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(EngineRefused, match="nested deeper"):
        read_graph(field(7, graph))


def test_a_cut_model_is_refused_or_shows_no_more_than_the_whole():
    data = int8_graph().SerializeToString()
    whole = read_graph(data).ops
    for size in range(0, len(data), 37):
        try:
            assert read_graph(data[:size]).ops <= whole
        except EngineRefused:
            continue


@pytest.mark.parametrize(
    "data", [b"", b"\x08", b"not a model", b"\x38\x01", b"\x3b", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20]
)
def test_bytes_that_are_no_model_are_refused(data):
    with pytest.raises(EngineRefused, match="export it again"):
        read_graph(data)


def test_two_graphs_are_refused():
    data = fp32_graph().SerializeToString()
    with pytest.raises(EngineRefused, match="this one 2"):
        read_graph(data + data)


def test_the_builder_makes_valid_graphs():
    for model in (fp32_graph(), int8_graph(), dynamic_graph(), GraphBuilder().model()):
        assert model.SerializeToString() == type(model).FromString(model.SerializeToString()).SerializeToString()
    for model in (fp32_graph(), int8_graph(), dynamic_graph()):
        onnx.checker.check_model(model, full_check=True)
