"""Pictures: inline SVG, drawn with classes whose colours the page's style sheet gives."""

from collections.abc import Callable, Mapping, Sequence
from math import log10

from fraudgate.transaction import Float64

WIDTH, HEIGHT = 960, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 96, 14, 36
MS_TICKS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 10_000, 50_000)
NINES_TICKS = {0.0: "min", 1.0: "90 %", 2.0: "99 %", 3.0: "99.9 %", 4.0: "99.99 %", 5.0: "99.999 %"}
LABEL_HEIGHT = 16

Scale = Callable[[float], float]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def nines_axis(nines_max: float) -> tuple[Scale, str]:
    """An axis of percentiles, each step of which leaves a tenth of the values: the scale, and grid and labels."""
    across = linear(0.0, nines_max, LEFT, WIDTH - RIGHT)
    ticks = "".join(
        f'<line class="grid" x1="{across(nine):.1f}" x2="{across(nine):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{across(nine):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{label}</text>'
        for nine, label in NINES_TICKS.items()
        if nine <= nines_max
    )
    return across, ticks


def seconds_axis(span: float) -> tuple[Scale, str]:
    """An axis of seconds from 0 to ``span``: the scale, and its labels."""
    across = linear(0.0, span, LEFT, WIDTH - RIGHT)
    labels = "".join(
        f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g} s</text>'
        for tick in _round_ticks(span)
    )
    return across, labels


def ms_axis(low: float, high: float, budget_ms: float) -> tuple[Scale, str]:
    """A logarithmic axis of milliseconds that holds [low, high] and the budget: the scale, and grid and labels."""
    bottom = max((tick for tick in MS_TICKS if tick <= low), default=MS_TICKS[0])
    top = min((tick for tick in MS_TICKS if tick >= max(high, 2 * budget_ms)), default=MS_TICKS[-1])
    place = linear(log10(bottom), log10(top), HEIGHT - BOTTOM, TOP)

    def up(value: float) -> float:
        return place(log10(min(max(value, bottom), top)))

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{_ms(tick)}</text>'
        for tick in MS_TICKS
        if bottom <= tick <= top
    )
    budget = up(budget_ms)
    grid += (
        f'<line class="budget" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{budget:.1f}" y2="{budget:.1f}"/>'
        f'<text class="bad" x="{WIDTH - RIGHT + 8}" y="{budget + 4:.1f}">budget</text>'
    )
    return up, grid


def end_labels(labels: Mapping[str, tuple[str, float]]) -> str:
    """Labels (style -> text, y) at the right end of the lines, from the top one down, pushed apart where they touch."""
    drawn, free = "", 0.0
    for style, (text, y) in sorted(labels.items(), key=lambda label: label[1][1]):
        y = max(y + 4, free)
        drawn += f'<text class="{style}" x="{WIDTH - RIGHT + 8}" y="{y:.1f}">{text}</text>'
        free = y + LABEL_HEIGHT
    return drawn


def polyline(style: str, xs: Sequence[float], ys: Sequence[float] | Float64) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{style}" points="{points}"/>'


def figure(words: str, drawing: str, height: int = HEIGHT, fit: bool = False) -> str:
    """A picture with what it says in words, for those who do not see it. ``fit``: shrink rather than scroll."""
    style = ' class="fit"' if fit else ""
    return (
        f'<figure{style}><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}"><title>{words}</title>'
        f"{drawing}</svg></figure>"
    )


def _ms(value: float) -> str:
    return f"{value:g} ms" if value < 1_000 else f"{value / 1_000:g} s"


def _round_ticks(span: float) -> list[float]:
    step = next((each for each in (0.1, 0.5, 1, 2, 5, 10, 20, 60, 120) if span / each <= 10), 600)
    return [step * each for each in range(int(span / step) + 1)]
