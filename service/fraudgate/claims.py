"""The ring of claims behind the idempotency table: which ids are known, and in which slots.

Slots are taken in claim order: the oldest id goes first, by age or, when the ring is full, early and counted. Where the
wheel ``fraudgate-ingress`` is installed a native kernel does the same; this stays the reference.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fraudgate.transaction import Answers, Int64


def _places(slots: Sequence[int]) -> slice | Sequence[int]:
    """The same places as a slice where they follow each other, which they do until the ring wraps: a plain copy."""
    first = slots[0]
    return slice(first, first + len(slots)) if slots[-1] - first == len(slots) - 1 else slots


class Claims(NamedTuple):
    """What became of the rows of one batch; fresh, replays and conflicts partition the rows asked about."""

    fresh: list[int]
    fresh_slots: list[int]
    """Ring slots of the fresh rows."""
    replays: list[int]
    replay_slots: list[int]
    """Ring slots that hold, or will hold, the replays' answers."""
    conflicts: list[int]


class ClaimRing:
    """At most ``entries_max`` ids, each for ``lifetime_ns`` from its claim.

    digests V16[slots], claimed_ns int64[slots] and answers ANSWER_DTYPE[slots] are the table's memory, with more slots
    than ``entries_max``. A claim writes its digest, its time and decision 0: unanswered.
    """

    def __init__(
        self, entries_max: int, lifetime_ns: int, digests: npt.NDArray[np.void], claimed_ns: Int64, answers: Answers
    ) -> None:
        self._entries_max, self._lifetime_ns = entries_max, lifetime_ns
        self.evicted_early = 0
        self._slot_of: dict[str, int] = {}
        self._ids: list[str | None] = []  # by slot; None once released or superseded
        self._slots = len(claimed_ns)
        self._digests, self._claimed_ns, self._decisions = digests, claimed_ns, answers["decision"]
        self._claimed = claimed_ns.data  # the same memory, cheaper one by one
        self._oldest = self._next = 0  # claim numbers; slot = number % _slots

    def __len__(self) -> int:
        return len(self._slot_of)

    def claim(self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int) -> Claims:
        """Claim the i-th id with the i-th digest for the i-th of ``rows``, in order."""
        self._expire(now_ns, 2 * len(rows))
        slots = self._claim_new(ids)
        if slots is None:
            return self._claim_each(ids, digests, rows, now_ns)
        self._keep(slots, digests, now_ns)
        return Claims(list(rows), slots, [], [], [])

    def claim_batch(self, native: Any, now_ns: int) -> Claims:
        """Claim all rows of a ``fraudgate_ingress.Columns``."""
        return self.claim(native.texts(0), native.digests(), range(native.rows), now_ns)

    def release(self, slots: Sequence[int]) -> None:
        """Free the ids of these slots."""
        for slot in slots:
            self._forget(slot)

    def ahead(self, slots: int) -> list[tuple[int, int]]:
        """Address and bytes of what the next so many claims touch, where that is memory of its own: nothing here."""
        return []

    def live(self) -> list[int]:
        """Slots that hold an id, in claim order."""
        slots = (number % self._slots for number in range(self._oldest, self._next))
        return [slot for slot in slots if self._ids[slot] is not None]

    def ids(self, slots: Sequence[int]) -> list[str]:
        """The ids of live slots."""
        return [self._ids[slot] or "" for slot in slots]

    def fill(self, ids: Sequence[str]) -> list[int]:
        """Take a slot for each id of an empty ring's dump, at most ``entries_max``; returns them."""
        return [self._take_slot(transaction_id, None) for transaction_id in ids]

    def _claim_new(self, ids: Sequence[str]) -> list[int] | None:
        """Slots for a batch of which no id is known and none comes twice, as most are, all claimed at once.

        None for any other batch, and where the ring wraps within it: nothing is claimed then.
        """
        first, count = self._next % self._slots, len(ids)
        if not count or first + count > self._slots:
            return None
        slots = list(range(first, first + count))
        found = list(map(self._slot_of.setdefault, ids, slots))  # one pass: each look-up misses the caches
        if found != slots:
            for transaction_id, slot, mine in zip(ids, found, slots, strict=True):
                if slot == mine:  # no known id has one of these slots: the ring has more than it remembers
                    del self._slot_of[transaction_id]
            return None
        self._make_room(count)
        self._ids[first : first + count] = ids
        self._next += count
        return slots

    def _claim_each(self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int) -> Claims:
        """Claim one after the other: what a claim means."""
        claims = Claims([], [], [], [], [])
        claimed: dict[int, bytes] = {}  # digests of this batch's claims, written to the ring at the end
        for row, transaction_id, digest in zip(rows, ids, digests, strict=True):
            known = self._slot_of.get(transaction_id)
            if known is None or (known not in claimed and now_ns - self._claimed_ns[known] >= self._lifetime_ns):
                slot = self._take_slot(transaction_id, known)
                claimed[slot] = digest
                claims.fresh.append(row)
                claims.fresh_slots.append(slot)
            elif (claimed.get(known) or self._digests[known].tobytes()) == digest:
                claims.replays.append(row)
                claims.replay_slots.append(known)
            else:
                claims.conflicts.append(row)
        if claimed:
            self._keep(claims.fresh_slots, claimed.values(), now_ns)
        return claims

    def _keep(self, slots: Sequence[int], digests: Iterable[bytes], now_ns: int) -> None:
        """Write what is known of new claims to the ring."""
        places = _places(slots)
        self._digests[places] = np.frombuffer(b"".join(digests), self._digests.dtype)
        self._claimed_ns[places] = now_ns
        self._decisions[places] = 0  # unanswered: not the answer of the slot's earlier owner

    def _take_slot(self, transaction_id: str, superseded: int | None) -> int:
        self._make_room(1)
        slot = self._next % self._slots
        self._next += 1
        if superseded is not None:
            self._ids[superseded] = None
        self._ids[slot : slot + 1] = [transaction_id]  # the list grows until the ring wraps
        self._slot_of[transaction_id] = slot
        return slot

    def _make_room(self, count: int) -> None:
        """Forget the oldest where the ring has no room for ``count`` more; what has expired is swept before."""
        excess = self._next + count - self._oldest - self._entries_max
        for number in range(self._oldest, self._oldest + excess):
            self.evicted_early += self._ids[number % self._slots] is not None
            self._forget(number % self._slots)
        self._oldest += max(excess, 0)

    def _expire(self, now_ns: int, entries_max: int) -> None:
        """Forget at most this many expired entries: bounded work per batch, faster than entries can come."""
        for _ in range(entries_max):
            if self._oldest == self._next:
                return
            oldest = self._oldest % self._slots
            if now_ns - self._claimed[oldest] < self._lifetime_ns:
                return
            self._forget(oldest)
            self._oldest += 1

    def _forget(self, slot: int) -> None:
        transaction_id = self._ids[slot]
        if transaction_id is not None:
            self._ids[slot] = None
            del self._slot_of[transaction_id]
