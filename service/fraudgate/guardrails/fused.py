"""The conditions of a rule set as one generated function.

Most rules fire on no row of a batch, and their first comparison says so. Calls between compiled conditions would cost
more than the comparisons of 32 rows do, so those that are plain (made of columns of numbers, and never failing) are
written out in one function, rule after rule. ``amount_minor > 22000 && currency == "EUR"`` becomes

    values = (amount_minor > c3)
    if 1 in values.tobytes():
        union |= settle(bits, 0, logical_and((values, None), r0(inputs)))

Where the wheel ``fraudgate-ingress`` is installed its kernel makes those comparisons, in one call, and what is left of
the function asks ``if open & 1:`` instead; the function without the kernel is the reference.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fraudgate import wheel
from fraudgate.guardrails.columnar import Code, Column
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.kernels import NEVER, Result, logical_and
from fraudgate.transaction import Mark, UInt64

Fire = Callable[[RuleInputs, UInt64], int]

_HEAD = """
def fire(inputs, bits):
    features, amount_minor, union = inputs.features, inputs.amount_minor, 0
"""
_KERNEL_HEAD = """
def fire_open(inputs, bits):
    features, amount_minor = inputs.features, inputs.amount_minor
    try:
        union, open = kernel(features, amount_minor, bits)
    except (ValueError, BufferError):  # memory that the kernel does not read
        return fire(inputs, bits)
"""
_WORD = np.dtype(np.uint64)
_ERROR = np.array(1 << Mark.RULE_ERROR, _WORD)


def fuse(conditions: Sequence[Column], native: bool = True) -> Fire:
    """A function that sets, in UInt64[rows], bit i where condition i is true, and Mark.RULE_ERROR where one fails.

    It returns the bits that it has set, of all rows together. native: let the kernel do what it can; the bits are the
    same.
    """
    words = [np.array(1 << bit, _WORD) for bit in range(len(conditions))]  # of shape (): they need no conversion

    def settle(bits: UInt64, rule: int, result: Result) -> int:
        values, failed = result
        union = 0
        if 1 in values.tobytes():
            bits |= values.astype(_WORD) * words[rule]
            union = 1 << rule
        if failed is not None and 1 in failed.tobytes():
            bits |= failed * _ERROR
            union |= 1 << Mark.RULE_ERROR
        return union

    names: dict[str, Any] = {"settle": settle, "logical_and": logical_and, "NEVER": NEVER}
    text = _HEAD + "".join(_written(rule, condition, names) for rule, condition in enumerate(conditions))
    kernel = wheel.kernel("RuleKernel") if native else None
    if kernel is not None:
        names["kernel"] = kernel([_described(condition) for condition in conditions]).fire
        left = (_left(rule, condition, names) for rule, condition in enumerate(conditions))
        text += "    return union\n" + _KERNEL_HEAD + "".join(left)
    exec(text + "    return union\n", names)  # made of operators, these names, and column names
    fire: Fire = names["fire" if kernel is None else "fire_open"]
    return fire


def _guard_of(condition: Column) -> tuple[Column, Column | None]:
    """What is looked at first, and what follows where that holds."""
    return condition.parts or (condition, None)


def _written(rule: int, condition: Column, names: dict[str, Any]) -> str:
    """One rule's lines; what they name is put into ``names``."""
    guard, following = _guard_of(condition)
    if guard.code is None:
        names[f"r{rule}"] = condition.run
        head = f"    result = r{rule}(inputs)\n    if result is not NEVER:\n"
        return head + f"        union |= settle(bits, {rule}, result)\n"
    result = "(values, None)"
    if following is not None and following.code is not None:
        result = f"(values & {_expression(following.code, names)}, None)"
    elif following is not None:
        names[f"r{rule}"] = following.run
        result = f"logical_and((values, None), r{rule}(inputs))"
    head = f"    values = {_expression(guard.code, names)}\n    if 1 in values.tobytes():\n"
    return head + f"        union |= settle(bits, {rule}, {result})\n"


def _left(rule: int, condition: Column, names: dict[str, Any]) -> str:
    """One rule's lines where the kernel has run."""
    guard, following = _guard_of(condition)
    if guard.code is None:
        return _written(rule, condition, names)
    if following is None or following.code is not None:
        return ""
    head = f"    if open & {1 << rule}:\n        values = {_expression(guard.code, names)}\n"
    return head + f"        union |= settle(bits, {rule}, logical_and((values, None), r{rule}(inputs)))\n"


def _described(condition: Column) -> tuple[list[tuple[str, int, float]], list[tuple[str, int, float]], bool]:
    """A rule for the kernel: guard, what follows, and whether that is left to Python."""
    guard, following = _guard_of(condition)
    if guard.code is None:
        return _NEVER, [], False
    if following is None:
        return list(_postfix(guard.code)), [], False
    return list(_postfix(guard.code)), list(_postfix(following.code or ())), following.code is None


_NEVER = [("int", 0, 0.0), ("int", 1, 0.0), ("==", 0, 0.0)]


def _postfix(code: Code) -> Iterator[tuple[str, int, float]]:
    """The steps of a stack machine for an expression, of which every operator stands in brackets of its own."""
    operators: list[str] = []
    for piece in code:
        if not isinstance(piece, str):
            is_int = piece.dtype.kind == "i"
            yield ("int", piece.item(), 0.0) if is_int else ("double", 0, piece.item())
        elif piece == ")":
            while operators and operators[-1] != "(":
                yield operators.pop(), 0, 0.0
            operators.pop()
        elif piece == "amount_minor":
            yield "amount", 0, 0.0
        elif piece.startswith("features"):
            yield "feature", int(piece.removeprefix("features[:, ").removesuffix("]")), 0.0
        else:
            operators.append(piece.strip())


def _expression(code: Code, names: dict[str, Any]) -> str:
    pieces = []
    for piece in code:
        if not isinstance(piece, str):
            names[name := f"c{len(names)}"] = piece
            piece = name
        pieces.append(piece)
    return "".join(pieces)
