"""The rule set: loaded whole or refused whole, then evaluated over a batch at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from fraudgate.errors import RuleError
from fraudgate.guardrails.cel import Environment
from fraudgate.guardrails.columnar import Column
from fraudgate.guardrails.fused import Fire, fuse
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.reasons import Rendered, RuleTexts, mark_texts
from fraudgate.guardrails.rule_file import ACTIONS, Rule, RuleFile
from fraudgate.guardrails.syntax import CelError
from fraudgate.transaction import UInt64

__all__ = ["DEFAULT_RULES", "Rule", "RuleInputs", "RuleSet"]

DEFAULT_RULES = Path(__file__).parent / "rules" / "default.yaml"
"""The rules that are packaged with the service; they name features of the ``handbook`` schema."""

_VERSION_HEX = 12
_FILE_BYTES_MAX = 1 << 20


class ActionMask(NamedTuple):
    """The bits of one action's rules, as an int and as an array of shape (), which meets columns without conversion."""

    bits: int
    array: UInt64


@dataclass(frozen=True, slots=True)
class RuleSet:
    """At most RULES_MAX rules; bit i of a row's bits is rule i."""

    version: str
    """The first 12 hex digits of the SHA-256 of the file."""
    rules: tuple[Rule, ...]
    fire: Fire
    """Sets the bits of the rules that fire in UInt64[rows]; see ``fuse``. Callers hold np.errstate(all="ignore")."""
    table: RuleTexts
    masks: dict[str, ActionMask]
    """By action."""

    @classmethod
    def load(cls, path: str | Path, feature_names: Sequence[str]) -> Self:
        """Read a rule file. Raises RuleError with file, line and column; nothing running is touched."""
        try:
            with open(path, "rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise RuleError(f"cannot read the rule file {path}: {error.strerror}") from None
        if len(content) > _FILE_BYTES_MAX:
            raise RuleError(f"the file is longer than {_FILE_BYTES_MAX} bytes", str(path), 1, 1)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            good = content[: error.start].decode()
            raise RuleFile(good, str(path)).error("the file is not UTF-8 from here on", len(good)) from None
        return cls.parse(text, str(path), feature_names)

    @classmethod
    def parse(cls, text: str, file: str, feature_names: Sequence[str]) -> Self:
        """Read the text of a rule file; ``file`` names it in errors."""
        source = RuleFile(text, file)
        entries = source.entries()
        environment = Environment(feature_names)
        conditions = []
        for rule, node in entries:
            try:
                conditions.append(environment.condition(rule.when))
            except CelError as error:
                raise source.condition_error(error.message, node, error.offset) from None
        return cls._made(sha256(text.encode()).hexdigest()[:_VERSION_HEX], [rule for rule, _ in entries], conditions)

    @classmethod
    def _made(cls, version: str, rules: Sequence[Rule], conditions: Sequence[Column]) -> Self:
        bits = {action: sum(1 << bit for bit, rule in enumerate(rules) if rule.action == action) for action in ACTIONS}
        masks = {action: ActionMask(mask, np.array(mask, np.uint64)) for action, mask in bits.items()}
        table = RuleTexts(version, tuple((rule.id, rule.code, rule.text) for rule in rules), mark_texts())
        return cls(version, tuple(rules), fuse(conditions), table, masks)

    def __repr__(self) -> str:
        return f"<RuleSet {self.version} [{len(self.rules)} rules]>"

    def reasons(self, bits: int) -> Rendered:
        """One row's reasons, (code, text) pairs, and the ids of its fired rules."""
        return self.table.reasons(bits)

    def texts(self) -> dict[str, Any]:
        """What ``RuleTexts.from_dict`` needs to render this set's answers later. JSON-able."""
        return self.table.to_dict()
