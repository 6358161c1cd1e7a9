"""A process's histogram log, interval by interval, and the side file beside it.

Each interval is one write to each file, synced; the side file comes first, so that no histogram lacks its counters. The
wall clock is read once, at the start: later times are that plus the monotonic clock, so that a clock set back neither
stretches nor overlaps an interval.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import process_time

from fraudgate.clock import Clock, monotonic_ns
from fraudgate.errors import ConfigError
from fraudgate.latency.budget import Budget
from fraudgate.latency.exemplars import Exemplar, Exemplars
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.recorder import Counters, CountersCopy, Recorder
from fraudgate.latency.report import log_head, log_interval
from fraudgate.latency.side_file import EventLine, ExemplarLine, IntervalLine, Line, beside, encode
from fraudgate.latency.timeline import Event, Timeline
from fraudgate.limits import SECOND_NS

_log = logging.getLogger(__name__)


class IntervalLog:
    """Writes what was recorded since its last ``write``. One thread at a time; never the scoring loop."""

    def __init__(
        self,
        directory: Path,
        recorder: Recorder,
        counters: Counters,
        exemplars: Exemplars,
        timeline: Timeline,
        budget: Budget,
        wall_ns: int,
        now_ns: int,
        cpu_seconds: Callable[[], float] = process_time,
    ) -> None:
        """``wall_ns`` and ``now_ns``: the same instant on both clocks. Raises ConfigError for a bad directory."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"latency.hlog_dir {directory}: cannot be made: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"latency.hlog_dir {directory}: may not be written to by this user")
        self.path = directory / f"latency-{wall_ns // SECOND_NS}-{os.getpid()}.hlog"
        self._recorder, self._counters, self._cpu_seconds = recorder, counters, cpu_seconds
        self._exemplars, self._timeline, self._budget = exemplars, timeline, budget
        self._wall_from_ns = wall_ns - now_ns
        self._start_ns = now_ns
        self._stages: Mapping[str, Distribution] = {}
        self._counted = Counters().copy()
        self._cpu_s = cpu_seconds()
        self._exemplar_lines: list[Line] = []
        self._sizes = {beside(self.path): 0, self.path: 0}

    def __repr__(self) -> str:
        return f"<IntervalLog {self.path} [{self._sizes[self.path]:,} bytes]>"

    def write(self, now_ns: int) -> Path:
        """Add the interval that ends at ``now_ns``; returns the log. OSError loses nothing: the next write has it."""
        stages, counted, cpu_s = self._recorder.since_start(), self._counters.copy(), self._cpu_seconds()
        grown = {name: values.since(self._stages[name]) if self._stages else values for name, values in stages.items()}
        start_ns, wall_from_ns = self._start_ns, self._wall_from_ns
        self._exemplar_lines += [self._exemplar(one) for one in self._exemplars.cut()]
        events = [self._event(event) for event in self._timeline.since(start_ns).events if event.end_ns < now_ns]
        interval = self._interval(now_ns, counted, cpu_s)
        text = log_interval(grown, start_ns + wall_from_ns, now_ns + wall_from_ns)
        head = "" if self._sizes[self.path] else log_head(start_ns + wall_from_ns)
        contents = {
            beside(self.path): encode([interval, *events, *self._exemplar_lines]),
            self.path: (head + text).encode(),
        }
        self._sizes = {path: self._append(path, content) for path, content in contents.items()}
        self._stages, self._counted, self._cpu_s, self._start_ns = stages, counted, cpu_s, now_ns
        self._exemplar_lines = []
        return self.path

    def _interval(self, now_ns: int, counted: CountersCopy, cpu_s: float) -> IntervalLine:
        before = self._counted
        decisions, decided = (
            {f"{d.name.lower()} {f.name.lower()}": n for (d, f), n in copy.decisions.items()}
            for copy in (counted, before)
        )
        return IntervalLine(
            start_s=self._seconds(self._start_ns),
            end_s=self._seconds(now_ns),
            cpu_seconds=cpu_s - self._cpu_s,
            budget_ns=self._budget.total_ns,
            allowed_ns=dict(self._budget.allowed_ns),
            decisions=_grown(decisions, decided),
            refusals=_grown(counted.refusals, before.refusals),
            batch_rows=[now - then for now, then in zip(counted.batch_rows, before.batch_rows, strict=True)],
            totals=_grown(counted.totals, before.totals),
            over_budget=_grown(counted.over_budget, before.over_budget),
        )

    def _seconds(self, ns: int) -> float:
        return (ns + self._wall_from_ns) / SECOND_NS

    def _event(self, event: Event) -> EventLine:
        duration_ns = event.end_ns - event.start_ns
        return EventLine(event.cause, self._seconds(event.start_ns), duration_ns, event.detail)

    def _exemplar(self, exemplar: Exemplar) -> ExemplarLine:
        return ExemplarLine(
            arrival_s=self._seconds(exemplar.arrival_ns),
            decision_id=exemplar.decision_id,
            engine=exemplar.engine,
            fallback=exemplar.fallback,
            batch=exemplar.batch,
            batch_rows=exemplar.batch_rows,
            stages_ns=exemplar.stages_ns,
            events=[self._event(event) for event in exemplar.events],
            cause=exemplar.cause,
        )

    def _append(self, path: Path, content: bytes) -> int:
        """Returns the size of the file. What a failed write, or the other file's, has left is cut off by the next."""
        with open(path, "r+b" if self._sizes[path] else "wb") as file:
            file.truncate(self._sizes[path])
            file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return self._sizes[path] + len(content)


def _grown(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What was counted since, without what was not."""
    grown = {name: count - before.get(name, 0) for name, count in counts.items()}
    return {name: count for name, count in grown.items() if count}


class IntervalTask:
    """The asyncio shell around an interval log: writes on a thread every ``interval_seconds``, and at the end."""

    def __init__(self, log: IntervalLog, interval_seconds: float, clock: Clock = monotonic_ns) -> None:
        self._log, self._interval_seconds, self._clock = log, interval_seconds, clock
        self._end = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> str:
        """Write the last interval; returns what to say of it."""
        self._end.set()
        await self._task
        return f"latency written to {self._log.path}" if await self._write() else "the last latencies are lost"

    async def _run(self) -> None:
        while not self._end.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), self._interval_seconds)
                return
            await self._write()

    async def _write(self) -> bool:
        try:
            await asyncio.to_thread(self._log.write, self._clock())
        except OSError as error:
            _log.warning("histogram log %s: not written: %s; the next interval holds this one too", self._log, error)
            return False
        return True
