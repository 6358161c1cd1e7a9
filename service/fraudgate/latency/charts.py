"""The report page's pictures."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import log10

from fraudgate.latency.budget import Budget
from fraudgate.latency.histogram import Distribution
from fraudgate.limits import MILLISECOND_NS
from fraudgate.pages.svg import LABEL_HEIGHT, WIDTH, Scale, end_labels, figure, linear, ms_axis, nines_axis, polyline

CURVES = {"total": "server", "whole": "client", "client": "client", "untagged": "client"}
"""Stages that are whole decisions, and the class of their line."""
LEVELS = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}

_BAR_LEFT, _BAR_RIGHT, _BAR_HEIGHT, _BAR_STEP = 74, 70, 26, 52
_COLUMN_TOP, _COLUMN_BOTTOM, _COLUMN_HEIGHT = 20, 30, 210


def percentile_curves(distributions: Mapping[str, Distribution], budget_ns: int) -> str:
    """Latency at every percentile, both axes logarithmic: each step to the right leaves a tenth of the values."""
    shown = {name: distributions[name] for name in CURVES if name in distributions and distributions[name].count}
    largest = max((values.count for values in shown.values()), default=0)
    if not largest:
        return ""
    nines_max = min(max(log10(largest), 1.0), 5.0)
    across, ticks = nines_axis(nines_max)
    nines = [step * nines_max / 160 for step in range(161)]
    curves = {
        name: [values.percentile(100 - 100 * 10.0**-nine) / MILLISECOND_NS for nine in nines]
        for name, values in shown.items()
    }
    low, high = min(curve[0] for curve in curves.values()), max(curve[-1] for curve in curves.values())
    up, grid = ms_axis(low, high, budget_ns / MILLISECOND_NS)
    lines = "".join(
        polyline(f"line-{CURVES[name]}", [across(nine) for nine in nines], [up(value) for value in curve])
        for name, curve in curves.items()
    )
    labels = {CURVES[name]: (f"{name} {curve[-1]:.3g}", up(curve[-1])) for name, curve in curves.items()}
    said = ", ".join(f"{name} {values.percentile(99) / MILLISECOND_NS:.2f} ms" for name, values in shown.items())
    words = f"Latency by percentile; at p99: {said}; the budget is {budget_ns / MILLISECOND_NS:g} ms."
    return figure(words, grid + ticks + lines + end_labels(labels))


def stage_bars(distributions: Mapping[str, Distribution], budget: Budget) -> str:
    """What the stages took at three percentiles, end to end, above what they are allowed."""
    stages = [stage for stage in budget.allowed_ns if stage in distributions]
    bars = {
        level: {stage: distributions[stage].percentile(percent) for stage in stages}
        for level, percent in LEVELS.items()
    }
    bars["allowed"] = {stage: budget.allowed_ns[stage] for stage in stages}
    span_ns = max(budget.total_ns, *(sum(parts.values()) for parts in bars.values()), 1)
    across = linear(0, span_ns, _BAR_LEFT, WIDTH - _BAR_RIGHT)
    drawn = "".join(
        _bar(place * _BAR_STEP + 4, level, parts, across) for place, (level, parts) in enumerate(bars.items())
    )
    height = len(bars) * _BAR_STEP
    edge = across(budget.total_ns)
    drawn += f'<line class="budget" x1="{edge:.1f}" x2="{edge:.1f}" y1="0" y2="{height - 18}"/>'
    drawn += f'<text class="bad" x="{edge:.1f}" y="{height - 4}" text-anchor="middle">budget</text>'
    said = "; ".join(
        f"{level}: {', '.join(f'{stage} {ns / MILLISECOND_NS:.3g} ms' for stage, ns in parts.items())}"
        for level, parts in bars.items()
    )
    return figure(f"Stages. {said}.", drawn, height)


def _bar(top: int, level: str, parts_ns: Mapping[str, int], across: Scale) -> str:
    ends = list(accumulate(parts_ns.values(), initial=0))
    rects = "".join(
        f'<rect class="stage {stage}" x="{across(start):.2f}" y="{top}" width="{across(end) - across(start):.2f}"'
        f' height="{_BAR_HEIGHT}"/>'
        for stage, start, end in zip(parts_ns, ends, ends[1:], strict=False)
    )
    middle = top + _BAR_HEIGHT / 2 + 5
    label = f'<text x="{_BAR_LEFT - 10}" y="{middle}" text-anchor="end">{level}</text>'
    sum_ms = ends[-1] / MILLISECOND_NS
    return label + rects + f'<text x="{across(ends[-1]) + 8:.1f}" y="{middle}">{sum_ms:.3g} ms</text>'


def columns(counts: Sequence[int], words: str) -> str:
    """A column for each of ``counts``, from 1 on, under its share of all where that is large enough to read."""
    total, largest = max(sum(counts), 1), max(*counts, 1)
    step = WIDTH / len(counts)
    up = linear(0, largest, _COLUMN_HEIGHT - _COLUMN_BOTTOM, _COLUMN_TOP)
    drawn = []
    for place, count in enumerate(counts):
        x, top = place * step, up(count)
        bottom = _COLUMN_HEIGHT - _COLUMN_BOTTOM
        drawn.append(
            f'<rect class="column" x="{x + 2:.1f}" y="{top:.1f}" width="{step - 4:.1f}" height="{bottom - top:.1f}"/>'
        )
        if place + 1 in (1, 2, 4, 8, 16, 24, 32):
            drawn.append(_middle(x + step / 2, bottom + LABEL_HEIGHT + 2, str(place + 1)))
        if count / total >= 0.02:
            drawn.append(_middle(x + step / 2, top - 5, f"{100 * count / total:.0f} %"))
    return figure(words, "".join(drawn), _COLUMN_HEIGHT, fit=True)


def _middle(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>'
