"""The native decoder against upb and ``idempotency.payload_digests``.

A message means the same to both or is refused by both, whatever its bytes are.
"""

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.frontend.codec import delimited, request_columns
from fraudgate.idempotency import payload_digests
from fraudgate.limits import SCORE_BATCH_ROWS_MAX
from fraudgate.v1 import scoring_pb2
from fraudgate.validation import Validator
from tests.native.messages import bodies_of_transactions, fields, mutate, requests, texts, varint
from tests.unit.transactions import transaction

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")


def bits(attributes: dict[str, float]) -> dict[str, bytes]:
    return {key: struct.pack("<d", value) for key, value in attributes.items()}


def assert_same(found: Any, expected: scoring_pb2.Transaction) -> None:
    columns = request_columns([expected], [0], [0])
    assert list(found.texts) == [
        expected.transaction_id,
        expected.currency,
        *(ids[0] or "" for ids in columns.ids.values()),
    ]
    assert (found.event_time_ns, found.amount_minor) == (columns.event_time_ns[0], columns.amount_minor[0])
    assert bits(found.attributes) == bits((columns.attributes or [{}])[0])
    assert found.plain == Validator._texts_clean(columns)
    assert [found.digest] == payload_digests(columns, [0])


def decode_both(
    message: bytes, decode: Callable[[bytes], Any], parse: Callable[[bytes], Any]
) -> tuple[Any, Any] | None:
    """What both make of a message; None where both refuse it."""
    try:
        expected = parse(message)
    except DecodeError:
        with pytest.raises(ValueError, match="do not decode"):
            decode(message)
        return None
    return decode(message), expected


def check_request(message: bytes) -> bool:
    """Whether both found a transaction; the same one, or neither."""
    both = decode_both(message, native.decode_request, scoring_pb2.ScoreRequest.FromString)
    if both is None:
        return False
    found, expected = both
    assert (found is not None) == expected.HasField("transaction"), message.hex()
    if found is not None:
        assert_same(found, expected.transaction)
    return found is not None


@settings(max_examples=400)
@given(requests)
def test_requests_decode_as_upb_does(message: bytes) -> None:
    check_request(message)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_requests_decode_or_are_refused_as_upb_does(seed: int) -> None:
    """Mutations of mutations: what still decodes joins the pool, so that more than a cut message is tried."""
    random, whole = Random(seed), 0
    attributes = [{}, {"risk": 0.5}, {"é": 1.0, "b": float("nan"), "": 2.0}]
    made = [transaction(transaction_id=f"tx-{i}", attributes=attributes[i % 3]) for i in range(30)]
    pool = [scoring_pb2.ScoreRequest(transaction=one).SerializeToString() for one in made]
    pool += [nested(3, 5, b"\x08\x01") + pool[0], delimited(1, nested(15, 98))]
    for _ in range(12_000):
        message = bytearray(random.choice(pool))
        for _ in range(random.randint(1, 3)):
            mutate(message, random)
        decoded = check_request(bytes(message))
        whole += decoded
        if decoded and 70 < len(message) < 400 and random.random() < 0.02:
            pool[random.randrange(len(pool))] = bytes(message)
    assert whole > 1_000


@settings(max_examples=200)
@given(fields | st.binary(max_size=24))
def test_any_bytes_as_a_transaction(body: bytes) -> None:
    check_request(delimited(1, body))


@settings(max_examples=100)
@given(st.lists(bodies_of_transactions.map(lambda body: delimited(1, body)) | fields, max_size=4).map(b"".join))
def test_batches_decode_as_upb_does(message: bytes) -> None:
    both = decode_both(message, native.decode_batch, scoring_pb2.ScoreBatchRequest.FromString)
    if both is None:
        return
    (rows, count), expected = both
    assert count == len(rows) == len(expected.transactions)
    for row, one in zip(rows, expected.transactions, strict=True):
        assert_same(row, one)


def nested(number: int, depth: int, inside: bytes = b"") -> bytes:
    return varint(number << 3 | 3) * depth + inside + varint(number << 3 | 4) * depth


@pytest.mark.parametrize("depth", range(96, 103))
@pytest.mark.parametrize("inside", [b"", b"\x08\x01", b"\x00\x01", b"\x0a\x01\xff", b"\x07"])
def test_groups_may_nest_as_deep_as_in_upb(depth: int, inside: bytes) -> None:
    group = nested(15, depth, inside)
    for message in (group, delimited(1, group), delimited(1, delimited(2, group)), delimited(1, delimited(11, group))):
        check_request(message)


@pytest.mark.parametrize("padding", range(9))
def test_padded_tags_and_sizes(padding: int) -> None:
    check_request(varint(1 << 3 | 2, padding) + b"\x03\x0a\x01x")
    check_request(b"\x0a" + varint(3, padding) + b"\x0a\x01x")
    check_request(delimited(1, varint(99 << 3, padding) + varint(1, padding)))


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("char", ["\x1f", " ", "a", "~", "\x7f", "\x80", "é", "\x00", "\x1e", "\xff"])
def test_plain_texts_are_those_of_the_validator(size: int, char: str) -> None:
    """The odd character at the front, in the middle and at the end."""
    for at in {0, size // 2, size}:
        text = "x" * at + char + "x" * (size - at)
        for field in ("transaction_id", "card_id", "currency"):
            check_request(scoring_pb2.ScoreRequest(transaction=transaction(**{field: text})).SerializeToString())


@pytest.mark.parametrize("count", [511, 512, 513, 1_000])
def test_rows_over_the_limit_are_counted_and_not_kept(count: int) -> None:
    message = b"\x0a\x00" * count
    rows, found = native.decode_batch(message)
    assert found == count
    assert len(rows) == min(count, SCORE_BATCH_ROWS_MAX)
    with pytest.raises(ValueError, match="do not decode"):
        native.decode_batch(message + b"\x0a\x02\x0a\x05")


def test_limits_are_those_of_the_service() -> None:
    assert native.SCORE_BATCH_ROWS_MAX == SCORE_BATCH_ROWS_MAX


def test_a_thousand_attributes_and_doubles_of_them() -> None:
    pairs = [(f"k{i * 7919 % 1000}", float(i)) for i in range(1_500)]
    body = b"".join(
        delimited(11, scoring_pb2.Transaction(attributes={key: value}).SerializeToString()[2:]) for key, value in pairs
    )
    check_request(delimited(1, body))
    assert native.decode_request(delimited(1, body)).attributes == dict(pairs)


@given(st.lists(st.tuples(texts, st.binary(min_size=8, max_size=8)), max_size=6))
def test_the_bits_of_attributes_survive(pairs: list[tuple[str, bytes]]) -> None:
    """Also those of a not-a-number."""
    entries = [delimited(1, key.encode()) + b"\x11" + value for key, value in pairs]
    check_request(delimited(1, b"".join(delimited(11, entry) for entry in entries)))


@pytest.mark.parametrize("size", [500, 511, 512, 513, 5_000, 100_000])
def test_digests_of_long_payloads(size: int) -> None:
    made = transaction(transaction_id="x" * 13, card_id="y" * size, ip_address="z" * (size // 2))
    check_request(scoring_pb2.ScoreRequest(transaction=made).SerializeToString())
