"""Reads the operators of an ONNX graph straight from its bytes, so that serving does not need the onnx package.

ONNX is protobuf, and protobuf's wire format is a run of (field number, wire type, payload). The walk follows only the
fields that can hold operators or point outside of the file; it goes into subgraphs and functions, and a graph that it
cannot follow to the end is refused.

    ModelProto      graph 7, training_info 20, functions 25
    GraphProto      node 1, initializer 5, sparse_initializer 15
    FunctionProto   node 7, attribute_proto 11
    NodeProto       input 1, output 2, op_type 4, attribute 5
    AttributeProto  t 5, g 6, tensors 10, graphs 11, sparse_tensor 22, sparse_tensors 23
    TensorProto     dims 1, name 8, external_data 13, data_location 14
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fraudgate.errors import EngineRefused

DEPTH_MAX = 32
ELEMENTS_PER_BYTE_MAX = 4
"""The smallest element of ONNX has two bits."""
ELEMENTS_MAX = 1 << 64
"""Counted no further, or a million dimensions would make a number of a million digits."""
Field = tuple[int, int | memoryview]

DYNAMIC_OPS = frozenset(
    {
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    }
)
RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
QUANTISING_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(slots=True)
class GraphFacts:
    """What a graph holds, its subgraphs and functions included."""

    ops: set[str] = field(default_factory=set)
    computed_scales: int = 0
    """Quantise nodes whose scale or zero point is computed in the graph: dynamic quantisation spelt by hand."""
    training_dropouts: int = 0
    """Dropout nodes that are told whether they train."""
    external_data: bool = False
    hollow: list[str] = field(default_factory=list)
    """Tensors that declare more elements than they hold."""


def read_graph(model: bytes) -> GraphFacts:
    """The facts of a serialised ModelProto. Raises EngineRefused for bytes that are not one."""
    facts = GraphFacts()
    graphs = 0
    try:
        for number, value in _fields(memoryview(model)):
            if number == 7:
                graphs += 1
                _walk_graph(_message(value), facts, frozenset(), 0)
            elif number == 20:
                for _, training_graph in _fields(_message(value)):
                    if isinstance(training_graph, memoryview):
                        _walk_graph(training_graph, facts, frozenset(), 0)
            elif number == 25:
                _walk_function(_message(value), facts)
    except (IndexError, ValueError) as error:
        raise EngineRefused(f"the bytes are not an ONNX model ({error}): export it again") from error
    if graphs != 1:
        raise EngineRefused(f"an ONNX model holds one graph, this one {graphs}: export it again")
    return facts


def operators(model: bytes) -> list[str]:
    """The operators of the graph itself, one a node, in order; subgraphs are not entered. ValueError, IndexError."""
    graphs = [_message(value) for number, value in _fields(memoryview(model)) if number == 7]
    nodes = [_message(value) for graph in graphs for number, value in _fields(graph) if number == 1]
    return [op for node in nodes for op in _texts(list(_fields(node)), 4)]


def check_graph(model: bytes) -> None:
    """Refuse a graph whose scores could depend on batch-mates or chance, or that needs other files."""
    facts = read_graph(model)
    if dynamic := facts.ops & DYNAMIC_OPS:
        raise EngineRefused(
            f"the graph quantises dynamically ({', '.join(sorted(dynamic))}): its scale comes from the whole batch, so "
            "a score would depend on its batch-mates; quantise statically"
        )
    if facts.computed_scales:
        raise EngineRefused(
            f"{facts.computed_scales} quantise nodes compute their scale or zero point in the graph: "
            "quantise statically, with constants"
        )
    if random := facts.ops & RANDOM_OPS:
        raise EngineRefused(f"the graph draws random numbers ({', '.join(sorted(random))}): export it for inference")
    if facts.training_dropouts:
        raise EngineRefused(f"{facts.training_dropouts} Dropout nodes may be training: export the graph for inference")
    if facts.hollow:
        raise EngineRefused(f"tensors declare more than they hold ({', '.join(facts.hollow)}): export the graph again")
    if facts.external_data:
        raise EngineRefused("the graph keeps tensors in other files: export it with its weights inside")


def _walk_graph(graph: memoryview, facts: GraphFacts, outer_constants: frozenset[str], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"subgraphs nested deeper than {DEPTH_MAX}")
    fields = [(number, _message(value)) for number, value in _fields(graph) if number in (1, 5, 15)]
    constants = {_tensor(tensor, facts) for number, tensor in fields if number == 5}
    for number, sparse in fields:
        if number == 15:
            constants |= _walk_sparse(sparse, facts)
    nodes = [node for number, node in fields if number == 1]
    _walk_nodes(nodes, facts, outer_constants | constants, depth)


def _walk_function(function: memoryview, facts: GraphFacts) -> None:
    fields = list(_fields(function))
    _walk_nodes([_message(value) for number, value in fields if number == 7], facts, frozenset(), 0)
    for number, value in fields:
        if number == 11:
            _walk_attribute(_message(value), facts, frozenset(), 0)


def _walk_nodes(nodes: list[memoryview], facts: GraphFacts, constants: frozenset[str], depth: int) -> None:
    opened = [list(_fields(node)) for node in nodes]
    made = {_text(value) for node in opened if "Constant" in _texts(node, 4) for number, value in node if number == 2}
    constants |= made
    for node in opened:
        ops = _texts(node, 4)
        facts.ops.update(ops)
        facts.training_dropouts += "Dropout" in ops and any(_texts(node, 1)[2:])
        scale_and_zero_point = [name for name in _texts(node, 1)[1:3] if name]
        if QUANTISING_OPS.intersection(ops) and not constants.issuperset(scale_and_zero_point):
            facts.computed_scales += 1
        for number, value in node:
            if number == 5:
                _walk_attribute(_message(value), facts, constants, depth)


def _walk_attribute(attribute: memoryview, facts: GraphFacts, constants: frozenset[str], depth: int) -> None:
    for number, value in _fields(attribute):
        if number in (6, 11):
            _walk_graph(_message(value), facts, constants, depth + 1)
        elif number in (5, 10):
            _tensor(_message(value), facts)
        elif number in (22, 23):
            _walk_sparse(_message(value), facts)


def _walk_sparse(sparse: memoryview, facts: GraphFacts) -> set[str]:
    return {_tensor(_message(value), facts) for number, value in _fields(sparse) if number in (1, 2)}


def _tensor(tensor: memoryview, facts: GraphFacts) -> str:
    name, elements = "", 1
    for number, value in _fields(tensor):
        if number == 1:
            for size in _numbers(value):
                elements = min(elements * size, ELEMENTS_MAX)
        elif number == 8:
            name = _text(value)
        elif number == 13 or (number == 14 and value != 0):
            facts.external_data = True
    if elements > ELEMENTS_PER_BYTE_MAX * len(tensor) and not facts.external_data:
        facts.hollow.append(name)
    return name


def _fields(message: memoryview) -> Iterator[Field]:
    """Field numbers with their payload: an int for varints and fixed sizes, bytes for everything else."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + size > len(message):
            raise ValueError("a field is cut")
        payload = message[position : position + size]
        position += size
        yield key >> 3, payload if wire_type == 2 else int.from_bytes(payload, "little")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")


def _numbers(value: int | memoryview) -> Iterator[int]:
    """A repeated number: one, or packed."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _texts(fields: list[Field], number: int) -> list[str]:
    return [_text(value) for found, value in fields if found == number]
