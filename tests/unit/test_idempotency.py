"""One transaction_id, one decision: who is new, who gets a stored answer, who conflicts, what is forgotten when."""

import numpy as np
import pytest

from fraudgate.claims import Claims
from fraudgate.idempotency import DIGEST_BYTES, IdempotencyTable
from fraudgate.limits import BATCH_ROWS_MAX, QUEUE_ROWS_MAX
from fraudgate.transaction import ANSWER_DTYPE

pytestmark = pytest.mark.usefixtures("implementation")

SMALLEST = QUEUE_ROWS_MAX + 2 * BATCH_ROWS_MAX
LIFETIME_NS = 1_000


class Shop:
    """A table of the smallest size, used the way the pipeline uses it. A row is written id or id:payload."""

    def __init__(self, entries_max: int = SMALLEST, lifetime_ns: int = LIFETIME_NS) -> None:
        self.table = IdempotencyTable(entries_max, lifetime_ns)
        self.decided = 0

    def claim(self, text: str, now_ns: int = 0) -> "Claimed":
        rows = [row.partition(":") for row in text.split()]
        ids, digests = [id_ for id_, _, _ in rows], [payload.encode().ljust(DIGEST_BYTES) for _, _, payload in rows]
        return Claimed(self, ids, self.table.claim(ids, digests, range(len(ids)), now_ns))

    def score(self, text: str, now_ns: int = 0) -> list[int | None]:
        """The number of each row's decision, counted from 1; None for a conflict."""
        return self.claim(text, now_ns).answer()

    def fill(self, count: int, now_ns: int = 0, name: str = "old") -> None:
        ids = [f"{name}{i}" for i in range(count)]
        for start in range(0, count, BATCH_ROWS_MAX):
            self.score(" ".join(ids[start : start + BATCH_ROWS_MAX]), now_ns)


class Claimed:
    """A claimed batch."""

    def __init__(self, shop: Shop, ids: list[str], claims: Claims) -> None:
        self.shop, self.ids, self.claims = shop, ids, claims

    def said(self) -> str:
        """F fresh, R replay, C conflict, a letter a row."""
        found = {row: kind for kind, rows in zip("FRC", self.rows(), strict=True) for row in rows}
        return "".join(found[row] for row in range(len(self.ids)))

    def rows(self) -> tuple[list[int], list[int], list[int]]:
        return self.claims.fresh, self.claims.replays, self.claims.conflicts

    def answer(self) -> list[int | None]:
        numbers: list[int | None] = [None] * len(self.ids)
        if self.claims.fresh:
            answers = np.zeros(len(self.claims.fresh), ANSWER_DTYPE)
            answers["decision"] = 1
            for answer, row in zip(answers, self.claims.fresh, strict=True):
                self.shop.decided += 1
                answer["sequence"] = numbers[row] = self.shop.decided
            self.shop.table.store(self.claims.fresh_slots, answers)
        if self.claims.replays:
            found = self.shop.table.answers(self.claims.replay_slots)
            for answer, row in zip(found, self.claims.replays, strict=True):
                numbers[row] = int(answer["sequence"])
        return numbers

    def fail(self) -> None:
        self.shop.table.release(self.claims.fresh_slots)


def test_a_retry_gets_the_stored_answer() -> None:
    shop = Shop()
    assert shop.score("a b") == [1, 2]
    assert shop.score("b c a") == [2, 3, 1]
    assert len(shop.table) == 3


def test_another_payload_is_a_conflict_and_changes_nothing() -> None:
    shop = Shop()
    shop.score("a:1")
    assert shop.claim("a:2").said() == "C"
    assert shop.score("a:2 a:1") == [None, 1]


def test_twins_in_one_batch_share_the_first_rows_answer() -> None:
    shop = Shop()
    claimed = shop.claim("a b a a:other b")
    assert claimed.said() == "FFRCR"
    assert claimed.answer() == [1, 2, 1, None, 2]


def test_a_twin_of_an_unanswered_batch_waits_for_its_answer() -> None:
    shop = Shop()
    first, second = shop.claim("a b"), shop.claim("c a a:other")
    assert second.said() == "FRC"
    assert first.answer() == [1, 2]
    assert second.answer() == [3, 1, None]


def test_answers_are_copies_marked_as_replayed() -> None:
    shop = Shop()
    shop.score("a")
    slots = shop.claim("a").claims.replay_slots
    found = shop.table.answers(slots)
    assert found["replayed"].tolist() == [True]
    found["sequence"] = 99
    assert shop.table.answers(slots)["sequence"].tolist() == [1]


def test_the_rows_asked_about_need_not_be_all() -> None:
    """The rows that were dropped or invalid keep their places."""
    table = IdempotencyTable(SMALLEST)
    claims = table.claim(["a", "dropped", "a", "b"], [b"1" * 16, b"1" * 16, b"2" * 16], [0, 2, 3], 0)
    assert (claims.fresh, claims.replays, claims.conflicts) == ([0, 3], [2], [])


@pytest.mark.parametrize(("age_ns", "said"), [(0, "R"), (LIFETIME_NS - 1, "R"), (LIFETIME_NS, "F")])
def test_an_answer_lives_for_its_lifetime(age_ns: int, said: str) -> None:
    shop = Shop()
    shop.score("a", now_ns=5)
    assert shop.claim("a", now_ns=5 + age_ns).said() == said


def test_expiry_counts_from_the_claim_not_from_a_retry() -> None:
    shop = Shop()
    shop.score("a", now_ns=0)
    assert shop.score("a", now_ns=900) == [1]
    assert shop.score("a", now_ns=1_000) == [2]


def test_an_expired_id_is_new_even_before_it_is_swept() -> None:
    """Sweeping is bounded work per batch; an id that it has not reached yet has expired all the same."""
    shop = Shop()
    shop.fill(300, now_ns=0)
    assert shop.claim("old299:other", now_ns=LIFETIME_NS).said() == "F", "neither a replay nor a conflict"
    assert len(shop.table) > 200, "most of the others are still there"


def test_a_superseded_entry_does_not_take_its_successor_along() -> None:
    shop = Shop()
    shop.fill(300, now_ns=0)
    assert shop.score("old299", now_ns=LIFETIME_NS) == [301]
    for _ in range(20):
        shop.fill(32, now_ns=LIFETIME_NS, name="new")  # sweeps all that is old
    assert shop.score("old299", now_ns=LIFETIME_NS + 1) == [301]


def test_sweeping_keeps_up() -> None:
    """Two are forgotten for each that comes: the table does not grow beyond what is alive."""
    shop = Shop(entries_max=4_096)
    for batch in range(200):
        shop.fill(32, now_ns=batch * 100, name=f"b{batch}-")
    assert len(shop.table) <= 32 * (LIFETIME_NS // 100 + 1)
    assert shop.table.evicted_early == 0


def test_a_released_id_is_free_again() -> None:
    shop = Shop()
    shop.claim("a b").fail()
    assert len(shop.table) == 0
    assert shop.claim("a:other b").said() == "FF"


def test_release_after_supersede_frees_the_right_id() -> None:
    shop = Shop()
    shop.fill(300, now_ns=0)
    shop.claim("old299", now_ns=LIFETIME_NS).fail()
    assert shop.claim("old299 old299", now_ns=LIFETIME_NS).said() == "FR"


def test_a_full_ring_forgets_the_oldest_early_and_counts_it() -> None:
    shop = Shop()
    shop.fill(SMALLEST)
    assert (len(shop.table), shop.table.evicted_early) == (SMALLEST, 0)
    shop.score("x y z")
    assert (len(shop.table), shop.table.evicted_early) == (SMALLEST, 3)
    assert shop.claim("old3 old0").said() == "RF"
    assert repr(shop.table) == f"<IdempotencyTable [{SMALLEST} of {SMALLEST}, 4 evicted early]>"


def test_wrapping_over_released_or_expired_entries_counts_nothing() -> None:
    shop = Shop()
    shop.claim("a b").fail()
    shop.fill(SMALLEST - 2)
    shop.score("x y")
    assert shop.table.evicted_early == 0
    shop.fill(SMALLEST, now_ns=LIFETIME_NS, name="new")
    assert shop.table.evicted_early == 0


def test_the_ring_goes_round_many_times() -> None:
    shop = Shop()
    for lap in range(3):
        shop.fill(1_000, name=f"lap{lap}-")
    assert shop.table.evicted_early == 3_000 - SMALLEST
    assert shop.score("lap2-999 lap2-0 lap1-999") == [3_000, 2_001, 2_000]


def test_a_retry_of_the_oldest_entry_gets_its_own_answer_in_a_batch_that_pushes_it_out() -> None:
    shop = Shop()
    shop.fill(3 * SMALLEST)
    oldest = 2 * SMALLEST
    assert shop.score(f"old{oldest} x") == [oldest + 1, 3 * SMALLEST + 1]


def test_a_twin_of_an_unanswered_batch_gets_its_answer_in_a_full_ring() -> None:
    shop = Shop()
    shop.fill(2 * SMALLEST)
    before = shop.decided
    first = shop.claim(" ".join(f"x{i}" for i in range(32)))
    second = shop.claim("x0 y z x31")
    assert first.answer() == [before + i for i in range(1, 33)]
    assert second.answer() == [before + 1, before + 33, before + 34, before + 32]


def test_an_unanswered_batch_keeps_its_replays_while_the_next_pushes_them_out() -> None:
    shop = Shop()
    shop.fill(2 * SMALLEST)
    oldest = [f"old{SMALLEST + i}" for i in range(32)]
    first = shop.claim(" ".join(oldest))
    second = shop.claim(" ".join(f"x{i}" for i in range(32)))
    assert first.said() == "R" * 32
    assert first.answer() == [SMALLEST + 1 + i for i in range(32)]
    assert second.said() == "F" * 32
    assert shop.claim(" ".join(oldest)).said() == "F" * 32


def test_a_table_too_small_for_queue_and_batches_in_flight() -> None:
    with pytest.raises(ValueError, match="at least 1088"):
        IdempotencyTable(SMALLEST - 1)


# -- dump and load -----------------------------------------------------------------------------------------------------


def reload(shop: Shop, now_ns: int, down_ns: int = 0, entries_max: int = SMALLEST) -> Shop:
    """The table after a restart; its clock starts again at 0."""
    ids, digests, ages_ns, answers = shop.table.dump(now_ns)
    assert digests.dtype == np.dtype(f"V{DIGEST_BYTES}")
    after = Shop(entries_max)
    after.table.load(ids, digests, ages_ns + down_ns, answers, 0)
    after.decided = 10_000
    return after


def test_a_restart_keeps_answers_payloads_and_ages() -> None:
    shop = Shop()
    shop.score("a:1", now_ns=50)
    shop.score("b:1", now_ns=100)
    after = reload(shop, now_ns=200, down_ns=300)
    assert after.score("a:1 b:1 a:2") == [1, 2, None]
    assert after.claim("a:1", now_ns=549).said() == "R"
    assert after.claim("a:1", now_ns=550).said() == "F", "its lifetime went on while the process was down"
    assert after.claim("b:1", now_ns=599).said() == "R"


def test_a_dump_leaves_out_what_has_no_answer() -> None:
    shop = Shop()
    shop.score("answered")
    shop.claim("released").fail()
    shop.claim("pending")
    assert shop.table.dump(0)[0] == ["answered"]


def test_a_dump_leaves_out_what_has_no_answer_where_the_ring_wrapped() -> None:
    """The slot still holds the answer of the entry before: another transaction's."""
    shop = Shop()
    shop.fill(2 * SMALLEST)
    shop.claim("pending")
    assert "pending" not in shop.table.dump(0)[0]


def test_a_dump_of_a_wrapped_ring_is_in_claim_order() -> None:
    shop = Shop()
    shop.fill(SMALLEST + 40)
    ids, _, _, answers = shop.table.dump(0)
    assert ids == [f"old{i}" for i in range(40, SMALLEST + 40)]
    assert answers["sequence"].tolist() == list(range(41, SMALLEST + 41))


def test_what_expired_while_down_is_not_loaded() -> None:
    shop = Shop()
    shop.score("a", now_ns=0)
    shop.score("b", now_ns=10)
    after = reload(shop, now_ns=10, down_ns=LIFETIME_NS - 10)
    assert len(after.table) == 1
    assert after.claim("a b").said() == "FR"


def test_of_a_dump_larger_than_the_table_the_newest_are_loaded() -> None:
    shop = Shop(entries_max=4_096)
    shop.fill(SMALLEST + 100)
    after = reload(shop, now_ns=0)
    assert (len(after.table), after.table.evicted_early) == (SMALLEST, 0)
    assert after.score(f"old100 old{SMALLEST + 99}") == [101, SMALLEST + 100]
    assert after.claim("old99").said() == "F"


def test_an_empty_table_survives_a_restart() -> None:
    after = reload(Shop(), now_ns=0)
    assert len(after.table) == 0
    assert after.score("a") == [10_001]
