"""The batcher as it is, with every boundary held to a naive oracle on the stamps."""

from bisect import bisect_left

from fraudgate.batching.batcher import Batcher, ClosedBatch
from fraudgate.frontend.door import Entry
from fraudgate.simulation.invariants import Invariants


class WatchedBatcher(Batcher[Entry]):
    """A batcher of policy "fixed" whose boundaries are drawn a second time from the log of stamps."""

    def __init__(self, invariants: Invariants, gate_ns: int, queue_rows_max: int) -> None:
        super().__init__(gate_ns, queue_rows_max=queue_rows_max)
        self._invariants = invariants
        self._log: list[int] = []  # stamps of what was taken and is not closed
        self._draining = False

    def has_taken(self, now_ns: int) -> None:
        """The door has let in a call with this stamp."""
        self._log.append(now_ns)
        if self.rows > self.queue_rows_max or self.rows != len(self._log):
            self._invariants.fail("the queue keeps its bound", f"{self.rows} rows wait, {len(self._log)} were taken")

    def poll(self, now_ns: int, idle: bool = False) -> ClosedBatch[Entry] | None:
        closed = super().poll(now_ns, idle)
        if closed is not None:
            self._compare([entry.arrival_ns for entry in closed.entries], now_ns)
            try:
                self.check()
            except AssertionError as error:
                self._invariants.fail("the batcher's own invariants", str(error))
        return closed

    def close_open(self, now_ns: int) -> None:
        self._draining = True
        super().close_open(now_ns)

    def _compare(self, closed_ns: list[int], now_ns: int) -> None:
        """The oldest stamps, until 32 are together or one is at the gate or after it."""
        log = self._log
        gate_at_ns = log[0] + self.gate_ns if log else 0
        mine_ns = log[: bisect_left(log, gate_at_ns, 0, min(self.batch_rows_max, len(log)))]
        del log[: len(mine_ns)]
        early = len(mine_ns) < self.batch_rows_max and now_ns < gate_at_ns and not self._draining
        if mine_ns != closed_ns or early:
            self._invariants.fail(
                "batch boundaries follow the stamps", f"{len(closed_ns)} together where the stamps say {len(mine_ns)}"
            )
