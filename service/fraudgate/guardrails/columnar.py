"""Compiles a condition's tree to a function over columns, once, when the rules are loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fraudgate.guardrails import kernels
from fraudgate.guardrails.inputs import (
    FEATURES,
    FIELD_TYPES,
    RuleInputs,
    Texts,
    attribute_reader,
    feature_reader,
    presence_reader,
    read_amount_minor,
    read_score,
    string_reader,
    text_reader,
)
from fraudgate.guardrails.kernels import ALWAYS, NEVER, Result, either
from fraudgate.guardrails.syntax import Attribute, Call, CelError, Literal, Membership, Node, Variable, written

Run = Callable[[RuleInputs], Result]
Code = tuple[Any, ...]
"""A Python expression over ``features`` and ``amount_minor``: text, and constants of shape () between its pieces."""

_DTYPES = {"bool": np.bool_, "int": np.int64, "double": np.float64, "string": np.object_}
_COMPARISONS = {
    "_==_": np.equal,
    "_!=_": np.not_equal,
    "_<_": np.less,
    "_<=_": np.less_equal,
    "_>_": np.greater,
    "_>=_": np.greater_equal,
}
_DOUBLE = {"_+_": np.add, "_-_": np.subtract, "_*_": np.multiply, "_/_": np.divide}
_INT = {
    "_+_": kernels.int_add,
    "_-_": kernels.int_subtract,
    "_*_": kernels.int_multiply,
    "_/_": kernels.int_divide,
}
_NOTHING = RuleInputs(
    0, np.empty(0), np.empty(0, np.bool_), np.empty(0, np.int64), lambda _: [], np.empty((0, 0)), None
)


@dataclass(frozen=True, slots=True)
class Column:
    """A compiled expression. ``run`` gives arrays of n rows, or of shape () where the expression is constant."""

    type: str  # bool, int, double or string
    run: Run
    constant: Result | None = None  # what ``run`` always gives
    texts: Texts | None = None  # of a string variable: its raw values, cheaper than an array
    code: Code | None = None  # what ``run`` gives, where no row can fail and it is made of columns of numbers only
    parts: "tuple[Column, Column] | None" = None  # of a conjunction: its first operand, and the others

    @property
    def sure(self) -> bool:
        """Whether this is a constant that never fails."""
        return self.constant is not None and self.constant[1] is None


def compile_tree(node: Node, features: Mapping[str, int]) -> Column:
    """The column of a type-checked tree; ``features`` gives each feature's index. Raises CelError."""
    if isinstance(node, Literal):
        return _constant(node.type, (np.array(node.value, _DTYPES[node.type]), None))
    if isinstance(node, Variable):
        return _variable(node.name, features)
    if isinstance(node, Attribute):
        if node.presence:
            return Column("bool", presence_reader(node.name))
        return Column("double", attribute_reader(node.name))
    if isinstance(node, Membership):
        members = [compile_tree(member, features) for member in node.members]
        operand = compile_tree(node.operand, features)
        return _folded(_membership(node, operand, members), [operand, *members])
    operands = [compile_tree(operand, features) for operand in _operands(node)]
    return _folded(_call(node, operands), operands)


def _operands(node: Call) -> list[Node]:
    """The operands; of a chain of one logical operator, ``(a && b) && c``, all of it."""
    first, *others = node.operands
    if node.operator in ("_&&_", "_||_") and isinstance(first, Call) and first.operator == node.operator:
        return [*_operands(first), *others]
    return [first, *others]


def _variable(name: str, features: Mapping[str, int]) -> Column:
    if name == "score":
        return Column("double", read_score)
    if name == "amount_minor":
        return Column("int", read_amount_minor, code=("amount_minor",))
    if name in FIELD_TYPES:
        return Column("string", string_reader(name), texts=text_reader(name))
    index = features[name.removeprefix(FEATURES + ".")]
    return Column("double", feature_reader(index), code=(f"features[:, {index}]",))


def _call(node: Call, operands: list[Column]) -> Column:
    kind = operands[-1].type
    if node.operator in _COMPARISONS:
        return Column("bool", _comparison(node.operator, *operands), code=_joined(written(node.operator), operands))
    if node.operator == "_&&_":
        first, *others = operands
        following = Column("bool", _conjunction(*others), code=_joined("&", others))
        return Column("bool", _conjunction(*operands), parts=(first, following))
    if node.operator == "_||_":
        return Column("bool", _disjunction(*operands))
    if node.operator == "!_":
        return Column("bool", _composed(kernels.logical_not, operands))
    if node.operator == "_?_:_":
        return Column(kind, _composed(kernels.choose, operands))
    if kind not in ("int", "double"):
        raise CelError(f"'{written(node.operator)}' on a {kind} is not in the rules' subset of CEL", node.offset)
    if node.operator == "-_":
        return Column(kind, _negation(operands[0]))
    if kind == "double":
        run = _double_arithmetic(_DOUBLE[node.operator], *operands)
        return Column(kind, run, code=_joined(written(node.operator), operands))
    return Column(kind, _int_arithmetic(_INT[node.operator], *operands))


def _joined(operator: str, operands: Sequence[Column]) -> Code | None:
    """The operator between its operands' code; NumPy's operators do what its functions of those names do."""
    pieces: list[Any] = ["("]
    for operand in operands:
        if operand.code is None:
            return None
        pieces += [f" {operator} ", *operand.code] if len(pieces) > 1 else operand.code
    return (*pieces, ")")


def _constant(kind: str, result: Result) -> Column:
    code = (result[0],) if kind in ("int", "double") and result[1] is None else None
    return Column(kind, lambda _: result, result, code=code)


def _folded(column: Column, operands: list[Column]) -> Column:
    """The column as a constant, where all that it reads is constant."""
    if any(operand.constant is None for operand in operands):
        return column
    with np.errstate(all="ignore"):
        values, failed = column.run(_NOTHING)
    fails = failed is not None and bool(failed)
    return _constant(column.type, (np.asarray(values, _DTYPES[column.type]), np.array(True) if fails else None))


def _composed(kernel: Callable[..., Result], operands: list[Column]) -> Run:
    """A kernel that takes and gives whole results, because it can absorb failures."""
    runs = [operand.run for operand in operands]
    return lambda inputs: kernel(*[run(inputs) for run in runs])


def _conjunction(*operands: Column) -> Run:
    """``&&``; once no row is left that may be true, what follows is not looked at."""
    first, *others = [operand.run for operand in operands]

    def run(inputs: RuleInputs) -> Result:
        result = first(inputs)
        for other in others:
            values, failed = result
            if result is NEVER or (failed is None and 1 not in values.tobytes()):
                return NEVER
            result = kernels.logical_and(result, other(inputs))
        return result

    return run


def _disjunction(*operands: Column) -> Run:
    """``||``; once every row is true, what follows is not looked at."""
    first, *others = [operand.run for operand in operands]

    def run(inputs: RuleInputs) -> Result:
        result = first(inputs)
        for other in others:
            values, failed = result
            if failed is None and np.count_nonzero(values) == values.size:
                break
            result = kernels.logical_or(result, other(inputs))
        return result

    return run


def _comparison(operator: str, left: Column, right: Column) -> Run:
    compare = _COMPARISONS[operator]
    if operator in ("_==_", "_!=_") and "string" in (left.type, right.type) and (left.sure or right.sure):
        column, constant = (left, right) if right.sure else (right, left)
        return _among(column, frozenset(_value(constant)), negated=operator == "_!=_")
    first, second = left.run, right.run
    if right.constant is not None and right.sure:
        return partial(_compared, compare, first, right.constant[0])

    def run(inputs: RuleInputs) -> Result:
        a, a_failed = first(inputs)
        b, b_failed = second(inputs)
        if a_failed is None and b_failed is None:
            return compare(a, b), None
        return _strict_bool(compare(a, b), either(a_failed, b_failed))

    return run


def _compared(compare: Callable[[Any, Any], Any], read: Run, bound: Any, inputs: RuleInputs) -> Result:
    values, failed = read(inputs)
    return (compare(values, bound), None) if failed is None else _strict_bool(compare(values, bound), failed)


def _strict_bool(values: Any, failed: Any) -> Result:
    return values if failed is None else values & ~failed, failed


def _double_arithmetic(operation: Callable[[Any, Any], Any], left: Column, right: Column) -> Run:
    first, second = left.run, right.run

    def run(inputs: RuleInputs) -> Result:
        a, a_failed = first(inputs)
        b, b_failed = second(inputs)
        return operation(a, b), either(a_failed, b_failed)

    return run


def _int_arithmetic(operation: Callable[[Any, Any], Result], left: Column, right: Column) -> Run:
    first, second = left.run, right.run

    def run(inputs: RuleInputs) -> Result:
        a, a_failed = first(inputs)
        b, b_failed = second(inputs)
        values, failed = operation(a, b)
        return values, either(failed, either(a_failed, b_failed))

    return run


def _negation(operand: Column) -> Run:
    operate = operand.run

    def run(inputs: RuleInputs) -> Result:
        values, failed = operate(inputs)
        if operand.type == "double":
            return -values, failed
        values, overflown = kernels.int_negate(values)
        return values, either(overflown, failed)

    return run


def _membership(node: Membership, operand: Column, members: list[Column]) -> Column:
    if any(member.type != operand.type for member in members):
        raise CelError(f"'in' needs a list of {operand.type} only", node.offset)
    if all(member.sure for member in members):
        return Column("bool", _among(operand, frozenset().union(*map(_value, members))))
    runs = [operand.run, *(member.run for member in members)]

    def run(inputs: RuleInputs) -> Result:
        (values, failed), *others = [one(inputs) for one in runs]
        found: Any = np.False_
        for other, other_failed in others:
            found, failed = found | (values == other), either(failed, other_failed)
        return _strict_bool(found, failed)

    return Column("bool", run)


def _value(constant: Column) -> tuple[Any, ...]:
    """A sure constant's value as a tuple of one, or of none for NaN, which equals nothing."""
    assert constant.constant is not None
    value = constant.constant[0].item()
    return (value,) if value == value else ()


def _among(column: Column, allowed: frozenset[Any], negated: bool = False) -> Run:
    """Whether the column's value is one of ``allowed``."""
    if column.texts is not None:
        raw = allowed | {None} if "" in allowed else allowed  # an absent id reads as ""
        return partial(_texts_among, column.texts, raw, negated)
    read, holds = column.run, allowed.__contains__

    def run(inputs: RuleInputs) -> Result:
        values, failed = read(inputs)
        found = np.fromiter(map(holds, values.reshape(-1).tolist()), np.bool_).reshape(values.shape)
        return _strict_bool(~found if negated else found, failed)

    return run


def _texts_among(texts: Texts, allowed: frozenset[Any], negated: bool, inputs: RuleInputs) -> Result:
    column = texts(inputs)
    distinct = set(column)
    if distinct <= allowed:
        return NEVER if negated else ALWAYS
    if distinct.isdisjoint(allowed):
        return ALWAYS if negated else NEVER
    found = np.fromiter(map(allowed.__contains__, column), np.bool_, inputs.rows)
    return ~found if negated else found, None
