"""The conditions of a rule set as one generated function.

Most rules fire on no row of a batch, and their first comparison says so. Calls between compiled conditions would cost
more than the comparisons of 32 rows do, so those that are plain (made of columns of numbers, and never failing) are
written out in one function, rule after rule. ``amount_minor > 22000 && currency == "EUR"`` becomes

    values = (amount_minor > c3)
    if 1 in values.tobytes():
        union |= settle(bits, 0, logical_and((values, None), r0(inputs)))
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fraudgate.guardrails.columnar import Code, Column
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.kernels import NEVER, Result, logical_and
from fraudgate.transaction import Mark, UInt64

Fire = Callable[[RuleInputs, UInt64], int]

_HEAD = """
def fire(inputs, bits):
    features, amount_minor, union = inputs.features, inputs.amount_minor, 0
"""
_WORD = np.dtype(np.uint64)
_ERROR = np.array(1 << Mark.RULE_ERROR, _WORD)


def fuse(conditions: Sequence[Column]) -> Fire:
    """A function that sets, in UInt64[rows], bit i where condition i is true, and Mark.RULE_ERROR where one fails.

    It returns the bits that it has set, of all rows together.
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
    exec(text + "    return union\n", names)  # made of operators, these names, and column names
    fire: Fire = names["fire"]
    return fire


def _written(rule: int, condition: Column, names: dict[str, Any]) -> str:
    """One rule's lines; what they name is put into ``names``."""
    guard, following = condition.parts or (condition, None)
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


def _expression(code: Code, names: dict[str, Any]) -> str:
    pieces = []
    for piece in code:
        if not isinstance(piece, str):
            names[name := f"c{len(names)}"] = piece
            piece = name
        pieces.append(piece)
    return "".join(pieces)
