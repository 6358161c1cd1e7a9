from typing import Literal

class Batcher:
    """``fraudgate.batching.batcher.Batcher`` over integers, as the native front end runs it."""

    def __init__(
        self, gate_ns: int, batch_rows_max: int, queue_rows_max: int, policy: Literal["fixed", "eager"] = "fixed"
    ) -> None:
        """ValueError unless gate_ns >= 1 and 1 <= batch_rows_max <= queue_rows_max."""

    @property
    def rows(self) -> int:
        """Entries that wait."""

    @property
    def drops(self) -> int:
        """Entries refused because the queue was full."""

    def add(self, entry: int, now_ns: int) -> bool: ...
    def poll(self, now_ns: int, idle: bool = False) -> tuple[list[int], int, int] | None:
        """(entries, closed_ns, idle_ns) of the oldest closed batch, or None."""

    def next_deadline_ns(self) -> int | None: ...
    def close_open(self, now_ns: int) -> None: ...
