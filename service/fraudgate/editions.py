"""Editions: the texts that an answer row is rendered with. A row names its edition, so that a stored answer renders to
the same bytes after the model, the rules or the process have changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fraudgate.guardrails.reasons import RuleTexts


@dataclass(frozen=True, slots=True)
class Edition:
    """One run of one process with one engine and one rule set."""

    run_id: str
    model_name: str
    model_version: str
    engine_digest: str
    precision: str
    texts: RuleTexts

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form for snapshots."""
        fields = ("run_id", "model_name", "model_version", "engine_digest", "precision")
        return {**{name: getattr(self, name) for name in fields}, "texts": self.texts.to_dict()}

    @classmethod
    def from_dict(cls, form: dict[str, Any]) -> "Edition":
        """The inverse of ``to_dict``."""
        return cls(**{**form, "texts": RuleTexts.from_dict(form["texts"])})


def decision_id(run_id: str, sequence: int) -> str:
    """The public name of a decision of this run."""
    return f"{run_id}-{sequence:x}"


class Editions:
    """Editions by number. Numbers are never reused within a store's life."""

    def __init__(self) -> None:
        self._by_number: dict[int, Edition] = {}
        self._tell: Callable[[int, Edition], None] | None = None

    def tell(self, tell: Callable[[int, Edition], None]) -> None:
        """Tell of every edition: those that are here now, and each that is added before it decides anything."""
        self._tell = tell
        for number, edition in self._by_number.items():
            tell(number, edition)

    def add(self, edition: Edition) -> int:
        """Give an edition the next number."""
        number = max(self._by_number, default=0) + 1
        self._by_number[number] = edition
        if self._tell is not None:
            self._tell(number, edition)
        return number

    def __getitem__(self, number: int) -> Edition:
        return self._by_number[number]

    def dump(self, numbers: set[int]) -> dict[str, Any]:
        """The editions that stored answers still need, JSON-able."""
        return {str(number): self._by_number[number].to_dict() for number in sorted(numbers)}

    def load(self, forms: dict[str, Any]) -> None:
        """Put a dump back."""
        for number, form in forms.items():
            self._by_number[int(number)] = Edition.from_dict(form)
