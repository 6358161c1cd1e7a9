"""Renders an answer's bit set as reasons, by the table of the rule set that made it.

The table is plain data: it is stored with the answers, and renders them after a restart under another rule set, without
the CEL engine.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from fraudgate.errors import SnapshotError
from fraudgate.transaction import Mark

MARK_TEXTS = {
    Mark.SCORE_DECLINE: "The score is at or over the decline threshold.",
    Mark.SCORE_REVIEW: "The score is at or over the review threshold.",
    Mark.RULE_ERROR: "A rule could not be evaluated for this transaction.",
    Mark.RULES_ONLY: "There is no score: rules alone decided.",
    Mark.STATIC_POLICY: "The rules could not be asked: the configured policy decided.",
}
"""The text of each mark; its code is the mark's name."""

assert set(MARK_TEXTS) == set(Mark), "reasons.py: a mark has no text"

_RENDERED_MAX = 4_096


class Rendered(NamedTuple):
    """One row's reasons, rules first, and the ids of the rules that fired, in the file's order."""

    reasons: tuple[tuple[str, str], ...]
    """(code, text) pairs."""
    rules_fired: tuple[str, ...]


@dataclass(frozen=True)
class RuleTexts:
    """What rendering needs of one rule set."""

    version: str
    rules: tuple[tuple[str, str, str], ...]  # (id, code, text); bit i is rule i
    marks: tuple[tuple[int, str, str], ...]  # (bit, code, text)
    _rendered: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rendered", lru_cache(_RENDERED_MAX)(self._render))

    def reasons(self, bits: int) -> Rendered:
        """Render one row's bits. The same bits are rendered once."""
        rendered: Rendered = self._rendered(int(bits))
        return rendered

    def _render(self, bits: int) -> Rendered:
        fired = [rule for i, rule in enumerate(self.rules) if bits >> i & 1]
        marks = [(code, text) for bit, code, text in self.marks if bits >> bit & 1]
        return Rendered((*((code, text) for _, code, text in fired), *marks), tuple(rule[0] for rule in fired))

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON keeps; ``from_dict`` takes it back."""
        return {"version": self.version, "rules": [*map(list, self.rules)], "marks": [*map(list, self.marks)]}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "RuleTexts":
        """Raises SnapshotError where ``stored`` is not what ``to_dict`` gave."""
        try:
            rules = tuple((str(rule), str(code), str(text)) for rule, code, text in stored["rules"])
            marks = tuple((int(bit), str(code), str(text)) for bit, code, text in stored["marks"])
            return cls(str(stored["version"]), rules, marks)
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the stored texts of a rule set cannot be read: {error!r}") from None


def mark_texts() -> tuple[tuple[int, str, str], ...]:
    """(bit, code, text) of every mark of this version."""
    return tuple((int(mark), mark.name, text) for mark, text in MARK_TEXTS.items())
