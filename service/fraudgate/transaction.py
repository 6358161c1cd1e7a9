"""What crosses every boundary: a request ``pyarrow.RecordBatch`` of at most 32 transactions, and its answer rows.

Front ends make the request batch, the pipeline answers it, the batch log stores both. Answers are of fixed width:
texts (reasons, model names, decision ids) are tables of an *edition* and are put in at the edge.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Answers = npt.NDArray[np.void]
"""A structured array of ``ANSWER_DTYPE``."""

Request: TypeAlias = "pa.RecordBatch | Callable[[], pa.RecordBatch]"
"""A request batch, or what makes it when somebody wants it: the log, as a rule."""

ENTITIES = ("customer_id", "terminal_id", "card_id", "merchant_id", "device_id", "ip_address")
"""The optional ids of a transaction, in field order; null in a column means the id is absent."""

EVENT_TIME_MISSING_NS = np.iinfo(np.int64).min
EVENT_TIME_OUTSIDE_NS = np.iinfo(np.int64).max
"""Sentinels a decoder puts where event_time is absent, malformed or does not fit in 64-bit nanoseconds."""

NEVER_NS = np.iinfo(np.int64).max

REQUEST_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.utf8(), nullable=False),
        pa.field("currency", pa.utf8(), nullable=False),
        pa.field("event_time", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("amount_minor", pa.int64(), nullable=False),
        *(pa.field(name, pa.utf8()) for name in ENTITIES),
        pa.field("attributes", pa.map_(pa.utf8(), pa.float64()), nullable=False),
        pa.field("arrival_ns", pa.int64(), nullable=False),
        pa.field("deadline_ns", pa.int64(), nullable=False),  # monotonic; 0 = none
    ]
)


class Decision(IntEnum):
    """Values of ``fraudgate.v1.Decision``."""

    APPROVE = 1
    REVIEW = 2
    DECLINE = 3


class Fallback(IntEnum):
    """Values of ``fraudgate.v1.Fallback``; the larger is the worse."""

    NONE = 1
    DEFAULTED_FEATURES = 2
    STALE_FEATURES = 3
    SMALL_MODEL = 4
    RULES_ONLY = 5
    STATIC_POLICY = 6


class Status(IntEnum):
    """The codes of google.rpc.Code that a row, or its call, can end with."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


RULES_MAX = 56
"""Rules in one set: bit i of an answer's ``rules`` is rule i of the set; the bits above are these."""


class Mark(IntEnum):
    """Reasons that no rule of the file gives: bits 56..63 of an answer's ``rules``."""

    SCORE_DECLINE = 56  # the score is at or over the decline threshold
    SCORE_REVIEW = 57  # the score is at or over the review threshold
    RULE_ERROR = 58  # a rule failed on this row
    RULES_ONLY = 59  # there is no usable score
    STATIC_POLICY = 60  # the rules could not be asked


ANSWER_DTYPE = np.dtype(
    [
        ("status", "u1"),  # Status
        ("decision", "u1"),  # Decision, 0 unless status is OK
        ("fallback", "u1"),  # Fallback, 0 unless status is OK
        ("scored", "?"),  # False: the score is absent
        ("score", "f4"),
        ("replayed", "?"),  # the stored answer of an earlier attempt
        ("error_field", "u2"),  # an index into validation.PROBLEMS, 0 = none
        ("batch_rows", "u2"),  # rows that shared the engine call
        ("edition", "u4"),  # which texts render this row
        ("rules", "u8"),  # bit set, see Mark
        ("sequence", "i8"),  # the decision's number in this process's order
        ("arrival_ns", "i8"),
        ("taken_up_ns", "i8"),
        ("gathered_ns", "i8"),
        ("inferred_ns", "i8"),
        ("answered_ns", "i8"),
    ]
)

_HEAD, _STAMPS = Struct("<BBB?f?HHIQqq"), Struct("<4q")  # a row of ANSWER_DTYPE
assert _HEAD.size + _STAMPS.size == ANSWER_DTYPE.itemsize


def joined(batches: Iterable[Answers]) -> Answers:
    """The rows of all batches, read-only; cheaper than np.concatenate."""
    return np.frombuffer(b"".join([batch.tobytes() for batch in batches]), ANSWER_DTYPE)


def decided_rows(
    rows: int, edition: int, taken_up_ns: int, gathered_ns: int, inferred_ns: int, answered_ns: int
) -> Answers:
    """ANSWER_DTYPE[rows] with what the rows of one engine call share: status OK, scored, not replayed, their stamps.

    One row repeated is cheaper than a column at a time. The other fields are zero.
    """
    row = _head(rows, edition) + _STAMPS.pack(taken_up_ns, gathered_ns, inferred_ns, answered_ns)
    return np.frombuffer(bytearray(row) * rows, ANSWER_DTYPE)


@lru_cache(1_024)
def _head(batch_rows: int, edition: int) -> bytes:
    return _HEAD.pack(Status.OK, 0, 0, True, 0.0, False, 0, batch_rows, edition, 0, 0, 0)


ANSWER_SCHEMA = pa.schema(
    [
        pa.field(name, pa.from_numpy_dtype(ANSWER_DTYPE[name]) if name != "rules" else pa.binary(8), name == "score")
        for name in ANSWER_DTYPE.names or ()
        if name != "scored"
    ]
)


def answer_batch(answers: Answers) -> pa.RecordBatch:
    """The Arrow form of answer rows, schema ``ANSWER_SCHEMA``; the score is null where ``scored`` is False."""
    columns = []
    for field in ANSWER_SCHEMA:
        values = np.ascontiguousarray(answers[field.name])
        if field.name == "rules":
            columns.append(pa.Array.from_buffers(field.type, len(values), [None, pa.py_buffer(values)]))
        else:
            mask = ~answers["scored"] if field.name == "score" else None
            columns.append(pa.array(values, field.type, mask=mask))
    return pa.RecordBatch.from_arrays(columns, schema=ANSWER_SCHEMA)


class Extent(NamedTuple):
    """Asked first, so that the rows of the common batch are not looked at one by one."""

    event_time_ns_min: int
    event_time_ns_max: int
    amount_minor_min: int
    amount_minor_max: int


@dataclass(slots=True)
class Columns:
    """A request batch, opened once: strings as lists, numbers as NumPy views of the Arrow buffers."""

    rows: int
    transaction_id: list[str]
    currency: list[str]
    event_time_ns: Int64
    amount_minor: Int64
    ids: dict[str, list[str | None]]  # by name of ENTITIES
    attributes: list[dict[str, float]] | None  # None: no row has any
    arrival_ns: Int64
    deadline_ns: Int64
    plain: bool = False
    """True: every transaction_id and id is known to be printable ASCII of at most 64 bytes, no transaction_id empty."""
    digests: list[bytes] | None = None
    """The payload digest of every row, where the front end has made them; see ``idempotency.payload_digests``."""
    native: Any = None
    """The batch in the front end's memory, where native kernels read it."""

    def earliest(self) -> tuple[int, int]:
        """(deadline_ns, arrival_ns): the earliest of each; NEVER_NS where no row has a deadline."""
        # For 32 numbers a list and min() cost a quarter of an array and its min().
        deadlines_ns = filter(None, self.deadline_ns.tolist())
        return min(deadlines_ns, default=NEVER_NS), min(self.arrival_ns.tolist())

    def extent(self) -> Extent:
        """What the transactions' numbers lie between."""
        times_ns, amounts = self.event_time_ns.tolist(), self.amount_minor.tolist()
        return Extent(min(times_ns), max(times_ns), min(amounts), max(amounts))

    def currencies(self) -> Collection[str]:
        """The currencies that occur."""
        return set(self.currency)

    def well_formed(
        self, currencies: frozenset[str], event_time_ns: tuple[int, int], amount_minor: tuple[int, int]
    ) -> bool:
        """True: the front end knows that every row is plain, has no attributes and keeps to these sets and bounds."""
        return False


def record(batch: Request) -> pa.RecordBatch:
    """The request batch itself."""
    return batch() if callable(batch) else batch


def open_batch(batch: pa.RecordBatch) -> Columns:
    """Open a request batch of schema ``REQUEST_SCHEMA``. Numbers are zero-copy."""
    columns = batch.columns
    return Columns(
        rows=batch.num_rows,
        transaction_id=columns[0].to_pylist(),
        currency=columns[1].to_pylist(),
        event_time_ns=_int64(columns[2]),
        amount_minor=_int64(columns[3]),
        ids={name: columns[4 + i].to_pylist() for i, name in enumerate(ENTITIES)},
        attributes=_attributes(columns[10]),
        arrival_ns=_int64(columns[11]),
        deadline_ns=_int64(columns[12]),
    )


def _int64(column: Any) -> Int64:
    return np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)


def _attributes(column: Any) -> list[dict[str, float]] | None:
    if column.offset == 0 and len(column.items) == 0:
        return None
    return [dict(items) for items in column.to_pylist()]
