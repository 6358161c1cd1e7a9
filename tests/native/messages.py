"""Messages of every kind for the native codec: valid, made of any fields, mutated."""

from random import Random

from hypothesis import strategies as st

from fraudgate.frontend.codec import delimited
from fraudgate.transaction import ENTITIES
from tests.unit.transactions import transaction

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    st.characters(min_codepoint=0x1E, max_codepoint=0x80), max_size=80
)
int64s = st.integers(-(2**63), 2**63 - 1)
transactions = st.builds(
    transaction,
    transaction_id=texts,
    currency=texts,
    amount_minor=int64s,
    event_time_ns=st.none() | st.integers(0, 4_000_000_000_000_000_000),
    attributes=st.just({}) | st.dictionaries(texts, st.floats(), max_size=5),
    **dict.fromkeys(ENTITIES, texts),
)


def varint(value: int, padding: int = 0) -> bytes:
    """``value`` on the wire, made longer by ``padding`` bytes that add nothing."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    groups += [0] * padding
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def numbered_fields(parts: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(varint(number << 3 | wire_type) + body for number, wire_type, body in parts)


numbers = st.one_of(st.integers(0, 12), st.sampled_from([15, 16, 2_047, 2**29 - 1, 2**29]))
paddings = st.sampled_from([0, 0, 0, 0, 1, 3, 4, 6])
varints = st.builds(varint, st.integers(0, 2**64 - 1) | st.integers(0, 300), paddings) | st.just(b"\xff" * 9 + b"\x7f")
short = st.binary(max_size=6) | texts.map(str.encode)


def sized(body: bytes, padding: int, lie: int) -> bytes:
    return varint(max(len(body) + lie, 0), padding) + body


def one_field(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Any field with any kind of value; ``bodies`` fill the length-delimited ones."""
    lies = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, 200])
    kinds = [
        st.tuples(numbers, st.just(0), varints),
        st.tuples(numbers, st.just(1), st.binary(min_size=8, max_size=8)),
        st.tuples(numbers, st.just(2), st.builds(sized, bodies, paddings, lies)),
        st.tuples(numbers, st.just(2), st.builds(sized, bodies, st.just(0), st.just(0))),
        st.tuples(numbers, st.just(5), st.binary(min_size=4, max_size=4)),
        st.tuples(numbers, st.integers(3, 7), st.just(b"")),
        st.builds(lambda number, body: (number, 3, body + varint(number << 3 | 4)), numbers, bodies),
    ]
    return st.one_of(kinds).map(lambda part: numbered_fields([part]))


soup = st.recursive(short, lambda inner: st.lists(one_field(inner), max_size=4).map(b"".join), max_leaves=12)
fields = st.lists(one_field(soup), max_size=6).map(b"".join)
entries = st.lists(
    st.sampled_from(
        [
            b"\x0a\x01a",
            b"\x0a\x01b",
            b"\x0a\x00",
            b"\x11" + bytes(7) + b"\x40",
            b"\x11" + b"\xff" * 8,
            b"\x18\x01",
            b"\x10\x01",
        ]
    ),
    max_size=3,
).map(lambda parts: delimited(11, b"".join(parts)))
stamps = st.lists(
    st.builds(lambda number, value: varint(number << 3) + value, st.integers(1, 3), varints), max_size=3
).map(lambda parts: delimited(2, b"".join(parts)))
valid = transactions.map(lambda made: made.SerializeToString())
bodies_of_transactions = st.lists(valid | fields | entries | stamps, max_size=4).map(b"".join)
requests = st.one_of(
    st.lists(bodies_of_transactions.map(lambda body: delimited(1, body)) | fields, max_size=2).map(b"".join),
    valid.map(lambda body: delimited(1, body)),
    fields,
    st.binary(max_size=40),
)


def mutate(message: bytearray, random: Random) -> None:
    """Change, leave out, put in or double a few bytes."""
    at = random.randrange(len(message) + 1)
    change = random.randrange(6)
    if change == 0:
        message[at : at + 1] = random.randbytes(1)
    elif change == 1 and at < len(message):
        message[at] = (message[at] + random.choice([-1, 1, -8, 8])) % 256
    elif change == 2:
        del message[at : at + random.randint(1, 3)]
    elif change == 3:
        message[at:at] = random.randbytes(random.randint(1, 3))
    elif change == 4:
        message[at:at] = message[at : at + random.randint(1, 19)]
    elif random.random() < 0.1:
        del message[at:]
