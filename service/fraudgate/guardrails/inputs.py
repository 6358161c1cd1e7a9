"""What a rule may read, as columns: the score, the transaction's fields, its features and its attributes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fraudgate.guardrails.kernels import NEVER, Result
from fraudgate.transaction import ENTITIES, Bool, Columns, Float32, Float64, Int64

FEATURES = "features"
ATTRIBUTES = "attributes"
FIELD_TYPES = {"score": "double", "amount_minor": "int", "currency": "string"} | dict.fromkeys(ENTITIES, "string")
"""The variables every rule may name, besides features.NAME and attributes.NAME, and their CEL types."""


@dataclass(slots=True)
class RuleInputs:
    """One batch as rules see it; every column has ``rows`` rows."""

    rows: int
    score: Float32 | Float64  # NaN where absent
    scored: Bool | None  # False: the row has no score, and reading it is an error; None: every row has one
    amount_minor: Int64
    texts: Callable[[str], list[Any]]  # the strings of "currency" or of an id, by name; None reads as ""
    features: Float64  # [rows, F], in the schema's order
    attributes: list[dict[str, float]] | None  # None: no row has any


_ALL_ABSENT: Result = (np.array(0.0), np.array(True))  # of shape (), as constants are

Texts = Callable[[RuleInputs], list[Any]]


def read_score(inputs: RuleInputs) -> Result:
    """The score; an error on rows that have none."""
    return inputs.score.astype(np.float64, copy=False), None if inputs.scored is None else ~inputs.scored


def read_amount_minor(inputs: RuleInputs) -> Result:
    """The amount in minor units."""
    return inputs.amount_minor, None


def feature_reader(index: int) -> Callable[[RuleInputs], Result]:
    """Column ``index`` of the features."""
    return lambda inputs: (inputs.features[:, index], None)


def text_reader(name: str) -> Texts:
    """The raw strings of ``currency`` or of an id; an absent id is None."""
    return lambda inputs: inputs.texts(name)


def string_reader(name: str) -> Callable[[RuleInputs], Result]:
    """The strings of ``currency`` or of an id as an object array; an absent id is empty."""
    read = text_reader(name)
    return lambda inputs: (np.array([value or "" for value in read(inputs)], np.object_), None)


def attribute_reader(name: str) -> Callable[[RuleInputs], Result]:
    """An attribute's values; an error on rows that lack it."""

    def run(inputs: RuleInputs) -> Result:
        if inputs.attributes is None:
            return _ALL_ABSENT
        values = [row.get(name) for row in inputs.attributes]
        if None not in values:
            return np.array(values, np.float64), None
        missing = np.array([value is None for value in values], np.bool_)
        return np.array([0.0 if value is None else value for value in values], np.float64), missing

    return run


def presence_reader(name: str) -> Callable[[RuleInputs], Result]:
    """Where an attribute is present."""

    def run(inputs: RuleInputs) -> Result:
        if inputs.attributes is None:
            return NEVER
        return np.array([name in row for row in inputs.attributes], np.bool_), None

    return run


def inputs_of(columns: Columns, fresh: list[int], features: Float64, score: Float32, scored: Bool | None) -> RuleInputs:
    """The fresh rows of a batch as the rules see them; an unusable score is NaN."""
    whole = len(fresh) == columns.rows
    return RuleInputs(
        len(fresh),
        score if scored is None else np.where(scored, score, np.nan),
        scored,
        columns.amount_minor if whole else columns.amount_minor[fresh],
        partial(_texts, columns, fresh),
        features,
        columns.attributes if whole or columns.attributes is None else _pick(columns.attributes, fresh),
    )


def _texts(columns: Columns, fresh: list[int], name: str) -> list[Any]:
    """The fresh rows' strings of ``currency`` or of an id."""
    column = columns.currency if name == "currency" else columns.ids[name]
    return column if len(fresh) == columns.rows else _pick(column, fresh)


def _pick(column: list[Any], rows: list[int]) -> list[Any]:
    return [column[row] for row in rows]
