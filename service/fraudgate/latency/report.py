"""Latency on paper: HdrHistogram logs (.hlog) written and merged exactly, percentile text (.hgrm), the terminal table.

A log holds one line per stage and interval, tagged with the stage, in nanoseconds and in the layout of
``fraudgate.latency.histogram``. Logs of another layout are refused: they could not be merged exactly. So are logs whose
clock went back: intervals of one stage that overlap would count the same time twice.
"""

import binascii
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

from fraudgate.errors import SnapshotError
from fraudgate.latency.budget import Budget
from fraudgate.latency.histogram import (
    BUCKETS,
    HIGHEST_NS,
    LOWEST_NS,
    SIGNIFICANT_DIGITS,
    Distribution,
    Filled,
    LatencyReport,
    summarise,
)
from fraudgate.latency.recorder import STAGES
from fraudgate.limits import BUDGET_NS, MILLISECOND_NS, SECOND_NS

UNTAGGED = "untagged"
_NOT_HDR = (binascii.Error, zlib.error, HdrCookieException, HdrLengthException, ValueError, IndexError, OverflowError)
_INTERVAL = re.compile(r"(?:Tag=([^,\s]+),)?(\d+\.?\d*),(\d+\.?\d*),(\d+\.?\d*),(\S+)$")
_OVER_RANGE = re.compile(r"#\[OverRange: (\S+) (\d+)\]$")
_HGRM_TICKS = 5
_OVERLAP_SECONDS_MAX = 0.005
"""Times of a log are whole milliseconds."""


def write_hlog(
    path: Path | str, distributions: Mapping[str, Distribution], start_wall_ns: int, end_wall_ns: int
) -> None:
    """Write one interval as a log; stages without values are left out. The file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(log_head(start_wall_ns) + log_interval(distributions, start_wall_ns, end_wall_ns))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def log_head(start_wall_ns: int) -> str:
    """What a log begins with."""
    text = io.StringIO()
    writer = HistogramLogWriter(text)
    writer.output_comment("[Histogram log format version 1.3]")
    started = datetime.fromtimestamp(start_wall_ns / SECOND_NS, UTC).isoformat()
    writer.output_comment(f"[StartTime: {start_wall_ns / SECOND_NS:.3f} (seconds since epoch), {started}]")
    writer.output_legend()
    return text.getvalue()


def log_interval(distributions: Mapping[str, Distribution], start_wall_ns: int, end_wall_ns: int) -> str:
    """The lines of one interval; stages without values are left out."""
    text = io.StringIO()
    writer = HistogramLogWriter(text)
    for stage, distribution in distributions.items():
        if distribution.over_range:
            writer.output_comment(f"[OverRange: {stage} {distribution.over_range}]")
        if distribution.count:
            text.write(f"Tag={stage},")
            writer.output_interval_histogram(
                distribution.hdr(), start_wall_ns / SECOND_NS, end_wall_ns / SECOND_NS, MILLISECOND_NS
            )
    return text.getvalue()


@dataclass
class MergedLogs:
    """The sum of any number of logs."""

    distributions: dict[str, Distribution] = field(default_factory=dict)
    start_s: float = float("inf")
    end_s: float = 0.0
    intervals: int = 0

    def add(self, stage: str, distribution: Distribution) -> None:
        known = self.distributions.get(stage)
        self.distributions[stage] = known + distribution if known else distribution

    def report(self, budget_ns: int = BUDGET_NS) -> LatencyReport:
        """Stages in the order of ``STAGES``, others after them by name; the interval spans all logs."""
        order = {stage: place for place, stage in enumerate(STAGES)}
        stages = sorted(self.distributions, key=lambda stage: (order.get(stage, len(order)), stage))
        interval_ns = round((self.end_s - self.start_s) * SECOND_NS)
        return summarise({stage: self.distributions[stage] for stage in stages}, budget_ns, interval_ns)


def merge_hlogs(paths: Iterable[Path | str]) -> MergedLogs:
    """Add logs bucket by bucket. Raises SnapshotError, naming file and line, for one that is damaged or foreign."""
    merged = MergedLogs()
    seen: set[Path] = set()
    for path in paths:
        if Path(path).resolve() in seen:
            raise SnapshotError(f"{path}: given twice; it would be counted twice")
        seen.add(Path(path).resolve())
        for interval in read_hlog(path):
            merged.start_s = min(merged.start_s, interval.start_s)
            merged.end_s = max(merged.end_s, interval.end_s)
            merged.add(interval.stage, interval.distribution)
            merged.intervals += 1
    return merged


class Interval(NamedTuple):
    """What one stage recorded from ``start_s`` to ``end_s``, seconds since 1970."""

    stage: str
    start_s: float
    end_s: float
    distribution: Distribution


def read_hlog(path: Path | str) -> list[Interval]:
    """Every interval of a log, in its order; at least one. Raises SnapshotError, naming file and line."""
    intervals: list[Interval] = []
    over_range: dict[str, int] = {}  # noted before the interval that it belongs to
    end_s: dict[str, float] = {}
    for line_number, line in _lines(path):
        try:
            interval = _interval(line, over_range)
            if interval is not None:
                _check_clock(interval, end_s)
                intervals.append(interval)
        except _NOT_HDR as error:
            raise SnapshotError(f"{path}:{line_number}: not a histogram log line: {error}") from error
    if not intervals:
        raise SnapshotError(f"{path}: holds no histogram; give a .hlog that fraudgate wrote")
    return intervals


def _check_clock(interval: Interval, end_s: dict[str, float]) -> None:
    """Intervals of a stage follow each other; ``end_s``: where the last one of each stage ended."""
    before_s = end_s.get(interval.stage, interval.start_s)
    if interval.start_s < before_s - _OVERLAP_SECONDS_MAX:
        raise ValueError(
            f"{interval.stage} begins {before_s - interval.start_s:.3f} s before its last interval ended: the clock"
            " went back, or lines stand here twice"
        )
    end_s[interval.stage] = interval.end_s


def _lines(path: Path | str) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip()
    except UnicodeDecodeError as error:
        raise SnapshotError(f"{path}: not a histogram log: the file is not text") from error
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error


def _interval(line: str, over_range: dict[str, int]) -> Interval | None:
    """The interval of a line, or None; a note of values over the range goes into ``over_range``."""
    note = _OVER_RANGE.match(line)
    if note:
        over_range[note[1]] = int(note[2])
    if not line or line.startswith(("#", '"StartTimestamp"')):
        return None
    parts = _INTERVAL.match(line)
    if not parts:
        raise ValueError("neither a comment nor an interval")
    stage, start_s = parts[1] or UNTAGGED, float(parts[2])
    distribution = _decode(parts[5], over_range.pop(stage, 0))
    return Interval(stage, start_s, start_s + float(parts[3]), distribution)


def _decode(text: str, over_range: int) -> Distribution:
    histogram = HdrHistogram.decode(text)
    layout = (histogram.lowest_trackable_value, histogram.highest_trackable_value, histogram.significant_figures)
    if layout != (LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS):
        lowest, highest, digits = layout
        raise ValueError(
            f"a histogram of {lowest}..{highest} with {digits} digits, not of {LOWEST_NS}..{HIGHEST_NS} ns with"
            f" {SIGNIFICANT_DIGITS}; it could not be merged exactly"
        )
    counts = np.ctypeslib.as_array(histogram.counts).astype(np.int64)
    if counts.min() < 0:
        raise ValueError("a count does not fit in 63 bits")
    return Distribution(*Filled.copy(counts), over_range=over_range)


def render_table(report: LatencyReport) -> str:
    """The report for a terminal: one line per stage that recorded something, milliseconds."""
    budget_ms = report.budget_ns / MILLISECOND_NS
    header = ("ms", "count", "p50", "p90", "p99", "p99.9", "max", f"p99 of {budget_ms:g} ms")
    rows: list[tuple[str, ...]] = [header]
    for stage in report.stages:
        if stage.count:
            times = (stage.p50_ns, stage.p90_ns, stage.p99_ns, stage.p999_ns, stage.max_ns)
            share = f"{100 * stage.p99_ns / report.budget_ns:.1f} %"
            rows.append((stage.stage, f"{stage.count:,}", *(f"{ns / MILLISECOND_NS:.3f}" for ns in times), share))
    return "\n".join([*aligned(rows), *_footnotes(report)]) + "\n"


def render_budget(report: LatencyReport, budget: Budget) -> str:
    """What each stage spent of its allowance, and the last column says where that was too much."""
    rows: list[tuple[str, ...]] = [("of its budget", "ms", "p50", "p99", "p99.9", "")]
    stages = {stage.stage: stage for stage in report.stages if stage.count}
    for name, allowed_ns in budget.allowed_ns.items():
        if stage := stages.get(name):
            spent = {"p50": stage.p50_ns, "p99": stage.p99_ns, "p99.9": stage.p999_ns}
            over = [level for level, ns in spent.items() if ns > allowed_ns]
            shares = (f"{100 * ns / allowed_ns:.0f} %" for ns in spent.values())
            rows.append((name, f"{allowed_ns / MILLISECOND_NS:g}", *shares, f"over at {over[0]}" if over else ""))
    return "\n".join(line.rstrip() for line in aligned(rows)) + "\n" if len(rows) > 1 else ""


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])


def _footnotes(report: LatencyReport) -> Iterator[str]:
    counts = {stage.stage: stage.count for stage in report.stages}
    if decided := counts.get("whole", 0) or counts.get("total", 0):
        budget_ms = report.budget_ns / MILLISECOND_NS
        yield f"{report.over_budget:,} of {decided:,} decisions took longer than the budget of {budget_ms:g} ms"
    for stage in report.stages:
        if stage.over_range:
            yield f"{stage.stage}: {stage.over_range:,} values above {HIGHEST_NS // SECOND_NS} s stand at the top"


def percentile_text(values: Distribution) -> str:
    """HdrHistogram's percentile distribution (.hgrm) in milliseconds, as its plotter reads it."""
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for percent in _levels(values):
        value_ns, count = values.level(percent)
        inverse = f" {1 / (1 - percent / 100):14.2f}" if percent < 100 else ""
        lines.append(f"{value_ns / MILLISECOND_NS:12.3f} {percent / 100:2.12f} {count:10d}{inverse}")
    mean, deviation, highest = (
        ns / MILLISECOND_NS for ns in (values.mean_ns, values.deviation_ns, float(values.max_ns))
    )
    lines += [
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]",
        f"#[Max     = {highest:12.3f}, Total count    = {values.count:12d}]",
        f"#[Buckets = {BUCKETS // 1024 - 1:12d}, SubBuckets     = {2048:12d}]",
    ]
    return "\n".join(lines) + "\n"


def _levels(values: Distribution) -> Iterator[float]:
    """Percentages that come closer to 100 in five steps per halving, until the last bucket, then 100."""
    percent = 0.0
    while values.count:
        yield percent
        if values.level(percent)[1] == values.count:
            break
        halvings = int(np.log2(100 / (100 - percent))) + 1
        percent += 100 / (_HGRM_TICKS * 2**halvings)
    if values.count:
        yield 100.0
