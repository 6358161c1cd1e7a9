"""The CEL engine's serialised syntax tree (``cel.expr.ParsedExpr``), read field by field.

Only what the rules need is read; field numbers are those of cel/expr/syntax.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class Expr:
    """One node: ``kind`` is const, ident, select, call, list, struct or comprehension."""

    kind: str = ""
    offset: int = 0  # into the source text, in code points
    name: str = ""  # of an ident, a select's field or a call's function
    operands: list["Expr"] = field(default_factory=list)  # a select's operand, a call's arguments, a list's elements
    member: bool = False  # a call with a target, which is then the first operand
    test_only: bool = False  # a select made by has()
    constant: str = ""  # null, bool, int, uint, double, string, bytes, ...
    value: bool | int | float | str | None = None


_EXPR_KINDS = {3: "const", 4: "ident", 5: "select", 6: "call", 7: "list", 8: "struct", 9: "comprehension"}
_CONSTANTS = {1: "null", 2: "bool", 3: "int", 4: "uint", 5: "double", 6: "string", 7: "bytes"}


def parsed_expression(serialised: bytes) -> Expr:
    """The tree of an ``Any`` that holds a ParsedExpr. Raises ValueError where it is anything else."""
    envelope = dict(_fields(serialised))
    if not envelope.get(1, b"").endswith(b"/cel.expr.ParsedExpr"):
        raise ValueError("the CEL engine's syntax tree is of a form this version does not read")
    parsed = dict(_fields(envelope[2]))
    offsets: dict[int, int] = {}
    for number, value in _fields(parsed.get(3, b"")):
        if number == 4:
            entry = dict(_fields(value))
            offsets[entry.get(1, 0)] = entry.get(2, 0)
    return _expr(parsed[2], offsets)


def _expr(message: bytes, offsets: dict[int, int]) -> Expr:
    expr = Expr()
    for number, value in _fields(message):
        if number == 2:
            expr.offset = offsets.get(value, 0)
        elif number in _EXPR_KINDS:
            expr.kind = _EXPR_KINDS[number]
            _fill(expr, value, offsets)
    return expr


def _fill(expr: Expr, body: bytes, offsets: dict[int, int]) -> None:
    if expr.kind == "const":
        _fill_constant(expr, body)
    elif expr.kind == "ident":
        expr.name = dict(_fields(body))[1].decode()
    elif expr.kind == "select":
        parts = dict(_fields(body))
        expr.operands = [_expr(parts[1], offsets)]
        expr.name, expr.test_only = parts[2].decode(), bool(parts.get(3, 0))
    elif expr.kind == "call":
        for number, value in _fields(body):
            if number == 2:
                expr.name = value.decode()
            else:  # 1: the target, which comes first; 3: an argument
                expr.member = expr.member or number == 1
                expr.operands.append(_expr(value, offsets))
    elif expr.kind == "list":
        expr.operands = [_expr(value, offsets) for number, value in _fields(body) if number == 1]


def _fill_constant(expr: Expr, body: bytes) -> None:
    ((number, value),) = _fields(body)
    expr.constant = _CONSTANTS.get(number, "unknown")
    if expr.constant == "bool":
        expr.value = bool(value)
    elif expr.constant == "int":
        expr.value = value - (1 << 64) if value >= 1 << 63 else value
    elif expr.constant == "double":
        expr.value = struct.unpack("<d", value)[0]
    elif expr.constant == "string":
        expr.value = value.decode()


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) in order: varints as unsigned int, everything else as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire_type == _BYTES:
            size, at = _varint(message, at)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError("the CEL engine's syntax tree does not decode")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
