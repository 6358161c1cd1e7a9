"""The idempotency table: one transaction_id, one decision.

    id unknown or expired       -> FRESH     claimed now, its answer is stored when the batch is answered
    id known, same payload      -> a replay  the stored answer, or that of the unanswered attempt it doubles
    id known, other payload     -> a conflict ALREADY_EXISTS

Entries live in a ring of fixed-width rows, in claim order: the oldest goes first, by age or, when the ring is full,
early and counted. Memory is touched as the ring fills.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fraudgate.limits import (
    BATCH_ROWS_MAX,
    BATCHES_IN_FLIGHT_MAX,
    IDEMPOTENCY_ENTRIES_MAX,
    IDEMPOTENCY_LIFETIME_NS,
    QUEUE_ROWS_MAX,
)
from fraudgate.transaction import ANSWER_DTYPE, Answers, Columns, Int64

DIGEST_BYTES = 16
_ENTRIES_MIN = QUEUE_ROWS_MAX + 2 * BATCH_ROWS_MAX  # an unanswered claim must never be evicted
_SLACK = (BATCHES_IN_FLIGHT_MAX + 1) * BATCH_ROWS_MAX
"""Slots beyond ``entries_max``: an evicted answer that an unanswered batch still replays is not overwritten."""


def payload_digests(columns: Columns, rows: Sequence[int]) -> list[bytes]:
    """128-bit digests of the canonical fields of these (valid) rows, in field-number order.

    Fields are joined by U+001F, which no valid field contains, so equal digests mean equal payloads. Attributes are
    sorted by key, their values in IEEE bits. A front end that decodes natively has made them already.
    """
    if columns.digests is not None:
        return [columns.digests[row] for row in rows]
    fields = [
        columns.transaction_id,
        map(str, columns.event_time_ns.tolist()),
        map(str, columns.amount_minor.tolist()),
        columns.currency,
        *([text or "" for text in column] for column in columns.ids.values()),
    ]
    payloads = list(map("\x1f".join, zip(*fields, strict=True)))
    if columns.attributes is not None:
        payloads = [text + _attribute_text(some) for text, some in zip(payloads, columns.attributes, strict=True)]
    return [blake2b(payloads[row].encode(), digest_size=DIGEST_BYTES).digest() for row in rows]


def _attribute_text(values: dict[str, float]) -> str:
    return "".join(f"\x1f{key}\x1f{np.float64(value).tobytes().hex()}" for key, value in sorted(values.items()))


def _places(slots: Sequence[int]) -> slice | Sequence[int]:
    """The same places as a slice where they follow each other, which they do until the ring wraps: a plain copy."""
    first = slots[0]
    return slice(first, first + len(slots)) if slots[-1] - first == len(slots) - 1 else slots


def _write(ring: memoryview, slots: Sequence[int], entries: bytes) -> None:
    """Write entries of one size to slots of a ring of bytes: a plain copy where the slots follow each other."""
    size, first = len(entries) // len(slots), slots[0]
    if slots[-1] - first == len(slots) - 1:
        ring[first * size : first * size + len(entries)] = entries
        return
    for i, slot in enumerate(slots):
        ring[slot * size : (slot + 1) * size] = entries[i * size : (i + 1) * size]


class Claims(NamedTuple):
    """What became of the rows of one batch; fresh, replays and conflicts partition the rows asked about."""

    fresh: list[int]
    fresh_slots: list[int]
    """Ring slots of the fresh rows."""
    replays: list[int]
    replay_slots: list[int]
    """Ring slots that hold, or will hold, the replays' answers."""
    conflicts: list[int]


class IdempotencyTable:
    """At most ``entries_max`` decided or pending transactions, each for ``lifetime_ns`` from its claim."""

    def __init__(self, entries_max: int = IDEMPOTENCY_ENTRIES_MAX, lifetime_ns: int = IDEMPOTENCY_LIFETIME_NS) -> None:
        if entries_max < _ENTRIES_MIN:
            raise ValueError(f"idempotency.entries_max must be at least {_ENTRIES_MIN}: queue and batches in flight")
        self.entries_max, self.lifetime_ns = entries_max, lifetime_ns
        self.evicted_early = 0
        """Entries that went before their lifetime because the ring was full."""
        self._slot_of: dict[str, int] = {}
        self._ids: list[str | None] = []  # by slot; None once released or superseded
        self._slots = entries_max + _SLACK
        self._digests = np.zeros(self._slots, f"V{DIGEST_BYTES}")
        self._claimed_ns: Int64 = np.zeros(self._slots, np.int64)
        self._answers: Answers = np.zeros(self._slots, ANSWER_DTYPE)
        # The same memory in other forms, for what is cheaper that way.
        self._decisions = self._answers["decision"]
        self._claimed = self._claimed_ns.data
        self._digest_bytes = self._digests.view(np.uint8).data
        self._answer_bytes = self._answers.view(np.uint8).data
        self._oldest = self._next = 0  # claim numbers; slot = number % _slots

    def __len__(self) -> int:
        return len(self._slot_of)

    def __repr__(self) -> str:
        return f"<IdempotencyTable [{len(self)} of {self.entries_max}, {self.evicted_early} evicted early]>"

    def claim(self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int) -> Claims:
        """Claim ``ids[row]`` with ``digests[i]`` for the i-th of ``rows``, which ascend, in order."""
        self._expire(now_ns, 2 * len(rows))
        claimed = ids if len(rows) == len(ids) else [ids[row] for row in rows]
        slots = self._claim_new(claimed)
        if slots is None:
            return self._claim_each(claimed, digests, rows, now_ns)
        self._keep(slots, digests, now_ns)
        return Claims(list(rows), slots, [], [], [])

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
            if known is None or (known not in claimed and now_ns - self._claimed_ns[known] >= self.lifetime_ns):
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
        _write(self._digest_bytes, slots, b"".join(digests))
        self._claimed_ns[places] = now_ns
        self._decisions[places] = 0  # unanswered: not the answer of the slot's earlier owner

    def store(self, slots: Sequence[int], answers: Answers) -> None:
        """Keep the answers of claimed slots. ``answers``: ANSWER_DTYPE[len(slots)]."""
        _write(self._answer_bytes, slots, answers.tobytes())

    def answers(self, slots: Sequence[int]) -> Answers:
        """Copies of stored answers, marked as replayed."""
        found = self._answers[slots]
        found["replayed"] = True
        return found

    def release(self, slots: Sequence[int]) -> None:
        """Free ids whose attempt failed before its event was applied."""
        for slot in slots:
            self._forget(slot)

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
        excess = self._next + count - self._oldest - self.entries_max
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
            if now_ns - self._claimed[oldest] < self.lifetime_ns:
                return
            self._forget(oldest)
            self._oldest += 1

    def _forget(self, slot: int) -> None:
        transaction_id = self._ids[slot]
        if transaction_id is not None:
            self._ids[slot] = None
            del self._slot_of[transaction_id]

    def dump(self, now_ns: int) -> tuple[list[str], npt.NDArray[np.void], Int64, Answers]:
        """Live entries in claim order, for a snapshot: ids, digests V16[n], ages in ns int64[n], answers."""
        numbers = range(self._oldest, self._next)
        slots = [number % self._slots for number in numbers]
        live = [slot for slot in slots if self._ids[slot] is not None and self._decisions[slot]]
        ids = [self._ids[slot] or "" for slot in live]
        return ids, self._digests[live], now_ns - self._claimed_ns[live], self._answers[live]

    def load(
        self, ids: Sequence[str], digests: npt.NDArray[np.void], ages_ns: Int64, answers: Answers, now_ns: int
    ) -> None:
        """Put a dump back into an empty table; the newest ``entries_max`` of it, expired ones left out."""
        assert not self._slot_of, "load() fills an empty table"
        kept = np.flatnonzero(ages_ns < self.lifetime_ns)[-self.entries_max :]
        slots = [self._take_slot(ids[i], None) for i in kept]
        self._digests[slots] = digests[kept]
        self._claimed_ns[slots] = now_ns - ages_ns[kept]
        self._answers[slots] = answers[kept]
