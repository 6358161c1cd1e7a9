"""Protobuf to Arrow and back: entries become a request RecordBatch, answer rows become ScoreResponse bytes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from fraudgate.editions import Edition, Editions
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import (
    ENTITIES,
    EVENT_TIME_MISSING_NS,
    EVENT_TIME_OUTSIDE_NS,
    REQUEST_SCHEMA,
    Answers,
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


def request_batch(
    transactions: Sequence[scoring_pb2.Transaction], arrival_ns: Sequence[int], deadline_ns: Sequence[int]
) -> pa.RecordBatch:
    """One RecordBatch of ``REQUEST_SCHEMA`` from decoded transactions. Stamps are monotonic; deadline 0 = none."""
    attributes = [transaction.attributes for transaction in transactions]
    columns = [
        pa.array([transaction.transaction_id for transaction in transactions], pa.utf8()),
        pa.array([transaction.currency for transaction in transactions], pa.utf8()),
        _int64([event_time_ns(transaction) for transaction in transactions], _TYPES["event_time"]),
        _int64([transaction.amount_minor for transaction in transactions]),
        _ids([transaction.customer_id for transaction in transactions]),
        _ids([transaction.terminal_id for transaction in transactions]),
        _ids([transaction.card_id for transaction in transactions]),
        _ids([transaction.merchant_id for transaction in transactions]),
        _ids([transaction.device_id for transaction in transactions]),
        _ids([transaction.ip_address for transaction in transactions]),
        _attributes(attributes),
        _int64(arrival_ns),
        _int64(deadline_ns),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REQUEST_SCHEMA)


assert [field.name for field in REQUEST_SCHEMA][4:10] == list(ENTITIES), "request_batch() builds columns in this order"


def _int64(values: Sequence[int], kind: pa.DataType = _TYPES["amount_minor"]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.array(values, np.int64))])


def _ids(values: list[str]) -> pa.Array:
    if not any(values):
        return _no_ids(len(values))
    return pa.array([value or None for value in values], pa.utf8())


@lru_cache(BATCH_ROWS_MAX)
def _no_ids(rows: int) -> pa.Array:
    return pa.nulls(rows, pa.utf8())


@lru_cache(BATCH_ROWS_MAX)
def _no_attributes(rows: int) -> pa.Array:
    return pa.array([[]] * rows, _TYPES["attributes"])


def _attributes(maps: list[Any]) -> pa.Array:
    if not any(map(len, maps)):
        return _no_attributes(len(maps))
    return pa.array([list(some.items()) for some in maps], _TYPES["attributes"])


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
        """ScoreResponse bytes of rows with status OK."""
        head = self._head
        timings = head.timings
        bodies = []
        for transaction_id, row in zip(transaction_ids, answers.tolist(), strict=True):
            (_, decision, fallback, scored, score, _, _, batch_rows, edition, bits, sequence) = row[:11]
            (arrival_ns, taken_up_ns, gathered_ns, inferred_ns, answered_ns) = row[11:]
            head.transaction_id = transaction_id
            head.decision = decision
            head.fallback = fallback
            if scored:
                head.score = score
            else:
                head.ClearField("score")
            head.decision_id = self._editions[edition].decision_id(sequence)
            timings.queue_ns = taken_up_ns - arrival_ns
            timings.features_ns = gathered_ns - taken_up_ns
            timings.inference_ns = inferred_ns - gathered_ns
            timings.guardrails_ns = answered_ns - inferred_ns
            timings.total_ns = answered_ns - arrival_ns
            timings.batch_rows = batch_rows
            tail = self._tails.get((edition, bits))
            bodies.append(head.SerializeToString() + (self._tail(edition, bits) if tail is None else tail))
        return bodies

    def _tail(self, edition: int, bits: int) -> bytes:
        tail = _tail(self._editions[edition], bits).SerializeToString()
        if len(self._tails) < 4096:  # every combination that fires in practice; a bound all the same
            self._tails[edition, bits] = tail
        return tail


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
