"""The dynamic batcher. It does no IO and reads no clock: it takes ``now_ns`` and says what to do.

Latency contract: an entry waits in the open batch for at most ``gate_ns``, and for less when the batch fills:

    queue_delay_ns_max = gate_ns + (closed batches ahead) x (one batch's running time)

Invariants, asserted by ``check()``:
  * the open batch holds fewer than ``batch_rows_max`` entries; a closed one between 1 and ``batch_rows_max``
  * every entry of the open batch is stamped before ``first stamp + gate_ns`` (fixed gate)
  * ``rows`` = open + closed entries, and never over ``queue_rows_max``
  * stamps never decrease; an entry is in one batch only, in arrival order
"""

from collections import Counter, deque
from typing import Generic, Literal, NamedTuple, TypeVar

from fraudgate.limits import BATCH_ROWS_MAX, GATE_NS, QUEUE_ROWS_MAX

Entry = TypeVar("Entry")
Policy = Literal["fixed", "eager"]


class ClosedBatch(NamedTuple, Generic[Entry]):
    """Entries in arrival order, 1..batch_rows_max of them.

    ``closed_ns`` is the instant the boundary was drawn at, a function of stamps alone: the last entry's stamp when the
    batch filled, the gate when the gate closed it, the idle instant under ``eager``.
    """

    entries: list[Entry]
    closed_ns: int
    idle_ns: int
    """The instant the engine fell idle, when that closed the batch (policy ``eager``); else 0. Part of the log."""


class Ahead(NamedTuple):
    """What an entry that arrives now would find before it."""

    gate_ns: int
    """From now until the batch closes that it would join: 0 when it fills it, or under policy ``eager``."""
    batches: int
    """Closed batches, and an open one whose gate has passed."""
    closed_ns: int
    """The boundary of the first of them; 0 when there is none."""


class Batcher(Generic[Entry]):
    """Collects entries into batches of at most ``batch_rows_max``.

    policy ``fixed``: a batch closes when full, or ``gate_ns`` after its first entry arrived, whichever is first.
    policy ``eager``: also as soon as the engine is idle (``poll(now_ns, idle=True)``).
    """

    def __init__(
        self,
        gate_ns: int = GATE_NS,
        batch_rows_max: int = BATCH_ROWS_MAX,
        queue_rows_max: int = QUEUE_ROWS_MAX,
        policy: Policy = "fixed",
    ) -> None:
        if gate_ns < 1 or not 1 <= batch_rows_max <= queue_rows_max:
            raise ValueError("need gate_ns >= 1 and 1 <= batch_rows_max <= queue_rows_max")
        self.gate_ns = gate_ns
        self.batch_rows_max = batch_rows_max
        self.queue_rows_max = queue_rows_max
        self.policy = policy
        self.rows = 0
        """Entries that wait: the open batch and the closed ones not yet polled."""
        self.drops: Counter[str] = Counter()
        """Entries refused at the door, by reason."""
        self._open: list[Entry] = []
        self._closed: deque[ClosedBatch[Entry]] = deque()
        self._gate_at_ns = 0
        self._last_ns = 0

    def __repr__(self) -> str:
        return f"<Batcher {self.policy} [{len(self._open)} open, {len(self._closed)} closed, {self.rows} rows]>"

    def add(self, entry: Entry, now_ns: int) -> bool:
        """Take an entry stamped ``now_ns``; False, counted, when ``queue_rows_max`` entries wait already.

        A stamp before an earlier one is raised to it: order decides, and stamps never decrease.
        """
        if self.rows >= self.queue_rows_max:
            self.drops["queue_full"] += 1
            return False
        if now_ns < self._last_ns:
            now_ns = self._last_ns
        self._last_ns = now_ns
        open_entries = self._open
        if open_entries and now_ns >= self._gate_at_ns:
            self._close(self._gate_at_ns, 0)
            open_entries = self._open
        if not open_entries:
            self._gate_at_ns = now_ns + self.gate_ns
        open_entries.append(entry)
        self.rows += 1
        if len(open_entries) == self.batch_rows_max:
            self._close(now_ns, 0)
        return True

    def poll(self, now_ns: int, idle: bool = False) -> ClosedBatch[Entry] | None:
        """The oldest closed batch, or None. Call again until None.

        No entry that is added later may be stamped before ``now_ns``: one clock stamps and polls.
        ``idle``: the engine is idle at ``now_ns``; closes the open batch under policy ``eager``.
        """
        if not self._closed and self._open:
            if now_ns >= self._gate_at_ns:
                self._close(self._gate_at_ns, 0)
            elif idle and self.policy == "eager":
                self._last_ns = max(self._last_ns, now_ns)
                self._close(self._last_ns, self._last_ns)
        if not self._closed:
            return None
        batch = self._closed.popleft()
        self.rows -= len(batch.entries)
        return batch

    def next_deadline_ns(self) -> int | None:
        """When to poll next: at once (0) when a batch is closed, else the gate of the open one, else None."""
        if self._closed:
            return 0
        return self._gate_at_ns if self._open else None

    def ahead(self, now_ns: int) -> Ahead:
        """What an entry stamped ``now_ns`` would find. Changes nothing."""
        if now_ns < self._last_ns:
            now_ns = self._last_ns
        batches, joined = len(self._closed), len(self._open)
        closed_ns = self._closed[0].closed_ns if batches else 0
        gate_ns = self._gate_at_ns - now_ns if joined else self.gate_ns
        if joined and gate_ns <= 0:
            closed_ns = closed_ns if batches else self._gate_at_ns
            batches, joined, gate_ns = batches + 1, 0, self.gate_ns
        if joined + 1 >= self.batch_rows_max or self.policy == "eager":
            gate_ns = 0
        return Ahead(gate_ns, batches, closed_ns)

    def close_open(self, now_ns: int) -> None:
        """Draw the boundary now, whatever the gate says: the drain uses it, after which nothing is added."""
        if self._open:
            self._close(max(now_ns, self._last_ns), 0)

    def _close(self, closed_ns: int, idle_ns: int) -> None:
        self._closed.append(ClosedBatch(self._open, closed_ns, idle_ns))
        self._open = []

    def check(self) -> None:
        """Assert the invariants; tests call it after every step."""
        assert len(self._open) < self.batch_rows_max
        assert all(1 <= len(batch.entries) <= self.batch_rows_max for batch in self._closed)
        assert self.rows == len(self._open) + sum(len(batch.entries) for batch in self._closed)
        assert self.rows <= self.queue_rows_max
        assert not self._open or self._last_ns < self._gate_at_ns
