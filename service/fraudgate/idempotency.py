"""The idempotency table: one transaction_id, one decision.

    id unknown or expired       -> FRESH     claimed now, its answer is stored when the batch is answered
    id known, same payload      -> a replay  the stored answer, or that of the unanswered attempt it doubles
    id known, other payload     -> a conflict ALREADY_EXISTS

Entries live in a ring of fixed-width rows, in claim order: the oldest goes first, by age or, when the ring is full,
early and counted. Memory is touched as the ring fills.
"""

from collections.abc import Sequence
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
    sorted by key, their values in IEEE bits.
    """
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
        self._decisions = self._answers["decision"]  # a view
        self._oldest = self._next = 0  # claim numbers; slot = number % _slots

    def __len__(self) -> int:
        return len(self._slot_of)

    def __repr__(self) -> str:
        return f"<IdempotencyTable [{len(self)} of {self.entries_max}, {self.evicted_early} evicted early]>"

    def claim(self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int) -> Claims:
        """Claim ``ids[row]`` with ``digests[i]`` for the i-th of ``rows``, in order."""
        self._expire(now_ns, 2 * len(rows))
        claims = Claims([], [], [], [], [])
        claimed: dict[int, bytes] = {}  # digests of this batch's claims, written to the ring at the end
        for row, digest in zip(rows, digests, strict=True):
            transaction_id = ids[row]
            known = self._slot_of.get(transaction_id)
            if known is None or (known not in claimed and now_ns - self._claimed_ns[known] >= self.lifetime_ns):
                slot = self._take_slot(transaction_id, known, now_ns)
                claimed[slot] = digest
                claims.fresh.append(row)
                claims.fresh_slots.append(slot)
            elif (claimed.get(known) or self._digests[known].tobytes()) == digest:
                claims.replays.append(row)
                claims.replay_slots.append(known)
            else:
                claims.conflicts.append(row)
        if claimed:
            places = _places(claims.fresh_slots)
            self._digests[places] = np.frombuffer(b"".join(claimed.values()), self._digests.dtype)
            self._claimed_ns[places] = now_ns
            self._decisions[places] = 0  # unanswered: not the answer of the slot's earlier owner
        return claims

    def store(self, slots: Sequence[int], answers: Answers) -> None:
        """Keep the answers of claimed slots. ``answers``: ANSWER_DTYPE[len(slots)]."""
        self._answers[_places(slots)] = answers

    def answers(self, slots: Sequence[int]) -> Answers:
        """Copies of stored answers, marked as replayed."""
        found = self._answers[slots]
        found["replayed"] = True
        return found

    def release(self, slots: Sequence[int]) -> None:
        """Free ids whose attempt failed before its event was applied."""
        for slot in slots:
            self._forget(slot)

    def _take_slot(self, transaction_id: str, superseded: int | None, now_ns: int) -> int:
        number = self._next
        self._next = number + 1
        slot = number % self._slots
        if number - self._oldest == self.entries_max:
            oldest = self._oldest % self._slots
            self.evicted_early += self._ids[oldest] is not None and now_ns - self._claimed_ns[oldest] < self.lifetime_ns
            self._drop_oldest()
        if superseded is not None:
            self._ids[superseded] = None
        if slot == len(self._ids):
            self._ids.append(transaction_id)
        else:
            self._ids[slot] = transaction_id
        self._slot_of[transaction_id] = slot
        return slot

    def _expire(self, now_ns: int, entries_max: int) -> None:
        """Forget at most this many expired entries: bounded work per batch, faster than entries can come."""
        for _ in range(entries_max):
            if self._oldest == self._next:
                return
            if now_ns - self._claimed_ns[self._oldest % self._slots] < self.lifetime_ns:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._forget(self._oldest % self._slots)
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
        slots = [self._take_slot(ids[i], None, now_ns) for i in kept]
        self._digests[slots] = digests[kept]
        self._claimed_ns[slots] = now_ns - ages_ns[kept]
        self._answers[slots] = answers[kept]
