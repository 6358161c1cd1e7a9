"""The native kernel of the embedded store, where the wheel ``fraudgate-ingress`` is installed.

It does what ``Windows.apply``, ``Windows.totals_at``, ``Plan.fill_request`` and ``Plan.fill_windows`` do, on the same
arrays, in one call for a batch, row by row, with the same bits. Those stay the reference, and do it without the wheel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fraudgate import wheel
from fraudgate.features.plan import Plan
from fraudgate.features.schema import Window
from fraudgate.features.windows import Windows
from fraudgate.transaction import ENTITIES


@dataclass(frozen=True)
class Program:
    """A plan as the kernel reads it. Kinds, edges and features are numbers: places in the plan's order."""

    features: int
    columns: int
    """Width of the totals; frauds, where a window asks for them, are the last."""
    money: bool
    """The totals have PAID, HIGH and LOW."""
    reads_money: bool
    """A row in another currency has defaulted features."""
    tick_ns: int
    currency: str
    id_columns: list[int]
    """By kind: which column of texts of a native batch has the ids."""
    lateness: int
    """How many ticks before the latest of its series an event becomes stale."""
    keep: list[int]
    """By kind: how many ticks a series keeps."""
    has_profiles: bool
    """Python has written what they default to ``fallback``; else that is not read."""
    fraud_kinds: list[int]
    """The kinds whose series are returned with the ticks."""
    edges: list[tuple[int, int]]
    """Kind, ticks before the event. Every kind has an own edge, at 0."""
    terms: list[tuple[int, str, int, int, float]]
    """The window features: feature, aggregate, edge where the window ends, edge where it starts, value when empty."""
    amounts: list[int]
    calendar: list[tuple[int, list[float]]]
    """The weekend and hours features: feature, its value by hour of a week that begins on a Thursday."""
    exponent_scale: float


def make(plan: Plan, windows: Windows, series: Sequence[Any], keep: list[int], lateness: int) -> Any:
    """A kernel over ``windows``; None without the wheel, or where the plan has none.

    series: by kind, the series of an id; keep: by kind, in ticks, as is ``lateness``.
    """
    kernel = wheel.kernel("WindowKernel")
    return kernel(windows, list(series), program(plan, keep, lateness)) if kernel and plan.entities else None


def program(plan: Plan, keep: list[int], lateness: int) -> Program:
    """What the kernel runs for ``plan``."""
    features = plan.schema.features
    return Program(
        features=len(features),
        columns=plan.columns,
        money=plan.money,
        reads_money=plan.reads_money,
        has_profiles=plan.has_profiles,
        tick_ns=plan.schema.tick_ns,
        currency=plan.schema.currency,
        id_columns=[2 + ENTITIES.index(entity) for entity in plan.entities],
        lateness=lateness,
        keep=keep,
        fraud_kinds=[plan.entities.index(entity) for entity in plan.fraud_entities],
        edges=list(plan.edges),
        terms=[_term(plan, row, window) for row, window in enumerate(features) if isinstance(window, Window)],
        amounts=plan.amounts,
        calendar=list(zip(plan.calendar_rows.tolist(), plan.calendar.tolist(), strict=True)),
        exponent_scale=plan.exponent_scale,
    )


def _term(plan: Plan, feature: int, window: Window) -> tuple[int, str, int, int, float]:
    kind = plan.entities.index(window.entity)
    to, start = (plan.edges[kind, ticks] for ticks in plan.ticks_back(window))
    return feature, window.aggregate, to, start, window.empty
