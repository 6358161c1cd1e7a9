"""The last five minutes, a summary for each second, and windows over the last ones: for the dashboard.

Made from copies of the recorder and the counters, one a second, on whatever thread asks; decisions pay nothing for it.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from fraudgate.latency.histogram import Distribution, Packed
from fraudgate.latency.recorder import STAGES, CountersCopy
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import Decision, Fallback

SECONDS_KEPT = 300
SHORT_SECONDS, LONG_SECONDS = 10, 60
"""The two windows."""

_Key = TypeVar("_Key", bound=Hashable)


class Sample(NamedTuple):
    """What was recorded since the sample before, and what the counters held, since the start."""

    at_ns: int
    packed: Mapping[str, Packed]
    """By stage."""
    counters: CountersCopy


class Window(NamedTuple):
    """What happened between one sample and the next, or in some such windows."""

    seconds: float
    packed: Mapping[str, Packed]
    """By stage; some twenty windows are kept."""
    decisions: dict[tuple[Decision, Fallback], int]
    refusals: dict[str, int]
    """By reason; those that happened only."""
    batch_rows: tuple[int, ...]
    """batch_rows[n]: batches of n rows."""

    @classmethod
    def between(cls, earlier: Sample, later: Sample) -> "Window":
        before, after = earlier.counters, later.counters
        return cls(
            seconds=(later.at_ns - earlier.at_ns) / SECOND_NS,
            packed=later.packed,
            decisions=_grown(before.decisions, after.decisions),
            refusals=_grown(before.refusals, after.refusals),
            batch_rows=tuple(n - m for n, m in zip(after.batch_rows, before.batch_rows, strict=True)),
        )

    @classmethod
    def total(cls, windows: Sequence["Window"]) -> "Window":
        """Windows that follow each other, as one; at least one."""
        return cls(
            seconds=sum(each.seconds for each in windows),
            packed={stage: Packed.total(each.packed[stage] for each in windows) for stage in STAGES},
            decisions=_added(each.decisions for each in windows),
            refusals=_added(each.refusals for each in windows),
            batch_rows=tuple(map(sum, zip(*(each.batch_rows for each in windows), strict=True))),
        )

    def stage(self, name: str) -> Distribution:
        return self.packed[name].unpacked()

    @property
    def decided(self) -> int:
        return sum(self.decisions.values())

    @property
    def refused(self) -> int:
        return sum(self.refusals.values())

    def rate(self, count: int) -> float:
        """``count`` a second."""
        return count / self.seconds if self.seconds else 0.0

    def fallbacks(self) -> dict[Fallback, int]:
        """Decisions by fallback, all of them named."""
        sums = Counter(dict.fromkeys(Fallback, 0))
        for (_, fallback), count in self.decisions.items():
            sums[fallback] += count
        return dict(sums)


class Second(NamedTuple):
    """The summary of about one second; nanoseconds by stage, None where a stage has no values."""

    number: int
    wall_ns: int
    """When it ended."""
    decisions_rate: float
    refusals_rate: float
    p50_ns: tuple[int | None, ...]
    """In the order of ``STAGES``."""
    p99_ns: tuple[int | None, ...]


class History:
    """Fed with samples about a second apart, and read, on one thread."""

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=SECONDS_KEPT)
        self._latest: Sample | None = None
        self._short: deque[Window] = deque(maxlen=SHORT_SECONDS)
        self._long: deque[Window] = deque(maxlen=LONG_SECONDS // SHORT_SECONDS)
        """Of ``SHORT_SECONDS`` or a little more."""
        self._open: list[Window] = []
        """Since the last of those."""
        self._number = 0

    def __repr__(self) -> str:
        return f"<History [{len(self.seconds)} seconds]>"

    def add(self, sample: Sample, wall_ns: int) -> None:
        """Take the next sample, which must not be older than the last one."""
        if self._latest is not None:
            window = Window.between(self._latest, sample)
            self.seconds.append(self._summary(window, wall_ns))
            self._short.append(window)
            self._open.append(window)
            if sum(each.seconds for each in self._open) >= SHORT_SECONDS:
                self._long.append(Window.total(self._open))
                self._open = []
        self._latest = sample

    def short(self) -> Window:
        """The last ``SHORT_SECONDS``, or as much as there is; of no length before the second sample."""
        return self._total(self._short)

    def long(self) -> Window:
        """The last ``LONG_SECONDS`` and up to ``SHORT_SECONDS`` more, or as much as there is."""
        return self._total([*self._long, *self._open])

    def latest(self) -> Sample:
        """There must be one."""
        assert self._latest is not None
        return self._latest

    def _total(self, windows: Sequence[Window]) -> Window:
        if windows:
            return Window.total(windows)
        latest = self.latest()
        return Window.between(latest, latest._replace(packed={stage: Packed.total(()) for stage in STAGES}))

    def _summary(self, window: Window, wall_ns: int) -> Second:
        self._number += 1
        stages = [window.stage(stage) for stage in STAGES]
        p50, p99 = (
            tuple(values.percentile(percent) if values.count else None for values in stages) for percent in (50, 99)
        )
        return Second(self._number, wall_ns, window.rate(window.decided), window.rate(window.refused), p50, p99)


def _added(counts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    added: Counter[_Key] = Counter()
    for each in counts:
        added.update(each)
    return dict(added)


def _grown(before: Mapping[_Key, int], after: Mapping[_Key, int]) -> dict[_Key, int]:
    grown = {key: count - before.get(key, 0) for key, count in after.items()}
    return {key: count for key, count in grown.items() if count}
