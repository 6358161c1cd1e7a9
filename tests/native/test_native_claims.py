"""The claim kernel against ``claims.ClaimRing``: the same claims, slots and memory, whatever comes when."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.claims import Claims
from fraudgate.frontend.codec import request_columns
from fraudgate.frontend.native_columns import NativeColumns
from fraudgate.idempotency import IdempotencyTable
from fraudgate.limits import BATCH_ROWS_MAX, BATCHES_IN_FLIGHT_MAX, ID_BYTES_MAX, QUEUE_ROWS_MAX
from fraudgate.transaction import ANSWER_DTYPE, Answers, Columns
from fraudgate.v1 import scoring_pb2
from tests.unit.transactions import transaction

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

ENTRIES_MAX = QUEUE_ROWS_MAX + 2 * BATCH_ROWS_MAX  # the least that the table takes
SLOTS = ENTRIES_MAX + (BATCHES_IN_FLIGHT_MAX + 1) * BATCH_ROWS_MAX
LIFETIME_NS = 1_000


class Row(NamedTuple):
    transaction_id: str
    amount_minor: int = 1  # another amount is another payload
    taken: bool = True
    """False: dropped before it is claimed."""


def answers_of(count: int, number: int) -> Answers:
    answers = np.zeros(count, ANSWER_DTYPE)
    answers["decision"], answers["sequence"] = 1, np.arange(count) + number
    return answers


def native_batch(rows: list[Row]) -> Columns:
    """The rows as the native front end hands them over."""
    made = [transaction(transaction_id=row.transaction_id, amount_minor=row.amount_minor) for row in rows]
    decoded, _ = native.decode_batch(scoring_pb2.ScoreBatchRequest(transactions=made).SerializeToString())
    return NativeColumns(native.Columns(decoded, [0] * len(rows), [0] * len(rows)))


def python_batch(rows: list[Row]) -> Columns:
    made = [transaction(transaction_id=row.transaction_id, amount_minor=row.amount_minor) for row in rows]
    return request_columns(made, [0] * len(rows), [0] * len(rows))


class Both:
    """A table with the kernel and one without, in step."""

    def __init__(self, lifetime_ns: int = LIFETIME_NS) -> None:
        self.lifetime_ns = lifetime_ns
        self.tables = self.made()
        self.now_ns = 0
        self.numbers = 0
        self.pending: list[Claims] = []

    def made(self) -> list[IdempotencyTable]:
        return [IdempotencyTable(ENTRIES_MAX, self.lifetime_ns, native) for native in (True, False)]

    def claim(self, rows: list[Row], as_lists: bool = False) -> Claims:
        kernel, reference = self.tables
        taken = [i for i, row in enumerate(rows) if row.taken]
        found = kernel.claim_batch(python_batch(rows) if as_lists else native_batch(rows), taken, self.now_ns)
        assert found == reference.claim_batch(python_batch(rows), taken, self.now_ns)
        self.check_counts()
        return found

    def fill(self, count: int, name: str = "n") -> None:
        ids = [f"{name}{i}" for i in range(count)]
        digests = [b"a digest of 128b"] * BATCH_ROWS_MAX
        for start in range(0, count, BATCH_ROWS_MAX):
            part = ids[start : start + BATCH_ROWS_MAX]
            one, other = (each.claim(part, digests[: len(part)], range(len(part)), self.now_ns) for each in self.tables)
            assert one == other
            self.store(one)

    def store(self, claims: Claims) -> None:
        if claims.fresh:
            self.numbers += len(claims.fresh)
            for table in self.tables:
                table.store(claims.fresh_slots, answers_of(len(claims.fresh), self.numbers))
        if claims.replays:
            one, other = (table.answers(claims.replay_slots) for table in self.tables)
            assert one.tobytes() == other.tobytes()

    def release(self, slots: list[int]) -> None:
        for table in self.tables:
            table.release(slots)
        self.check_counts()

    def restart(self, down_ns: int) -> None:
        """Each goes on from the other's dump."""
        kernel, reference = self.dumps()
        self.tables = self.made()
        self.now_ns += 1_000_000
        for table, (ids, digests, ages_ns, answers) in zip(self.tables, (reference, kernel), strict=True):
            table.load(ids, digests, ages_ns + down_ns, answers, self.now_ns)
        self.pending.clear()
        self.check_counts()

    def dumps(self) -> list[Any]:
        one, other = (table.dump(self.now_ns) for table in self.tables)
        assert one[0] == other[0]
        for mine, reference in zip(one[1:], other[1:], strict=True):
            assert (mine.dtype, mine.tobytes()) == (reference.dtype, reference.tobytes())
        return [one, other]

    def check_counts(self) -> None:
        kernel, reference = self.tables
        assert repr(kernel) == repr(reference)

    def check_memory(self) -> None:
        kernel, reference = self.tables
        self.dumps()
        everything = list(range(SLOTS))
        assert kernel.answers(everything).tobytes() == reference.answers(everything).tobytes()
        assert kernel._digests.tobytes() == reference._digests.tobytes()
        assert kernel._claimed_ns.tobytes() == reference._claimed_ns.tobytes()


names = (
    st.integers(0, 5).map("x{}".format) | st.integers(0, 60).map("n{}".format) | st.sampled_from(["é" * 32, "z" * 64])
)
rows = st.lists(
    st.builds(Row, names, st.sampled_from([1, 1, 1, 2]), st.sampled_from([True] * 9 + [False])),
    min_size=1,
    max_size=BATCH_ROWS_MAX,
)
all_taken = rows.map(lambda some: [row._replace(taken=True) for row in some])
numbers = st.sampled_from([0, 1, 3, 31, 100, 999, 1_000, 1_001])
steps = st.one_of(
    st.tuples(st.sampled_from(["claim", "claim as lists"]), rows | all_taken),
    st.tuples(st.sampled_from(["claim"]), all_taken),
    st.tuples(st.sampled_from(["fill", "pass", "answer", "release"]), numbers),
    st.tuples(st.just("restart"), st.sampled_from([0, 1, 500, 1_000])),
)


def play(both: Both, what: str, given: Any) -> None:
    match what:
        case "claim" | "claim as lists":
            both.pending.append(both.claim(given, what == "claim as lists"))
            if len(both.pending) > BATCHES_IN_FLIGHT_MAX:
                both.store(both.pending.pop(0))
        case "fill":
            both.fill(given, f"{both.numbers}-")
        case "pass":
            both.now_ns += given
        case "answer" if both.pending:
            both.store(both.pending.pop(0))
        case "release" if both.pending:
            both.release(both.pending.pop().fresh_slots)
        case "restart":
            both.restart(given)


@settings(max_examples=250)
@given(st.sampled_from([0, 1_070, 1_100, 1_200]), st.lists(steps, max_size=25), st.sampled_from([LIFETIME_NS, 0]))
def test_every_sequence_gives_the_same_table(filled: int, made: list[tuple[str, Any]], lifetime_ns: int) -> None:
    both = Both(lifetime_ns)
    both.fill(filled)
    for what, given_to_it in made:
        play(both, what, given_to_it)
    both.check_memory()


def test_many_laps_of_ids_that_come_go_and_come_again() -> None:
    """The index loses and takes as many as it holds, again and again, at every place."""
    both, random = Both(), np.random.default_rng(5)
    for _ in range(600):
        both.now_ns += int(random.integers(0, 40))
        ids = random.integers(0, 3_000, BATCH_ROWS_MAX)
        claims = both.claim([Row(f"customer-{number}") for number in ids])
        if random.random() < 0.1:
            both.release(claims.fresh_slots)
        else:
            both.store(claims)
    both.check_memory()


def test_a_lifetime_beyond_64_bits() -> None:
    table = IdempotencyTable(ENTRIES_MAX, lifetime_ns=2**70)
    assert table.claim(["a"], [b"1" * 16], [0], 0).fresh == [0]
    assert table.claim(["a"], [b"1" * 16], [0], 2**62).replays == [0]


REFUSED: list[tuple[str, list[str], list[bytes], list[int]]] = [
    ("more than 64 bytes", ["new", "z" * (ID_BYTES_MAX + 1)], [b"1" * 16] * 2, [0, 1]),
    ("more than 64 bytes", ["new", "é" * 33], [b"1" * 16] * 2, [0, 1]),
    ("must have 16 bytes", ["new", "other"], [b"1" * 16, b"1" * 15], [0, 1]),
    ("for each row", ["new", "other"], [b"1" * 16], [0, 1]),
]


@pytest.mark.parametrize(("message", "ids", "digests", "rows"), REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_claimed(
    message: str, ids: list[str], digests: list[bytes], rows: list[int]
) -> None:
    table = IdempotencyTable(ENTRIES_MAX)
    with pytest.raises(ValueError, match=message):
        table.claim(ids, digests, rows, 0)
    assert len(table) == 0
    assert table.claim(["new"], [b"1" * 16], [0], 0).fresh_slots == [0]


def test_an_id_that_is_too_long_is_refused_in_the_front_ends_memory_too() -> None:
    table, batch = IdempotencyTable(ENTRIES_MAX), native_batch([Row("new"), Row("z" * 65)])
    with pytest.raises(ValueError, match="more than 64 bytes"):
        table.claim_batch(batch, [0, 1], 0)
    assert len(table) == 0


def test_slots_that_are_not_there() -> None:
    table = IdempotencyTable(ENTRIES_MAX)
    with pytest.raises(IndexError, match=f"no slot {SLOTS}"):
        table.release([SLOTS])


def test_arrays_that_do_not_fit() -> None:
    def kernel(entries_max: int, digests: int, slots: int, answer_bytes: int) -> Any:
        arrays = np.zeros(digests, np.uint64), np.zeros(slots, np.int64), np.zeros(answer_bytes, np.uint8)
        return native.ClaimKernel(entries_max, LIFETIME_NS, *arrays)

    width = ANSWER_DTYPE.itemsize
    assert len(kernel(9, 20, 10, 10 * width)) == 0
    for numbers in ((10, 20, 10, 10 * width), (0, 20, 10, 10 * width), (9, 19, 10, 10 * width), (9, 20, 10, 10)):
        with pytest.raises(ValueError, match="slots"):
            kernel(*numbers)
    arrays = np.zeros(20, np.uint64), np.zeros(10, np.int64), np.zeros(10 * width, np.uint8)
    arrays[1].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        native.ClaimKernel(9, LIFETIME_NS, *arrays)
