"""The idempotency table: one transaction_id, one decision.

    id unknown or expired       -> FRESH     claimed now, its answer is stored when the batch is answered
    id known, same payload      -> a replay  the stored answer, or that of the unanswered attempt it doubles
    id known, other payload     -> a conflict ALREADY_EXISTS

Entries live in a ring of fixed-width rows, in claim order, see ``claims``. Memory is touched as the ring fills.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import repeat

import numpy as np
import numpy.typing as npt

from fraudgate import claims, wheel
from fraudgate.claims import Claims
from fraudgate.limits import (
    BATCH_ROWS_MAX,
    BATCHES_IN_FLIGHT_MAX,
    IDEMPOTENCY_ENTRIES_MAX,
    IDEMPOTENCY_LIFETIME_NS,
    QUEUE_ROWS_MAX,
)
from fraudgate.transaction import ANSWER_DTYPE, Answers, Columns, Int64

DIGEST_BYTES = 16
_INT64_MAX = np.iinfo(np.int64).max
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
        *(
            [text or "" for text in column] if any(column) else repeat("", columns.rows)
            for column in columns.ids.values()
        ),
    ]
    payloads = list(map("\x1f".join, zip(*fields, strict=True)))
    if columns.attributes is not None:
        payloads = [text + _attribute_text(some) for text, some in zip(payloads, columns.attributes, strict=True)]
    return [blake2b(payloads[row].encode(), digest_size=DIGEST_BYTES).digest() for row in rows]


def _attribute_text(values: dict[str, float]) -> str:
    return "".join(f"\x1f{key}\x1f{np.float64(value).tobytes().hex()}" for key, value in sorted(values.items()))


def _write(ring: memoryview, slots: Sequence[int], entries: bytes) -> None:
    """Write entries of one size to slots of a ring of bytes: a plain copy where the slots follow each other."""
    size, first = len(entries) // len(slots), slots[0]
    if slots[-1] - first == len(slots) - 1:
        ring[first * size : first * size + len(entries)] = entries
        return
    for i, slot in enumerate(slots):
        ring[slot * size : (slot + 1) * size] = entries[i * size : (i + 1) * size]


class IdempotencyTable:
    """At most ``entries_max`` decided or pending transactions, each for ``lifetime_ns`` from its claim.

    native: let the native kernel do the claims where it is installed; the results are the same, but it refuses ids of
    more than ``ID_BYTES_MAX`` bytes with a ValueError.
    """

    def __init__(
        self,
        entries_max: int = IDEMPOTENCY_ENTRIES_MAX,
        lifetime_ns: int = IDEMPOTENCY_LIFETIME_NS,
        native: bool = True,
    ) -> None:
        if entries_max < _ENTRIES_MIN:
            raise ValueError(f"idempotency.entries_max must be at least {_ENTRIES_MIN}: queue and batches in flight")
        self.entries_max, self.lifetime_ns = entries_max, lifetime_ns
        slots = entries_max + _SLACK
        self._digests = np.zeros(slots, f"V{DIGEST_BYTES}")
        self._claimed_ns: Int64 = np.zeros(slots, np.int64)
        self._answers: Answers = np.zeros(slots, ANSWER_DTYPE)
        answer_bytes = self._answers.view(np.uint8)
        self._answer_bytes = answer_bytes.data  # the same memory, cheaper to write to
        self._ring: claims.ClaimRing
        if native and (kernel := wheel.kernel("ClaimKernel")):
            words = self._digests.view(np.uint64)
            self._ring = kernel(entries_max, min(lifetime_ns, _INT64_MAX), words, self._claimed_ns, answer_bytes)
        else:
            self._ring = claims.ClaimRing(entries_max, lifetime_ns, self._digests, self._claimed_ns, self._answers)

    def __len__(self) -> int:
        return len(self._ring)

    def __repr__(self) -> str:
        return f"<IdempotencyTable [{len(self)} of {self.entries_max}, {self.evicted_early} evicted early]>"

    @property
    def evicted_early(self) -> int:
        """Entries that went before their lifetime because the ring was full."""
        return self._ring.evicted_early

    def claim(self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int) -> Claims:
        """Claim ``ids[row]`` with ``digests[i]`` for the i-th of ``rows``, which ascend, in order."""
        claimed = ids if len(rows) == len(ids) else [ids[row] for row in rows]
        return Claims(*self._ring.claim(claimed, digests, rows, now_ns))

    def claim_batch(self, columns: Columns, rows: Sequence[int], now_ns: int) -> Claims:
        """Claim these (valid) rows of a batch, which ascend; where it can be, in the front end's own memory."""
        if columns.native is not None and len(rows) == columns.rows:
            return Claims(*self._ring.claim_batch(columns.native, now_ns))
        return self.claim(columns.transaction_id, payload_digests(columns, rows), rows, now_ns)

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
        self._ring.release(slots)

    def ahead(self, entries: int) -> list[tuple[int, int]]:
        """Address and bytes of the memory that the next so many claims touch first; see ``paging``."""
        return self._ring.ahead(entries)

    def dump(self, now_ns: int) -> tuple[list[str], npt.NDArray[np.void], Int64, Answers]:
        """Live entries in claim order, for a snapshot: ids, digests V16[n], ages in ns int64[n], answers."""
        decisions = self._answers["decision"]
        live = [slot for slot in self._ring.live() if decisions[slot]]
        return self._ring.ids(live), self._digests[live], now_ns - self._claimed_ns[live], self._answers[live]

    def load(
        self, ids: Sequence[str], digests: npt.NDArray[np.void], ages_ns: Int64, answers: Answers, now_ns: int
    ) -> None:
        """Put a dump back into an empty table; the newest ``entries_max`` of it, expired ones left out."""
        assert not len(self), "load() fills an empty table"
        kept = np.flatnonzero(ages_ns < self.lifetime_ns)[-self.entries_max :]
        slots = self._ring.fill([ids[i] for i in kept])
        self._digests[slots] = digests[kept]
        self._claimed_ns[slots] = now_ns - ages_ns[kept]
        self._answers[slots] = answers[kept]
