"""The subset of CEL that rules are written in, as a small tree; anything else is refused with its position.

The subset: bool, int, double and string literals; the declared variables, ``attributes.NAME``, ``attributes["NAME"]``
and ``has(attributes.NAME)``; comparisons, ``+ - * /``, ``&& || !``, ``?:`` and ``in [..]``.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

from fraudgate.guardrails.inputs import ATTRIBUTES, FEATURES
from fraudgate.guardrails.wire import Expr


class CelError(Exception):
    """A condition that cannot be used; ``offset`` counts the code points of its text before the fault."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.message, self.offset = message, offset


@dataclass(frozen=True, slots=True)
class Literal:
    type: str  # bool, int, double or string
    value: bool | int | float | str
    offset: int


@dataclass(frozen=True, slots=True)
class Variable:
    name: str  # "score", "features.TX_AMOUNT"
    offset: int


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str
    offset: int
    presence: bool  # has(attributes.NAME)


@dataclass(frozen=True, slots=True)
class Call:
    operator: str  # a key of OPERATORS
    operands: tuple["Node", ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Membership:
    operand: "Node"
    members: tuple["Node", ...]
    offset: int


Node = Literal | Variable | Attribute | Call | Membership

OPERATORS = {
    "_==_": "==",
    "_!=_": "!=",
    "_<_": "<",
    "_<=_": "<=",
    "_>_": ">",
    "_>=_": ">=",
    "_+_": "+",
    "_-_": "-",
    "_*_": "*",
    "_/_": "/",
    "-_": "-",
    "_&&_": "&&",
    "_||_": "||",
    "!_": "!",
    "_?_:_": "?:",
}
"""The operators of the subset: the engine's name of each, and how it is written."""

_OTHER_OPERATORS = {"_%_": "%", "_[_]": "[]", "@in": "in"}
_LITERALS = ("bool", "int", "double", "string")
_CALL_NAME = re.compile(r"(\w+)\s*$", re.ASCII)


def written(operator: str) -> str:
    """How an operator of the engine is written in CEL; any other name comes back unchanged."""
    return OPERATORS.get(operator) or _OTHER_OPERATORS.get(operator, operator)


class Subset:
    """Turns the engine's tree of one condition into a Node, or raises CelError."""

    def __init__(self, text: str, variables: Collection[str]) -> None:
        self._text, self._variables = text, variables

    def node(self, expr: Expr) -> Node:
        """The tree in the subset. Types are not checked here."""
        if expr.kind == "const":
            return self._literal(expr)
        if expr.kind == "ident":
            return self._variable(expr.name.removeprefix("."), expr.offset)
        if expr.kind == "select":
            return self._selection(expr)
        if expr.kind == "call":
            return self._call(expr)
        if expr.kind == "list":
            raise self._refusal("a list outside of 'in [..]'", expr.offset)
        what = "a map or message" if expr.kind == "struct" else "a macro other than has()"
        raise self._refusal(what, self._call_start(expr.offset))

    def _literal(self, expr: Expr) -> Node:
        if expr.constant not in _LITERALS or expr.value is None:
            raise self._refusal(f"a {expr.constant} literal", expr.offset)
        return Literal(expr.constant, expr.value, expr.offset)

    def _variable(self, name: str, offset: int) -> Node:
        if name in self._variables:
            return Variable(name, offset)
        if name in (ATTRIBUTES, FEATURES):
            raise CelError(f"'{name}' alone is not a value: write {name}.NAME", offset)
        close = get_close_matches(name, self._variables, 1)
        raise CelError(f"undeclared name '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""), offset)

    def _selection(self, expr: Expr) -> Node:
        (operand,) = expr.operands
        if operand.kind != "ident":
            raise self._refusal("a selection from anything but features and attributes", _start(operand))
        owner = operand.name.removeprefix(".")
        if owner == ATTRIBUTES:
            return Attribute(expr.name, operand.offset, expr.test_only)
        variable = self._variable(f"{owner}.{expr.name}", operand.offset)
        if expr.test_only:
            raise CelError("has() is for attributes: a feature always has a value", operand.offset)
        return variable

    def _call(self, expr: Expr) -> Node:
        if expr.name == "@in":
            return self._membership(expr)
        if expr.name == "_[_]":
            return self._index(expr)
        if expr.member or expr.name not in OPERATORS:
            start = self._call_start(expr.offset)
            raise self._refusal(
                f"'{written(expr.name)}'" if start == expr.offset else f"the function {expr.name}()", start
            )
        return Call(expr.name, tuple(map(self.node, expr.operands)), expr.offset)

    def _membership(self, expr: Expr) -> Node:
        operand, members = expr.operands
        if members.kind != "list":
            raise self._refusal("'in' without a list", members.offset)
        return Membership(self.node(operand), tuple(map(self.node, members.operands)), expr.offset)

    def _index(self, expr: Expr) -> Node:
        owner, key = expr.operands
        if owner.kind != "ident" or owner.name.removeprefix(".") != ATTRIBUTES:
            raise self._refusal("an index into anything but attributes", expr.offset)
        if not isinstance(key.value, str):
            raise self._refusal("an attribute's name that is not a string literal", key.offset)
        return Attribute(key.value, owner.offset, presence=False)

    def _call_start(self, offset: int) -> int:
        """Where the name before a call's parenthesis begins; ``offset`` itself where there is none."""
        name = _CALL_NAME.search(self._text[:offset]) if self._text[offset : offset + 1] == "(" else None
        return name.start() if name else offset

    def _refusal(self, what: str, offset: int) -> CelError:
        return CelError(f"{what} is not in the rules' subset of CEL", offset)


def _start(expr: Expr) -> int:
    """Where a chain of selections begins."""
    while expr.kind == "select":
        (expr,) = expr.operands
    return expr.offset
