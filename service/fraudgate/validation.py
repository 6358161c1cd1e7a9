"""Columnar validation: one pass over a batch says which rows are well formed, and what is wrong with the others.

The common batch is clean, so each check first asks the whole column in one go; only a column that fails is looked at
row by row. The ranges stand in the comments of ``scoring.proto``.
"""

import math
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

import numpy as np
import numpy.typing as npt

from fraudgate.limits import AMOUNT_MINOR_MAX, ATTRIBUTES_MAX, EVENT_TIME_NS_MIN, ID_BYTES_MAX
from fraudgate.transaction import ENTITIES, EVENT_TIME_MISSING_NS, EVENT_TIME_OUTSIDE_NS, Columns

UInt16 = npt.NDArray[np.uint16]

_TEXT_PROBLEMS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("is longer than 64 bytes", lambda text: len(text.encode()) > ID_BYTES_MAX),
    ("has a control character", lambda text: any(unicodedata.category(char) == "Cc" for char in text)),
)
_TEXT_FIELDS = ("transaction_id", *ENTITIES)

PROBLEMS: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("transaction_id", "is required, 1 to 64 bytes"),
    ("currency", "is not an ISO 4217 code of three capital letters"),
    ("event_time", "is required, as a valid google.protobuf.Timestamp"),
    ("event_time", "is before 2000-01-01 or outside what 64-bit nanoseconds hold"),
    ("event_time", "is further in the future than the server allows (event_time_future_max)"),
    ("amount_minor", "is not within 0..1,000,000,000,000"),
    ("attributes", "has more than 64 entries"),
    ("attributes", "has a key that is empty, longer than 64 bytes or has a control character"),
    ("attributes", "has a value that is not finite"),
    *((field, what) for field in _TEXT_FIELDS for what, _ in _TEXT_PROBLEMS),
)
"""(path within Transaction, what is wrong) by problem number; 0 = nothing. The order is part of the batch log: add at
the end only."""

_NUMBER = {problem: number for number, problem in enumerate(PROBLEMS)}
_ID_MISSING, _CURRENCY, _TIME_MISSING, _TIME_OUTSIDE, _TIME_FUTURE, _AMOUNT = range(1, 7)
_ATTRIBUTES_MANY, _ATTRIBUTE_KEY, _ATTRIBUTE_VALUE = range(7, 10)


class Validator:
    """Finds the problem of each row. Pure: the latest acceptable event_time comes with the call."""

    def __init__(self, currencies: Collection[str]) -> None:
        self._currencies = frozenset(currencies)

    def problems(self, columns: Columns, event_time_ns_max: int) -> UInt16 | None:
        """The number of the first problem of each row, uint16[n] into ``PROBLEMS``; None when every row is clean."""
        event_time_ns_max = min(event_time_ns_max, EVENT_TIME_OUTSIDE_NS - 1)  # a sentinel is never a time
        if columns.well_formed(self._currencies, (EVENT_TIME_NS_MIN, event_time_ns_max), (0, AMOUNT_MINOR_MAX)):
            return None
        found: dict[int, int] = {}
        if not (columns.plain or self._texts_clean(columns)):
            self._find_text_problems(columns, found)
        if not self._currencies.issuperset(columns.currencies()):
            _note(found, _CURRENCY, (i for i, code in enumerate(columns.currency) if code not in self._currencies))
        extent = columns.extent()
        if extent.event_time_ns_min < EVENT_TIME_NS_MIN or extent.event_time_ns_max > event_time_ns_max:
            _find_time_problems(columns.event_time_ns.tolist(), event_time_ns_max, found)
        if extent.amount_minor_min < 0 or extent.amount_minor_max > AMOUNT_MINOR_MAX:
            amounts = enumerate(columns.amount_minor.tolist())
            _note(found, _AMOUNT, (row for row, amount in amounts if not 0 <= amount <= AMOUNT_MINOR_MAX))
        if columns.attributes is not None:
            _find_attribute_problems(columns.attributes, found)
        if not found:
            return None
        numbers = np.zeros(columns.rows, np.uint16)
        for row, number in found.items():
            numbers[row] = number
        return numbers

    @staticmethod
    def _texts_clean(columns: Columns) -> bool:
        """True when every id is surely fine: printable ASCII, short, and no transaction_id empty."""
        texts = list(filter(None, chain(columns.transaction_id, *columns.ids.values())))
        joined = "".join(texts)
        return (
            joined.isascii()
            and joined.isprintable()
            and all(columns.transaction_id)
            and max(map(len, texts), default=0) <= ID_BYTES_MAX
        )

    @staticmethod
    def _find_text_problems(columns: Columns, found: dict[int, int]) -> None:
        _note(found, _ID_MISSING, (i for i, text in enumerate(columns.transaction_id) if not text))
        for field in _TEXT_FIELDS:
            column = columns.transaction_id if field == "transaction_id" else columns.ids[field]
            for row, text in enumerate(column):
                if text and (what := text_problem(text)):  # a long text is not searched: it may be a megabyte
                    found.setdefault(row, _NUMBER[field, what])


def _note(found: dict[int, int], number: int, rows: Iterable[int]) -> None:
    for row in rows:
        found.setdefault(row, number)


def _find_time_problems(times_ns: list[int], event_time_ns_max: int, found: dict[int, int]) -> None:
    for row, time_ns in enumerate(times_ns):
        if time_ns == EVENT_TIME_MISSING_NS:
            found.setdefault(row, _TIME_MISSING)
        elif time_ns < EVENT_TIME_NS_MIN or time_ns == EVENT_TIME_OUTSIDE_NS:
            found.setdefault(row, _TIME_OUTSIDE)
        elif time_ns > event_time_ns_max:
            found.setdefault(row, _TIME_FUTURE)


def _find_attribute_problems(attributes: list[dict[str, float]], found: dict[int, int]) -> None:
    for row, values in enumerate(attributes):
        if len(values) > ATTRIBUTES_MAX:
            found.setdefault(row, _ATTRIBUTES_MANY)
        elif bad_attribute_key(values) is not None:
            found.setdefault(row, _ATTRIBUTE_KEY)
        elif bad_attribute_value(values) is not None:
            found.setdefault(row, _ATTRIBUTE_VALUE)


def text_problem(text: str) -> str | None:
    """What is wrong with one id, or None; an empty one is fine."""
    return next((what for what, is_wrong in _TEXT_PROBLEMS if is_wrong(text)), None)


def attribute_at_fault(problem: int, values: Mapping[str, float]) -> str | None:
    """The key that a problem's number is about, or None: it is about all of them, or about another field."""
    if problem == _ATTRIBUTE_KEY:
        return bad_attribute_key(values)
    return bad_attribute_value(values) if problem == _ATTRIBUTE_VALUE else None


def bad_attribute_key(values: Iterable[str]) -> str | None:
    """The first key that is no valid name, or None."""
    return next((key for key in values if not key or any(wrong(key) for _, wrong in _TEXT_PROBLEMS)), None)


def bad_attribute_value(values: Mapping[str, float]) -> str | None:
    """The key of the first value that is not finite, or None."""
    return next((key for key, value in values.items() if not math.isfinite(value)), None)
