"""The idempotency table against dictionaries and a list, through claims, answers, failures, time and restarts.

The table is run as the pipeline runs it: batches of at most 32 claims, at most two of them unanswered, answered in
order; a batch whose store failed is released instead. The ring starts nearly full, so that it wraps.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate import claims as ring
from fraudgate import wheel
from fraudgate.claims import ClaimRing, Claims
from fraudgate.idempotency import IdempotencyTable
from fraudgate.limits import BATCH_ROWS_MAX, BATCHES_IN_FLIGHT_MAX, QUEUE_ROWS_MAX
from fraudgate.transaction import ANSWER_DTYPE

ENTRIES_MAX = QUEUE_ROWS_MAX + 2 * BATCH_ROWS_MAX  # the least that the table takes
LIFETIME_NS = 1_000
NO_WHEEL = pytest.mark.skipif(not wheel.INSTALLED, reason="the wheel fraudgate-ingress is not installed")
both = pytest.mark.parametrize("native", [False, pytest.param(True, marks=NO_WHEEL)], ids=["reference", "kernel"])
NATIVE = (False, True) if wheel.INSTALLED else (False,)
"""The same within a test. Drawing takes longest: both are given what is drawn."""


@dataclass(eq=False)
class Known:
    """One claim: what the table should remember of an id."""

    transaction_id: str
    digest: bytes
    claimed_ns: int
    answer: int | None = None  # its sequence number
    gone: bool = False


@dataclass
class Oracle:
    """Every claim of the last ENTRIES_MAX in a queue, and the newest claim of each id."""

    queue: deque[Known] = field(default_factory=deque)
    newest: dict[str, Known] = field(default_factory=dict)
    evicted_early: int = 0

    def claim(self, transaction_id: str, digest: bytes, now_ns: int) -> tuple[str, Known]:
        known = self.newest.get(transaction_id)
        if known is None or known.gone or now_ns - known.claimed_ns >= LIFETIME_NS:
            if known is not None:
                known.gone = True
            fresh = self.newest[transaction_id] = Known(transaction_id, digest, now_ns)
            self.make_room(now_ns)
            self.queue.append(fresh)
            return "fresh", fresh
        return ("replay" if known.digest == digest else "conflict"), known

    def make_room(self, now_ns: int) -> None:
        while self.queue and now_ns - self.queue[0].claimed_ns >= LIFETIME_NS:
            self.queue.popleft()
        if len(self.queue) == ENTRIES_MAX:
            oldest = self.queue.popleft()
            self.evicted_early += not oldest.gone
            oldest.gone = True

    def alive(self, now_ns: int) -> list[Known]:
        return [known for known in self.queue if not known.gone and now_ns - known.claimed_ns < LIFETIME_NS]


class Pending(NamedTuple):
    """A claimed batch that is not answered yet, and what the oracle says of each row."""

    claims: Claims
    expected: list[tuple[str, Known]]


DIGESTS = (b"the same payload", b"another payload\0")
"""Of an id's first payload, and of one that conflicts with it: 128 bits each."""


class Pair:
    """The table and its oracle, in step."""

    def __init__(self, native: bool) -> None:
        self.native = native
        self.table = IdempotencyTable(ENTRIES_MAX, LIFETIME_NS, native)
        self.oracle = Oracle()
        self.now_ns = 0
        self.pending: deque[Pending] = deque()
        self.sequence = 0
        self.names = 0

    def claim(self, rows: list[tuple[str, bytes]]) -> None:
        while len(self.pending) >= BATCHES_IN_FLIGHT_MAX:
            self.answer()
        ids, digests = zip(*rows, strict=True)
        claims = self.table.claim(ids, digests, range(len(rows)), self.now_ns)
        expected = [self.oracle.claim(*row, self.now_ns) for row in rows]
        for kind, found in {"fresh": claims.fresh, "replay": claims.replays, "conflict": claims.conflicts}.items():
            assert found == [row for row, (said, _) in enumerate(expected) if said == kind]
        assert (len(claims.fresh_slots), len(claims.replay_slots)) == (len(claims.fresh), len(claims.replays))
        self.pending.append(Pending(claims, expected))
        self.check()

    def claim_new(self, count: int) -> None:
        """New ids, answered at once."""
        for start in range(0, count, BATCH_ROWS_MAX):
            rows = min(BATCH_ROWS_MAX, count - start)
            self.claim([(f"n{self.names + row}", DIGESTS[0]) for row in range(rows)])
            self.names += rows
            self.answer_all()

    def answer(self) -> None:
        """What ``Pipeline`` does with the oldest unanswered batch: store the fresh, then look the replays up."""
        claims, expected = self.pending.popleft()
        answers = np.zeros(len(claims.fresh), ANSWER_DTYPE)
        answers["decision"] = 1
        answers["sequence"] = np.arange(self.sequence + 1, self.sequence + 1 + len(answers))
        for row in claims.fresh:
            self.sequence += 1
            expected[row][1].answer = self.sequence
        if claims.fresh:
            self.table.store(claims.fresh_slots, answers)
        if not claims.replays:
            return
        found = self.table.answers(claims.replay_slots)
        assert found["sequence"].tolist() == [expected[row][1].answer for row in claims.replays]
        assert found["replayed"].all()

    def answer_all(self) -> None:
        while self.pending:
            self.answer()

    def fail(self, rows: list[tuple[str, bytes]]) -> None:
        """A batch whose store fails: it is released before the next is claimed."""
        self.claim(rows)
        claims, expected = self.pending.pop()
        self.table.release(claims.fresh_slots)
        for row in claims.fresh:
            expected[row][1].gone = True
        self.check()

    def restart(self, down_ns: int) -> None:
        """Dump, and load into a new table ``down_ns`` later, on another monotonic clock. What is unanswered is lost."""
        ids, digests, ages_ns, answers = self.table.dump(self.now_ns)
        kept = [known for known in self.oracle.alive(self.now_ns + down_ns) if known.answer is not None]
        loaded_ns = self.now_ns + 1_000_000
        self.oracle = Oracle()
        for known in kept:
            moved_ns = loaded_ns - (self.now_ns + down_ns - known.claimed_ns)
            copy = Known(known.transaction_id, known.digest, moved_ns, known.answer)
            self.oracle.queue.append(copy)
            self.oracle.newest[copy.transaction_id] = copy
        self.table = IdempotencyTable(ENTRIES_MAX, LIFETIME_NS, self.native)
        self.table.load(ids, digests, ages_ns + down_ns, answers, loaded_ns)
        self.now_ns = loaded_ns
        self.pending.clear()
        assert len(self.table) == len(kept)
        self.check()
        self.claim_again(kept)

    def claim_again(self, known: list[Known]) -> None:
        """Every kept id gets its answer."""
        for start in range(0, len(known), BATCH_ROWS_MAX):
            self.claim([(each.transaction_id, each.digest) for each in known[start : start + BATCH_ROWS_MAX]])
            self.answer_all()

    def check(self) -> None:
        assert self.table.evicted_early == self.oracle.evicted_early
        assert len(self.oracle.alive(self.now_ns)) <= len(self.table) <= ENTRIES_MAX


class Step(NamedTuple):
    what: Literal["claim", "claim new", "answer", "fail", "pass", "restart"]
    rows: list[tuple[str, bytes]]
    number: int


# Ids of the first claims (n0.. goes first when the ring is full), and some of their own.
names = st.integers(0, 5).map("x{}".format) | st.integers(0, 40).map("n{}".format)
rows = st.lists(st.tuples(names, st.sampled_from([*DIGESTS[:1] * 3, DIGESTS[1]])), min_size=1, max_size=BATCH_ROWS_MAX)
kinds = st.sampled_from(["claim", "claim", "claim", "claim new", "answer", "fail", "pass"])
numbers = st.sampled_from([0, 1, 3, 31, 100, 999, 1_000, 1_001])


@settings(max_examples=150)
@given(
    filled=st.sampled_from([0, 1_070, 1_100, 1_200]), steps=st.lists(st.builds(Step, kinds, rows, numbers), max_size=25)
)
def test_the_table_is_its_oracle(filled: int, steps: list[Step]) -> None:
    for native in NATIVE:
        pair = Pair(native)
        pair.claim_new(filled)
        for step in steps:
            play(pair, step)
        pair.answer_all()


@settings(max_examples=60)
@given(
    filled=st.sampled_from([0, 1_200]),
    before=st.lists(st.builds(Step, kinds, rows, numbers), max_size=10),
    down_ns=st.sampled_from([0, 1, 500, 999, 1_000]),
    after=st.lists(st.builds(Step, kinds, rows, numbers), max_size=10),
)
def test_a_restart_forgets_nothing_that_was_answered(
    filled: int, before: list[Step], down_ns: int, after: list[Step]
) -> None:
    for native in NATIVE:
        pair = Pair(native)
        pair.claim_new(filled)
        for step in before:
            play(pair, step)
        pair.restart(down_ns)
        for step in after:
            play(pair, step)
        pair.answer_all()


class OneByOne(ClaimRing):
    """The ring without its short way for batches of new ids."""

    def _claim_new(self, ids: Sequence[str]) -> None:
        return None


def one_by_one() -> IdempotencyTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "ClaimRing", OneByOne)
        return IdempotencyTable(ENTRIES_MAX, LIFETIME_NS, native=False)


@settings(max_examples=100)
@given(
    st.sampled_from([0, 1_070, 1_170, 1_190]),
    st.lists(st.tuples(rows, st.sampled_from([0, 0, 3, 31, 999, 1_000])), max_size=20),
    st.integers(0, 40),
)
def test_batches_of_new_ids_are_claimed_as_one_by_one(
    filled: int, batches: list[tuple[list[tuple[str, bytes]], int]], new: int
) -> None:
    """Same rows, slots and memory: also where the ring is full, wraps or expires, and for rows between others."""
    tables = IdempotencyTable(ENTRIES_MAX, LIFETIME_NS, native=False), one_by_one()
    made = [[(f"n{start + i}", DIGESTS[0]) for i in range(min(32, filled - start))] for start in range(0, filled, 32)]
    now_ns = 0
    for batch, pause_ns in [*((each, 0) for each in made), *batches, ([(f"y{i}", DIGESTS[0]) for i in range(new)], 0)]:
        now_ns += pause_ns
        ids, digests = [row[0] for row in batch], [row[1] for row in batch]
        taken = [row for row in range(len(batch)) if pause_ns != 3 or row % 3]
        one, other = (table.claim(ids, [digests[row] for row in taken], taken, now_ns) for table in tables)
        assert one == other
        answers = np.zeros(len(one.fresh), ANSWER_DTYPE)
        answers["decision"], answers["sequence"] = 1, np.arange(len(answers)) + now_ns
        for table in tables:
            if len(answers):
                table.store(one.fresh_slots, answers)
        assert (len(tables[0]), tables[0].evicted_early) == (len(tables[1]), tables[1].evicted_early)
    for one_column, other_column in zip(*(table.dump(now_ns) for table in tables), strict=True):
        assert np.array(one_column).tobytes() == np.array(other_column).tobytes()


def play(pair: Pair, step: Step) -> None:
    match step.what:
        case "claim":
            pair.claim(step.rows)
        case "claim new":
            pair.claim_new(step.number)
        case "answer":
            if pair.pending:
                pair.answer()
        case "fail":
            pair.fail(step.rows)
        case "pass":
            pair.now_ns += step.number
