"""Latency on paper: HdrHistogram logs (.hlog) written and merged exactly, percentile text (.hgrm), the terminal table.

A log holds one line per stage and interval, tagged with the stage, in nanoseconds and in the layout of
``fraudgate.latency.histogram``. Logs of another layout are refused: they could not be merged exactly.
"""

import binascii
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

from fraudgate.errors import SnapshotError
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


def write_hlog(
    path: Path | str, distributions: Mapping[str, Distribution], start_wall_ns: int, end_wall_ns: int
) -> None:
    """Write one interval as a log; stages without values are left out. The file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        writer = HistogramLogWriter(file)
        writer.output_comment("[Histogram log format version 1.3]")
        started = datetime.fromtimestamp(start_wall_ns / SECOND_NS, UTC).isoformat()
        writer.output_comment(f"[StartTime: {start_wall_ns / SECOND_NS:.3f} (seconds since epoch), {started}]")
        writer.output_legend()
        for stage, distribution in distributions.items():
            if distribution.over_range:
                writer.output_comment(f"[OverRange: {stage} {distribution.over_range}]")
            if distribution.count:
                file.write(f"Tag={stage},")
                writer.output_interval_histogram(
                    distribution.hdr(), start_wall_ns / SECOND_NS, end_wall_ns / SECOND_NS, MILLISECOND_NS
                )
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
    for path in paths:
        before = merged.intervals
        for line_number, line in _lines(path):
            try:
                _merge_line(merged, line)
            except _NOT_HDR as error:
                raise SnapshotError(f"{path}:{line_number}: not a histogram log line: {error}") from error
        if merged.intervals == before:
            raise SnapshotError(f"{path}: holds no histogram; give a .hlog that fraudgate wrote")
    return merged


def _lines(path: Path | str) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip()
    except UnicodeDecodeError as error:
        raise SnapshotError(f"{path}: not a histogram log: the file is not text") from error
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error


def _merge_line(merged: MergedLogs, line: str) -> None:
    over_range = _OVER_RANGE.match(line)
    if over_range:
        none = np.zeros(0, np.int64)
        merged.add(over_range[1], Distribution(none, none, over_range=int(over_range[2])))
    if not line or line.startswith(("#", '"StartTimestamp"')):
        return
    interval = _INTERVAL.match(line)
    if not interval:
        raise ValueError("neither a comment nor an interval")
    start_s = float(interval[2])
    merged.start_s = min(merged.start_s, start_s)
    merged.end_s = max(merged.end_s, start_s + float(interval[3]))
    merged.add(interval[1] or UNTAGGED, _decode(interval[5]))
    merged.intervals += 1


def _decode(text: str) -> Distribution:
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
    return Distribution.of(Filled.copy(counts))


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


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])


def _footnotes(report: LatencyReport) -> Iterator[str]:
    totals = next((stage.count for stage in report.stages if stage.stage == "total"), 0)
    if totals:
        budget_ms = report.budget_ns / MILLISECOND_NS
        yield f"{report.over_budget:,} of {totals:,} decisions took longer than the budget of {budget_ms:g} ms"
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
