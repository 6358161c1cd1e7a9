"""A run on paper: everything that histogram logs and the files beside them tell, of any number of processes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fraudgate.latency.budget import Budget
from fraudgate.latency.exemplars import KEPT
from fraudgate.latency.histogram import LatencyReport, settled
from fraudgate.latency.ledger import MISMATCHES
from fraudgate.latency.report import MergedLogs, merge_hlogs
from fraudgate.latency.side_file import EventLine, ExemplarLine, IntervalLine, beside, read


@dataclass(slots=True)
class Run:
    """Histograms, and what was counted beside them; ``has_counters`` is False where no log had a side file."""

    merged: MergedLogs
    budget: Budget
    has_counters: bool = False
    decisions: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    over_budget: Counter[str] = field(default_factory=Counter)
    """Decisions over the budget by cause."""
    batch_rows: list[int] = field(default_factory=list)
    cpu_seconds: float = 0.0
    events: list[EventLine] = field(default_factory=list)
    exemplars: list[ExemplarLine] = field(default_factory=list)
    """The slowest first."""

    @classmethod
    def load(cls, paths: Sequence[Path | str], budget: Budget | None = None) -> "Run":
        """Read logs with their side files. ``budget``: instead of the one they name. Raises SnapshotError."""
        merged = merge_hlogs(paths)
        lines = [line for path in paths for line in read(beside(path))]
        intervals = [line for line in lines if isinstance(line, IntervalLine)]
        run = cls(merged, budget or _budget(intervals), has_counters=bool(intervals))
        for interval in intervals:
            run._add(interval)
        run.events = sorted((line for line in lines if isinstance(line, EventLine)), key=lambda event: event.start_s)
        exemplars = (line for line in lines if isinstance(line, ExemplarLine))
        run.exemplars = sorted(exemplars, key=lambda one: -one.stages_ns.get("total", 0))[:KEPT]
        return run

    def _add(self, interval: IntervalLine) -> None:
        self.decisions.update(interval.decisions)
        self.refusals.update(interval.refusals)
        self.totals.update(interval.totals)
        self.over_budget.update(interval.over_budget)
        self.batch_rows = [a + b for a, b in zip_longest(self.batch_rows, interval.batch_rows, fillvalue=0)]
        self.cpu_seconds += interval.cpu_seconds

    def report(self) -> LatencyReport:
        return self.merged.report(self.budget.total_ns)

    @property
    def seconds(self) -> float:
        """From the first interval's start to the last one's end, of all logs."""
        return max(self.merged.end_s - self.merged.start_s, 0.0)

    @property
    def decided(self) -> int:
        """Decisions, by the histogram of their totals."""
        total = self.merged.distributions.get("total")
        return total.count if total else 0

    @property
    def late(self) -> int:
        """Decisions whose bytes left after the budget was spent; where that is not known, those made after it."""
        values = settled(self.merged.distributions)
        return values.count - values.at_most(self.budget.total_ns) if values else 0

    @property
    def goodput(self) -> float:
        """Decisions a second that kept the budget."""
        return (self.decided - self.late) / self.seconds if self.seconds else 0.0

    @property
    def mismatches(self) -> int:
        """Decisions whose stages do not add up to what they took."""
        return self.totals[MISMATCHES]

    @property
    def cpu_seconds_per_million(self) -> float:
        """CPU seconds of the processes for a million decisions."""
        return 1e6 * self.cpu_seconds / self.decided if self.decided else 0.0

    def price_per_million(self, core_hour_price: float) -> float:
        """In the currency of ``core_hour_price``."""
        return self.cpu_seconds_per_million / 3_600 * core_hour_price

    def as_json(self) -> dict[str, Any]:
        """What the histograms do not say; plain dicts, lists and numbers."""
        form: dict[str, Any] = {"allowed_ns": dict(self.budget.allowed_ns)}
        if self.has_counters:
            form |= {
                "goodput_per_second": round(self.goodput, 3),
                "decisions": dict(self.decisions),
                "refusals": dict(self.refusals),
                "batch_rows": self.batch_rows,
                "cpu_seconds": round(self.cpu_seconds, 6),
                "ledger_mismatches": self.mismatches,
                "over_budget": dict(self.over_budget),
                "events": dict(Counter(event.cause for event in self.events)),
            }
        return form


def _budget(intervals: Iterable[IntervalLine]) -> Budget:
    """That of the last interval, or the packaged one."""
    last = max(intervals, key=lambda interval: interval.end_s, default=None)
    return Budget(last.budget_ns, last.allowed_ns) if last else Budget.default()
