"""Conditions in CEL: parsed and type-checked by the CEL engine when they are loaded, then compiled to columns.

text --engine--> syntax tree --subset--> Node --engine: types--> compile --> Column
"""

import re
from collections.abc import Sequence

from cel_expr_python import cel

from fraudgate.guardrails import wire
from fraudgate.guardrails.columnar import Column, compile_tree
from fraudgate.guardrails.inputs import ATTRIBUTES, FEATURES, FIELD_TYPES
from fraudgate.guardrails.syntax import CelError, Subset, written

_ENGINE_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_NO_OVERLOAD = re.compile(r"found no matching overload for '(\S+)' applied to '(?:\(|)(.*?)\)?'$")
_MESSAGE_CHARACTERS_MAX = 200
_TYPES = {"double": cel.Type.DOUBLE, "int": cel.Type.INT, "string": cel.Type.STRING}


class Environment:
    """The variables that conditions may name: the transaction's fields, these features, and any attribute."""

    def __init__(self, feature_names: Sequence[str]) -> None:
        self._features = {name: index for index, name in enumerate(feature_names)}
        self._variables = FIELD_TYPES | {f"{FEATURES}.{name}": "double" for name in feature_names}
        declared = {name: _TYPES[kind] for name, kind in self._variables.items()}
        attributes = cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE)
        self._engine = cel.NewEnv(variables=declared | {ATTRIBUTES: attributes})

    def compile(self, text: str) -> Column:
        """Compile an expression of any type. Raises CelError with the offset of the fault in ``text``."""
        try:
            tree = wire.parsed_expression(self._engine.compile(text, disable_check=True).serialize())
        except (RuntimeError, TypeError, ValueError) as error:
            raise _explained(error, text) from None
        node = Subset(text, self._variables).node(tree)
        try:
            self._engine.compile(text)
        except RuntimeError as error:
            raise _explained(error, text) from None
        return compile_tree(node, self._features)

    def condition(self, text: str) -> Column:
        """Compile an expression that must be a bool."""
        column = self.compile(text)
        if column.type != "bool":
            raise CelError(f"the condition is of type {column.type}, not bool", len(text) - len(text.lstrip()))
        return column


def _explained(error: Exception, text: str) -> CelError:
    """The engine's first complaint, in our words where they are plainer, at its offset in ``text``."""
    found = _ENGINE_ERROR.search(str(error))
    if found is None:
        return CelError(str(error)[:_MESSAGE_CHARACTERS_MAX] or "the CEL engine refused this")
    line, column, message = int(found[1]), int(found[2]), found[3].removesuffix(" [INVALID_ARGUMENT]")
    return CelError(_plain(message)[:_MESSAGE_CHARACTERS_MAX], _offset(text, line, column))


def _plain(message: str) -> str:
    overload = _NO_OVERLOAD.match(message)
    if overload is None:
        return message
    operator, types = overload.groups()
    hint = "; a double is written with a point: 1.0" if "double" in types and "int" in types else ""
    return f"'{written(operator)}' does not take ({types}){hint}"


def _offset(text: str, line: int, column: int) -> int:
    """The offset of a 1-based line and column; 0 where the engine gave none that exists."""
    lines = text.split("\n")
    if line > len(lines):
        return 0
    return min(sum(len(before) + 1 for before in lines[: line - 1]) + max(column - 1, 0), len(text))
