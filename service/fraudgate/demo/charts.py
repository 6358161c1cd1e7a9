"""The demo page's pictures."""

from collections.abc import Mapping
from math import log10

import numpy as np

from fraudgate.demo.judge import BUDGET_MS
from fraudgate.limits import MILLISECOND_NS
from fraudgate.pages.svg import WIDTH, end_labels, figure, linear, ms_axis, nines_axis, polyline, seconds_axis
from fraudgate.transaction import Int64

SLICES = 80


def percentile_curves(client_ns: Int64, server_ns: Int64) -> str:
    """Latency at every percentile, both axes logarithmic: each step to the right leaves a tenth of the rows."""
    nines_max = min(4.0, log10(max(len(client_ns), 10)))
    across, ticks = nines_axis(nines_max)
    nines = np.linspace(0.0, nines_max, 161)
    curves = {
        name: np.quantile(values, 1 - 10.0**-nines, method="inverted_cdf") / MILLISECOND_NS
        for name, values in (("client", client_ns), ("server", server_ns))
    }
    up, grid = ms_axis(
        min(curve[0] for curve in curves.values()), max(curve[-1] for curve in curves.values()), BUDGET_MS
    )
    lines = "".join(
        polyline(f"line-{name}", [across(nine) for nine in nines], [up(value) for value in curve])
        for name, curve in curves.items()
    ) + end_labels({name: (f"{name} {curve[-1]:.3g}", up(curve[-1])) for name, curve in curves.items()})
    p99 = np.quantile(client_ns, 0.99) / MILLISECOND_NS
    words = f"Latency by percentile; the client's p99 is {p99:.1f} ms, the budget {BUDGET_MS:.0f} ms."
    return figure(words, grid + ticks + lines)


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
    across, ticks = seconds_axis(span)
    up, grid = ms_axis(float(p50.min()), float(p99.max()), BUDGET_MS)
    lines = "".join(
        polyline(style, [across(middle) for middle in middles], [up(value) for value in values])
        for style, values in (("line-client", p99), ("line-client low", p50))
    ) + end_labels({"client": ("p99", up(p99[-1])), "client low": ("p50", up(p50[-1]))})
    return figure(f"p50 and p99 over {span:.0f} seconds; the highest p99 is {p99.max():.1f} ms.", grid + ticks + lines)


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
    x = linear(low, high, 6, 106)(min(max(value, low), high))
    style = "dot own" if own else "dot"
    return (
        '<svg viewBox="0 0 112 14" aria-hidden="true"><line class="grid" x1="6" y1="7" x2="106" y2="7"/>'
        f'<circle class="{style}" cx="{x:.1f}" cy="7" r="{5 if own else 4}"/></svg>'
    )
