"""A feature schema compiled to array indices, so that a batch is gathered without a loop over rows or features.

The totals of ``windows.py`` have a column for each of these that the schema needs:

    COUNT                     events
    PAID, HIGH, LOW           events in the schema's currency, and their amounts as HIGH * 2^20 + LOW
    FRAUD                     events reported as fraud

One event adds at most 2^20 to HIGH and less to LOW, so both are good for 2^43 events: no sum can overflow. float64
holds HIGH exactly up to 2^33 events, so a sum is rounded once, like the float64 of the exact integer.

An *edge* is one end of a window, so many ticks before the event. Edges at the event itself are *own* edges: their
totals are known from applying it; the others are searched for. The totals of one column at one edge, for every row of a
batch, are a *line*; a *term* is the difference of two lines, such as the events of one window, and a window feature is
a term or a ratio of two. A mean is taken over the events that add to the sum: a payment in another currency is in the
counts, and neither above nor below the line of a mean.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from fraudgate.features.schema import Amount, Attribute, FeatureSchema, Hours, Profile, Weekend, Window
from fraudgate.limits import AMOUNT_MINOR_MAX, SECOND_NS
from fraudgate.transaction import ENTITIES, Bool, Float64, Int64

HALF_BITS = 20
HALF = 1 << HALF_BITS
assert AMOUNT_MINOR_MAX < HALF * HALF

COUNT, PAID, HIGH, LOW = range(4)
HOURS_A_WEEK = 168
HOUR_NS = 3_600 * SECOND_NS


class Plan:
    """The compiled form of ``schema``.

    entities: the kinds of entity that have windows, [K]
    searched_kind, searched_ticks: the edges to search, [E] and [E, 1]: of which kind, how many ticks before the event
    reach: how many ticks a kind's windows reach back, [K]
    edges: the place of each edge's totals, by kind and ticks before the event: the searched edges, then the own
    amounts: the rows of the amount features
    calendar_rows, calendar: the rows of the weekend and hours features, [C]; their values by hour of the week, [C, 168]
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        windows = schema.windows
        self.entities = tuple(entity for entity in ENTITIES if any(window.entity == entity for window in windows))
        fraud = {window.entity for window in windows if window.aggregate == "fraud_share"}
        self.fraud_entities = tuple(entity for entity in self.entities if entity in fraud)
        self.money = any(window.aggregate in ("sum", "mean") for window in windows)
        self.fraud_column = LOW + 1 if self.money else COUNT + 1
        self.columns = self.fraud_column + bool(fraud)
        self._one_event = _indices((1, 1, 0, 0, 0) if self.money else (1, 0))[: self.columns]
        self.exponent_scale = 10.0**schema.exponent

        features = list(enumerate(schema.features))
        self.amounts = [row for row, feature in features if isinstance(feature, Amount)]
        self._attributes = [(row, feature) for row, feature in features if isinstance(feature, Attribute)]
        self.has_attributes = bool(self._attributes)
        self.has_profiles = any(isinstance(feature, Profile) for feature in schema.features)
        self.reads_money = self.money or bool(self.amounts)
        calendar = [(row, _hours_of_week(feature)) for row, feature in features if isinstance(feature, Weekend | Hours)]
        self.calendar_rows = _indices(row for row, _ in calendar)
        self.calendar = np.array([hours for _, hours in calendar], np.float64).reshape(-1, HOURS_A_WEEK)
        self._plan_edges(windows)
        self._plan_terms([(row, feature) for row, feature in features if isinstance(feature, Window)])

    def _plan_edges(self, windows: Sequence[Window]) -> None:
        ends = [(self.entities.index(window.entity), *self.ticks_back(window)) for window in windows]
        searched = sorted({(kind, ticks) for kind, to, start in ends for ticks in (to, start) if ticks})
        kinds = range(len(self.entities))
        self.edges = {edge: place for place, edge in enumerate([*searched, *((kind, 0) for kind in kinds)])}
        self.searched_kind = _indices(kind for kind, _ in searched)
        self.searched_ticks = _indices(ticks for _, ticks in searched).reshape(-1, 1)
        self.reach = _indices(max(start for kind, _, start in ends if kind == mine) for mine in kinds)

    def ticks_back(self, window: Window) -> tuple[int, int]:
        """How long before the event a window ends and starts."""
        delay = window.label_delay_ns // self.schema.tick_ns
        return delay, delay + window.width_ns // self.schema.tick_ns

    def _plan_terms(self, windows: list[tuple[int, Window]]) -> None:
        """Lay the terms out in blocks: what ratios divide by, LOW, HIGH and FRAUD of what they divide, and counts."""
        money = [(row, window) for row, window in windows if window.aggregate in ("sum", "mean")]
        shares = [(row, window) for row, window in windows if window.aggregate == "fraud_share"]
        counts = [(row, window) for row, window in windows if window.aggregate == "count"]
        blocks = [
            [self._term(window, PAID) for _, window in money] + [self._term(window, COUNT) for _, window in shares],
            [self._term(window, LOW) for _, window in money],
            [self._term(window, HIGH) for _, window in money],
            [self._term(window, self.fraud_column) for _, window in shares],
            [self._term(window, COUNT) for _, window in counts],
        ]
        terms = [term for block in blocks for term in block]
        self._to = _indices(to for to, _ in terms)
        self._from = _indices(start for _, start in terms)
        stops = list(accumulate(len(block) for block in blocks))
        self._below, self._low, self._high = slice(0, stops[0]), slice(stops[0], stops[1]), slice(stops[1], stops[2])
        self._ratio, self._result = slice(stops[1], stops[3]), slice(stops[1], stops[4])

        ordered = [*money, *shares, *counts]
        self._window_rows = _indices(row for row, _ in ordered)
        self._sums = [place for place, (_, window) in enumerate(money) if window.aggregate == "sum"]
        self._scale = np.array([[self.exponent_scale]] * len(money) + [[1.0]] * len(shares)).reshape(-1, 1)
        self._empty = [(place, window.empty) for place, (_, window) in enumerate(ordered) if window.empty]

    def _term(self, window: Window, column: int) -> tuple[int, int]:
        """The lines of the two edges of a window."""
        kind = self.entities.index(window.entity)
        to, start = (self.edges[kind, ticks] * self.columns + column for ticks in self.ticks_back(window))
        return to, start

    def increments(self, amount_minor: Int64, paid: Bool | None) -> Int64:
        """What events add to the totals, [rows, columns]; ``paid``: which are in the schema's currency, None = all."""
        added = np.empty((len(amount_minor), self.columns), np.int64)
        added[:] = self._one_event
        if self.money:
            added[:, HIGH] = amount_minor >> HALF_BITS
            added[:, LOW] = amount_minor & (HALF - 1)
        if paid is not None and self.money:
            added[~paid, PAID : LOW + 1] = 0
        return added

    def fill_request(self, values: Float64, event_time_ns: Int64, amount_minor: Int64, paid: Bool | None) -> None:
        """Write the amount, weekend and hours features. values: [features, rows]."""
        for row in self.amounts:
            np.divide(amount_minor, self.exponent_scale, out=values[row])
            if paid is not None:
                values[row, ~paid] = 0.0
        if len(self.calendar_rows):
            values[self.calendar_rows] = self.calendar.take(event_time_ns // HOUR_NS % HOURS_A_WEEK, 1)

    def fill_attributes(self, values: Float64, attributes: Sequence[dict[str, float]] | None) -> None:
        """Write the attribute features. values: [features, rows]; ``attributes`` by row, None = no row has any."""
        for row, feature in self._attributes:
            if attributes is None:
                values[row] = feature.default
            else:
                values[row] = [given.get(feature.attribute, feature.default) for given in attributes]

    def fill_windows(self, values: Float64, totals: Int64) -> None:
        """Write the window features. values: [features, rows]; totals: [E + K, rows, columns], searched edges first."""
        edges, rows, columns = totals.shape
        lines = totals.transpose(0, 2, 1).reshape(edges * columns, rows)
        terms = (lines.take(self._to, 0) - lines.take(self._from, 0)).astype(np.float64)
        result = terms[self._result]
        if self.money:
            high = terms[self._high]
            high *= HALF
            high += terms[self._low]
        below = terms[self._below]
        nothing = [
            (place, (below if place < len(below) else result)[place] == 0, value) for place, value in self._empty
        ]
        if self._sums:
            below[self._sums] = 1.0
        np.maximum(below, 1.0, out=below)  # of nothing there is nothing: 0 / 1
        ratio = terms[self._ratio]
        ratio /= below
        ratio /= self._scale
        for place, rows_empty, value in nothing:
            result[place, rows_empty] = value
        values[self._window_rows] = result


def _hours_of_week(feature: Weekend | Hours) -> list[bool]:
    """The feature's value in each hour of a week that begins, like 1970, on a Thursday (weekday 3) at 00:00 UTC."""
    if isinstance(feature, Weekend):
        return [(hour // 24 + 3) % 7 >= 5 for hour in range(HOURS_A_WEEK)]
    first, last = feature.first, feature.last
    inside = [first <= hour <= last if first <= last else hour >= first or hour <= last for hour in range(24)]
    return inside * 7


def _indices(numbers: Iterable[int]) -> Int64:
    return np.array(list(numbers), np.int64)
