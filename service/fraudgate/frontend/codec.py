"""Protobuf to Arrow and back: entries become a request RecordBatch, answer rows become ScoreResponse bytes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from fraudgate.editions import Edition, Editions, decision_id
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import (
    EVENT_TIME_MISSING_NS,
    EVENT_TIME_OUTSIDE_NS,
    REQUEST_SCHEMA,
    Answers,
    Columns,
    Int64,
)
from fraudgate.v1 import scoring_pb2

_SECONDS_MAX = EVENT_TIME_OUTSIDE_NS // SECOND_NS
_TYPES = {field.name: field.type for field in REQUEST_SCHEMA}


def event_time_ns(transaction: scoring_pb2.Transaction) -> int:
    """Nanoseconds since 1970, or one of the two sentinels."""
    stamp = transaction.event_time
    seconds, nanos = stamp.seconds, stamp.nanos
    if not seconds and not nanos and not transaction.HasField("event_time"):
        return EVENT_TIME_MISSING_NS
    if not 0 <= nanos < SECOND_NS:
        return EVENT_TIME_MISSING_NS
    if not -_SECONDS_MAX < seconds < _SECONDS_MAX:
        return EVENT_TIME_OUTSIDE_NS
    return seconds * SECOND_NS + nanos


def request_columns(
    transactions: Sequence[scoring_pb2.Transaction], arrival_ns: Sequence[int], deadline_ns: Sequence[int]
) -> Columns:
    """Decoded transactions by column. Stamps are monotonic; deadline 0 = none."""
    attributes = [transaction.attributes for transaction in transactions]
    return Columns(
        rows=len(transactions),
        transaction_id=[transaction.transaction_id for transaction in transactions],
        currency=[transaction.currency for transaction in transactions],
        event_time_ns=np.array([event_time_ns(transaction) for transaction in transactions], np.int64),
        amount_minor=np.array([transaction.amount_minor for transaction in transactions], np.int64),
        ids={
            "customer_id": [transaction.customer_id or None for transaction in transactions],
            "terminal_id": [transaction.terminal_id or None for transaction in transactions],
            "card_id": [transaction.card_id or None for transaction in transactions],
            "merchant_id": [transaction.merchant_id or None for transaction in transactions],
            "device_id": [transaction.device_id or None for transaction in transactions],
            "ip_address": [transaction.ip_address or None for transaction in transactions],
        },
        attributes=[dict(some) for some in attributes] if any(attributes) else None,
        arrival_ns=np.array(arrival_ns, np.int64),
        deadline_ns=np.array(deadline_ns, np.int64),
    )


def request_batch(columns: Columns) -> pa.RecordBatch:
    """The RecordBatch of ``REQUEST_SCHEMA`` over these columns; the numbers share their memory."""
    arrays = [
        pa.array(columns.transaction_id, pa.utf8()),
        pa.array(columns.currency, pa.utf8()),
        _int64(columns.event_time_ns, _TYPES["event_time"]),
        _int64(columns.amount_minor),
        *(pa.array(ids, pa.utf8()) if any(ids) else _no_ids(columns.rows) for ids in columns.ids.values()),
        _attributes(columns.attributes, columns.rows),
        _int64(columns.arrival_ns),
        _int64(columns.deadline_ns),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=REQUEST_SCHEMA)


class Decoded:
    """The RecordBatch of these columns, made when somebody wants it."""

    __slots__ = ("columns",)

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __call__(self) -> pa.RecordBatch:
        return request_batch(self.columns)


def _int64(values: Int64, kind: pa.DataType = _TYPES["amount_minor"]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


@lru_cache(BATCH_ROWS_MAX)
def _no_ids(rows: int) -> pa.Array:
    return pa.nulls(rows, pa.utf8())


@lru_cache(BATCH_ROWS_MAX)
def _no_attributes(rows: int) -> pa.Array:
    return pa.array([[]] * rows, _TYPES["attributes"])


def _attributes(attributes: list[dict[str, float]] | None, rows: int) -> pa.Array:
    if attributes is None:
        return _no_attributes(rows)
    return pa.array([list(some.items()) for some in attributes], _TYPES["attributes"])


class Renderer:
    """Answer rows to ScoreResponse bytes.

    What varies from row to row (the head) is put into one reused message; what an edition and a bit set fix (the tail:
    model, rule-set version, reasons, rules fired) is serialised once. Protobuf defines the concatenation of two
    encodings as their merge, so head + tail is the whole message.
    """

    def __init__(self, editions: Editions) -> None:
        self._editions = editions
        self._tails: dict[tuple[int, int], bytes] = {}
        self._head = scoring_pb2.ScoreResponse()

    def render(self, answers: Answers, transaction_ids: Sequence[str]) -> list[bytes]:
        """ScoreResponse bytes of rows with status OK, in order."""
        if len(set(answers["answered_ns"].tolist())) == 1 and True not in answers["replayed"].tolist():
            return self._render_together(answers, transaction_ids)
        # A stored answer has the stamps of another batch; what shares them goes together.
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, shared in enumerate(zip(*(answers[name].tolist() for name in _SHARED_FIELDS), strict=True)):
            groups.setdefault(shared, []).append(row)
        bodies = [b""] * len(answers)
        for rows in groups.values():
            together = self._render_together(answers[rows], [transaction_ids[row] for row in rows])
            for row, body in zip(rows, together, strict=True):
                bodies[row] = body
        return bodies

    def _render_together(self, answers: Answers, transaction_ids: Sequence[str]) -> list[bytes]:
        """Rows of one batch: they share every stamp but the arrival, and not always the engine that decided."""
        head, bodies = self._head, []
        timings = head.timings
        stamps = ("taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")
        taken_up_ns, gathered_ns, inferred_ns, answered_ns = (int(answers[name][0]) for name in stamps)
        timings.features_ns = gathered_ns - taken_up_ns
        timings.inference_ns = inferred_ns - gathered_ns
        timings.guardrails_ns = answered_ns - inferred_ns
        timings.batch_rows = int(answers["batch_rows"][0])
        run_id, tail, tail_of = "", b"", (-1, -1)
        rows = zip(transaction_ids, *(answers[name].tolist() for name in _ROW_FIELDS), strict=True)
        for transaction_id, decision, fallback, scored, score, edition, bits, sequence, arrival_ns in rows:
            if (edition, bits) != tail_of:
                tail_of = edition, bits
                run_id, tail = self.tail(edition, bits)
            head.transaction_id = transaction_id
            head.decision = decision
            head.fallback = fallback
            if scored:
                head.score = score
            else:
                head.ClearField("score")
            head.decision_id = decision_id(run_id, sequence)
            timings.queue_ns = taken_up_ns - arrival_ns
            timings.total_ns = answered_ns - arrival_ns
            bodies.append(head.SerializeToString() + tail)
        return bodies

    def tail(self, edition: int, bits: int) -> tuple[str, bytes]:
        """What a renderer elsewhere needs of an edition and a bit set: the run's id, and the encoded tail."""
        return self._editions[edition].run_id, self._tail(edition, bits)

    def _tail(self, edition: int, bits: int) -> bytes:
        tail = self._tails.get((edition, bits))
        if tail is None:
            tail = _tail(self._editions[edition], bits).SerializeToString()
            if len(self._tails) < 4096:  # every combination that fires in practice; a bound all the same
                self._tails[edition, bits] = tail
        return tail


_SHARED_FIELDS = ("taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns", "batch_rows")
_ROW_FIELDS = ("decision", "fallback", "scored", "score", "edition", "rules", "sequence", "arrival_ns")


def _tail(edition: Edition, bits: int) -> scoring_pb2.ScoreResponse:
    reasons, fired = edition.texts.reasons(bits)
    return scoring_pb2.ScoreResponse(
        reasons=[scoring_pb2.Reason(code=code, description=text) for code, text in reasons],
        rules_fired=fired,
        model=scoring_pb2.ModelRef(
            name=edition.model_name,
            version=edition.model_version,
            engine_digest=edition.engine_digest,
            precision=edition.precision,
        ),
        ruleset_version=edition.texts.version,
    )


def delimited(field_number: int, body: bytes) -> bytes:
    """A length-delimited field on the wire: puts an encoded message into another without decoding it."""
    size, prefix = len(body), bytearray([field_number << 3 | 2])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + body
