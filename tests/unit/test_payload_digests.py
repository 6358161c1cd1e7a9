"""Payload digests: equal exactly where payloads are."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.idempotency import DIGEST_BYTES, payload_digests
from fraudgate.transaction import ENTITIES
from tests.unit.transactions import EVENT_TIME_NS, columns_of, transaction


def digest(**changes: object) -> bytes:
    return payload_digests(columns_of(transaction(**changes)), [0])[0]


VARIANTS: dict[str, dict[str, object]] = {
    "unchanged": {},
    "transaction_id": {"transaction_id": "tx-2"},
    "event_time by a nanosecond": {"event_time_ns": EVENT_TIME_NS + 1},
    "amount_minor": {"amount_minor": 1_251},
    "currency": {"currency": "USD"},
    **{name: {name: "other"} for name in ENTITIES},
    **{f"{name} absent": {name: ""} for name in ENTITIES},
    "an id moved to another field": {"customer_id": "", "terminal_id": "customer_id-1"},
    "an attribute": {"attributes": {"risk": 0.5}},
    "its value": {"attributes": {"risk": 0.25}},
    "its value, by one bit": {"attributes": {"risk": float(np.nextafter(0.5, 1))}},
    "its key": {"attributes": {"Risk": 0.5}},
    "another attribute": {"attributes": {"risk": 0.5, "age": 0.0}},
    "minus zero is not zero": {"attributes": {"risk": 0.5, "age": -0.0}},
    "an empty-looking attribute": {"attributes": {"risk": 0.0}},
}


def test_every_field_counts() -> None:
    digests = {name: digest(**changes) for name, changes in VARIANTS.items()}
    assert all(len(value) == DIGEST_BYTES for value in digests.values())
    for (name, one), (other_name, other) in itertools.combinations(digests.items(), 2):
        assert one != other, f"{name} and {other_name}"


def test_the_order_of_attributes_does_not_count() -> None:
    columns = columns_of(transaction(), transaction())
    columns.attributes = [{"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}]
    one, other = payload_digests(columns, [0, 1])
    assert one == other == digest(attributes={"a": 1.0, "b": 2.0})


def test_a_digest_does_not_depend_on_the_batch() -> None:
    """Neither on neighbours with attributes nor on neighbours without ids, nor on the place in the batch."""
    alone = digest()
    columns = columns_of(
        transaction(transaction_id="first", attributes={"risk": 1.0}, customer_id=""),
        transaction(),
        transaction(transaction_id="\x1f broken \x1f", amount_minor=-1),
    )
    assert payload_digests(columns, [1]) == [alone]
    assert payload_digests(columns, [1, 0])[0] == alone
    assert payload_digests(columns, []) == []


valid_text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=4)
fields = {
    "transaction_id": valid_text.filter(bool),
    "amount_minor": st.integers(0, 3),
    "event_time_ns": st.sampled_from([EVENT_TIME_NS, EVENT_TIME_NS + 1]),
    "customer_id": valid_text,
    "ip_address": valid_text,
    "attributes": st.dictionaries(valid_text.filter(bool), st.floats(allow_nan=False, allow_infinity=False)),
}


def canonical(payload: dict[str, object]) -> object:
    attributes = payload["attributes"]
    assert isinstance(attributes, dict)
    bits = {key: np.float64(value).tobytes() for key, value in attributes.items()}
    return {**payload, "attributes": bits}


@given(st.fixed_dictionaries(fields), st.fixed_dictionaries({}, optional=fields))
def test_digests_are_equal_exactly_where_payloads_are(one: dict[str, object], changes: dict[str, object]) -> None:
    other = one | changes
    assert (digest(**one) == digest(**other)) == (canonical(one) == canonical(other))


@given(valid_text, valid_text, valid_text, st.integers(0, 3))
def test_text_cannot_move_between_fields(one: str, two: str, three: str, cut: int) -> None:
    """Fields are parted by a character that no valid field contains."""
    text = one + two
    left, right = text[:cut], text[cut:]
    same = (left, right) == (one, two)
    assert (digest(customer_id=one, terminal_id=two) == digest(customer_id=left, terminal_id=right)) == same
    if three:
        assert digest(ip_address=one, attributes={three: 1.0}) != digest(ip_address=one + three)
