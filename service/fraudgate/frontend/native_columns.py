"""A native batch as the pipeline reads it. Texts and arrays become Python objects when somebody asks for them."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from fraudgate.transaction import ENTITIES, REQUEST_SCHEMA, Columns, Extent

_import_batch = pa.RecordBatch._import_from_c
_NUMBERS = ("event_time_ns", "amount_minor", "arrival_ns", "deadline_ns")
"""The columns of the native batch's buffer, in order."""


def _number(place: int, native: Any) -> Any:
    return np.frombuffer(native, np.int64, native.rows, place * native.rows * 8)


_READERS: dict[str, Callable[[Any], Any]] = {
    "transaction_id": lambda native: native.texts(0),
    "currency": lambda native: native.texts(1),
    "ids": lambda native: {name: native.texts(column) for column, name in enumerate(ENTITIES, 2)},
    "digests": lambda native: native.digests(),
    **{name: partial(_number, place) for place, name in enumerate(_NUMBERS)},
}


class NativeColumns(Columns):
    """``Columns`` over a ``fraudgate_ingress.Columns``, whose memory the numbers are views of."""

    __slots__ = ()

    def __init__(self, native: Any) -> None:
        self.native = native
        self.rows = native.rows
        self.plain = native.plain
        self.attributes = native.attributes()

    def __getattr__(self, name: str) -> Any:
        """Fill a field that nobody has asked for yet."""
        reader = _READERS.get(name)
        if reader is None:
            raise AttributeError(name)
        value = reader(self.native)
        setattr(self, name, value)
        return value

    def earliest(self) -> tuple[int, int]:
        earliest: tuple[int, int] = self.native.earliest()
        return earliest

    def extent(self) -> Extent:
        return Extent(*self.native.extent())

    def currencies(self) -> Collection[str]:
        currencies: list[str] = self.native.currencies()
        return currencies

    def well_formed(
        self, currencies: frozenset[str], event_time_ns: tuple[int, int], amount_minor: tuple[int, int]
    ) -> bool:
        well_formed: bool = self.native.well_formed(currencies, event_time_ns, amount_minor)
        return well_formed


def record_batch(native: Any) -> pa.RecordBatch:
    """The RecordBatch over a native batch's memory."""
    return _import_batch(native.arrow_address(), REQUEST_SCHEMA)
