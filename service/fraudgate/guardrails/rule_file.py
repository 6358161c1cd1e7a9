"""The rule file: a YAML list of {id, action, when, code, text}, read with the place of everything in it.

Places are 0-based indexes into the file's text until an error is raised; errors carry 1-based lines and columns. No
YAML tag is ever turned into an object: the file is read as plain nodes.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from fraudgate.errors import RuleError
from fraudgate.transaction import RULES_MAX, Mark

ACTIONS = ("block", "allow", "review")
KEYS = ("id", "action", "when", "code", "text")
_BYTES_MAX = {"id": 64, "action": 64, "when": 4_096, "code": 64, "text": 256}
_TEXT_TAG = "tag:yaml.org,2002:str"
_LINE_BREAKS = "\n\r\x85\u2028\u2029"  # as YAML counts lines
_ESCAPE_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the set, as its file says it."""

    id: str
    action: str  # one of ACTIONS
    when: str
    code: str
    text: str


class RuleFile:
    """The text of a rule file: reads its entries and says where in it something is wrong."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file

    def entries(self) -> "list[tuple[Rule, Any]]":
        """The rules, each with the YAML node of its condition. Raises RuleError at the first fault."""
        root = self._composed()
        if not isinstance(root, yaml.SequenceNode):
            raise self.error("a rule file is a list of rules", root.start_mark.index if root else 0)
        if len(root.value) > RULES_MAX:
            raise self.error(f"more than {RULES_MAX} rules", root.value[RULES_MAX].start_mark.index)
        entries: list[tuple[Rule, Any]] = []
        ids: set[str] = set()
        for node in root.value:
            fields = self._fields(node)
            rule = Rule(**{key: value.value for key, value in fields.items()})
            if rule.id in ids:
                raise self.error(f"the id '{rule.id}' is taken", fields["id"].start_mark.index)
            ids.add(rule.id)
            entries.append((rule, fields["when"]))
        return entries

    def error(self, message: str, index: int) -> RuleError:
        """A RuleError at ``index`` into the file's text."""
        before = self.text[:index].replace("\r\n", "\n\n")  # a pair counts once, and keeps its length
        lines = [at for at, character in enumerate(before) if character in _LINE_BREAKS]
        pairs = self.text[:index].count("\r\n")
        start = lines[-1] + 1 if lines else 0
        return RuleError(message, self.file, 1 + len(lines) - pairs, 1 + index - start)

    def condition_error(self, message: str, node: Any, offset: int) -> RuleError:
        """A RuleError at ``offset`` into the condition that a scalar node spells out."""
        return self.error(message, self._source_index(node, offset))

    def _composed(self) -> Any:
        loader = None
        try:
            loader = yaml.SafeLoader(self.text)
            return loader.get_single_node()
        except yaml.reader.ReaderError as error:
            raise self.error(f"the character U+{error.character:04X} is not allowed", error.position) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = ", ".join(part for part in (error.context, error.problem) if part)
            raise self.error(message or "not YAML", mark.index if mark else 0) from None
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # PyYAML lets these through
            message = "nested too deeply" if isinstance(error, RecursionError) else f"not YAML: {error}"
            raise self.error(message, loader.get_mark().index if loader else 0) from None

    def _fields(self, node: Any) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"a rule is a mapping with the keys {', '.join(KEYS)}", node.start_mark.index)
        fields: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name not in KEYS:
                raise self.error(f"unknown key '{name}'; a rule has {', '.join(KEYS)}", key.start_mark.index)
            if name in fields:
                raise self.error(f"the key '{name}' is here twice", key.start_mark.index)
            self._check_value(name, value)
            fields[name] = value
        for name in KEYS:
            if name not in fields:
                raise self.error(f"the rule has no '{name}'", node.start_mark.index)
        return fields

    def _check_value(self, name: str, node: Any) -> None:
        problem = _value_problem(name, node)
        if problem:
            raise self.error(f"'{name}' {problem}", node.start_mark.index)

    def _source_index(self, node: Any, offset: int) -> int:
        """Where in the file a scalar's character stands, whatever the style and the folding of its lines.

        Folding moves white space only, so the k-th character of the value that is not white space is the k-th such
        character of the source. White space itself (the end of a text, say) takes the place after its predecessor.
        """
        solid = [index for index, white in self._source_characters(node) if not white]
        nth = sum(not character.isspace() for character in node.value[:offset])
        if offset < len(node.value) and not node.value[offset].isspace() and nth < len(solid):
            return solid[nth]
        return solid[nth - 1] + 1 if 0 < nth <= len(solid) else int(node.start_mark.index)

    def _source_characters(self, node: Any) -> list[tuple[int, bool]]:
        """(index, is white space) of each character that a scalar's source spells out."""
        at, end = node.start_mark.index, node.end_mark.index
        if node.style in ("|", ">"):
            header = next((i for i in range(at, end) if self.text[i] in _LINE_BREAKS), end)
            return [(i, self.text[i].isspace()) for i in range(header, end)]
        if node.style is None:
            return [(i, self.text[i].isspace()) for i in range(at, end)]
        characters, at, end = [], at + 1, end - 1
        while at < end:
            length, white = self._quoted_character(at, node.style)
            characters.append((at, white))
            at += length
        return characters

    def _quoted_character(self, at: int, style: str) -> tuple[int, bool]:
        """(length in the source, is white space) of the character spelt at ``at`` in a quoted scalar."""
        character = self.text[at]
        if style == "'":
            return (2 if character == "'" else 1), character.isspace()
        if character != "\\":
            return 1, character.isspace()
        escape = self.text[at + 1]
        if escape in _ESCAPE_DIGITS:
            digits = self.text[at + 2 : at + 2 + _ESCAPE_DIGITS[escape]]
            return 2 + len(digits), chr(int(digits, 16)).isspace()
        return 2, escape.isspace() or escape in "tnvfrN_LP"


def _value_problem(name: str, node: Any) -> str:
    """What is wrong with a key's value; empty where nothing is."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT_TAG:
        return "takes text: put it in quotes"
    value = node.value
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not text"
    if not value.strip():
        return "is empty"
    if size > _BYTES_MAX[name]:
        return f"is longer than {_BYTES_MAX[name]} bytes"
    if name != "when" and not value.isprintable():
        return "holds a control character"
    if name == "action" and value not in ACTIONS:
        return f"is one of {', '.join(ACTIONS)}, not '{value}'"
    if name == "code" and value in Mark.__members__:
        return f"'{value}' is the service's own"
    return ""
