"""The page's pictures: inline SVG, drawn with classes whose colours the page's style sheet gives."""

from collections.abc import Callable, Mapping
from math import log10

import numpy as np

from fraudgate.demo.judge import BUDGET_MS
from fraudgate.limits import MILLISECOND_NS
from fraudgate.transaction import Float64, Int64

WIDTH, HEIGHT = 960, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 96, 14, 36
MS_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
NINES_TICKS = {0.0: "min", 1.0: "90 %", 2.0: "99 %", 3.0: "99.9 %", 4.0: "99.99 %"}
LABEL_HEIGHT = 16
SLICES = 80

Scale = Callable[[float], float]


def percentile_curves(client_ns: Int64, server_ns: Int64) -> str:
    """Latency at every percentile, both axes logarithmic: each step to the right leaves a tenth of the rows."""
    nines_max = min(4.0, log10(max(len(client_ns), 10)))
    across = _linear(0.0, nines_max, LEFT, WIDTH - RIGHT)
    nines = np.linspace(0.0, nines_max, 161)
    curves = {
        name: np.quantile(values, 1 - 10.0**-nines, method="inverted_cdf") / MILLISECOND_NS
        for name, values in (("client", client_ns), ("server", server_ns))
    }
    up, grid = _ms_axis(min(curve[0] for curve in curves.values()), max(curve[-1] for curve in curves.values()))
    ticks = "".join(
        f'<line class="grid" x1="{across(nine):.1f}" x2="{across(nine):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{across(nine):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{label}</text>'
        for nine, label in NINES_TICKS.items()
        if nine <= nines_max
    )
    lines = "".join(
        _line(f"line-{name}", [across(nine) for nine in nines], [up(value) for value in curve])
        for name, curve in curves.items()
    ) + _end_labels({name: (f"{name} {curve[-1]:.3g}", up(curve[-1])) for name, curve in curves.items()})
    p99 = np.quantile(client_ns, 0.99) / MILLISECOND_NS
    words = f"Latency by percentile; the client's p99 is {p99:.1f} ms, the budget {BUDGET_MS:.0f} ms."
    return _figure(words, grid + ticks + lines)


def over_time(intended_ns: Int64, client_ns: Int64) -> str:
    """p50 and p99 of the client's latency in slices of the replay."""
    seconds = (intended_ns - intended_ns[0]) / (1000 * MILLISECOND_NS)
    span = max(float(seconds[-1]), 1e-3)
    which = np.minimum((seconds / span * SLICES).astype(np.int64), SLICES - 1)
    filled = np.flatnonzero(np.bincount(which, minlength=SLICES))
    middles = (filled + 0.5) * span / SLICES
    p50, p99 = (
        np.array([np.percentile(client_ns[which == each], q) for each in filled]) / MILLISECOND_NS for q in (50, 99)
    )
    across = _linear(0.0, span, LEFT, WIDTH - RIGHT)
    up, grid = _ms_axis(float(p50.min()), float(p99.max()))
    ticks = "".join(
        f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g} s</text>'
        for tick in _round_ticks(span)
    )
    lines = "".join(
        _line(style, [across(middle) for middle in middles], [up(value) for value in values])
        for style, values in (("line-client", p99), ("line-client low", p50))
    ) + _end_labels({"client": ("p99", up(p99[-1])), "client low": ("p50", up(p50[-1]))})
    return _figure(f"p50 and p99 over {span:.0f} seconds; the highest p99 is {p99.max():.1f} ms.", grid + ticks + lines)


def decision_bar(decisions: Mapping[str, int]) -> str:
    """One bar, divided by kind of decision."""
    total = max(sum(decisions.values()), 1)
    parts, start = [], 0.0
    for kind, count in decisions.items():
        width = count / total * WIDTH
        parts.append(f'<rect class="{kind}" x="{start:.2f}" y="0" width="{width:.2f}" height="22"/>')
        start += width
    words = ", ".join(f"{count:,} {kind}" for kind, count in decisions.items())
    return f'<figure><svg viewBox="0 0 {WIDTH} 22" role="img" aria-label="{words}">{"".join(parts)}</svg></figure>'


def metric_dot(value: float, low: float, high: float, own: bool) -> str:
    """A dot on an axis from ``low`` to ``high``; decoration beside a number, so hidden from screen readers."""
    x = _linear(low, high, 6, 106)(min(max(value, low), high))
    style = "dot own" if own else "dot"
    return (
        '<svg viewBox="0 0 112 14" aria-hidden="true"><line class="grid" x1="6" y1="7" x2="106" y2="7"/>'
        f'<circle class="{style}" cx="{x:.1f}" cy="7" r="{5 if own else 4}"/></svg>'
    )


def _ms_axis(low: float, high: float) -> tuple[Scale, str]:
    """A logarithmic axis of milliseconds that holds [low, high] and the budget: the scale, and grid and labels."""
    bottom = max((tick for tick in MS_TICKS if tick <= low), default=MS_TICKS[0])
    top = min((tick for tick in MS_TICKS if tick >= max(high, BUDGET_MS)), default=MS_TICKS[-1])
    place = _linear(log10(bottom), log10(max(top, 2 * BUDGET_MS)), HEIGHT - BOTTOM, TOP)

    def up(value: float) -> float:
        return place(log10(min(max(value, bottom), MS_TICKS[-1])))

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g} ms</text>'
        for tick in MS_TICKS
        if bottom <= tick <= max(top, 2 * BUDGET_MS)
    )
    budget = up(BUDGET_MS)
    grid += (
        f'<line class="budget" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{budget:.1f}" y2="{budget:.1f}"/>'
        f'<text class="bad" x="{WIDTH - RIGHT + 8}" y="{budget + 4:.1f}">budget</text>'
    )
    return up, grid


def _end_labels(labels: Mapping[str, tuple[str, float]]) -> str:
    """Labels (style -> text, y) at the right end of the lines, from the top one down, pushed apart where they touch."""
    drawn, free = "", 0.0
    for style, (text, y) in sorted(labels.items(), key=lambda label: label[1][1]):
        y = max(y + 4, free)
        drawn += f'<text class="{style}" x="{WIDTH - RIGHT + 8}" y="{y:.1f}">{text}</text>'
        free = y + LABEL_HEIGHT
    return drawn


def _round_ticks(span: float) -> list[float]:
    step = next((each for each in (0.1, 0.5, 1, 2, 5, 10, 20, 60, 120) if span / each <= 10), 600)
    return [step * each for each in range(int(span / step) + 1)]


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _line(style: str, xs: list[float], ys: list[float] | Float64) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{style}" points="{points}"/>'


def _figure(words: str, drawing: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}"><title>{words}</title>'
        f"{drawing}</svg></figure>"
    )
