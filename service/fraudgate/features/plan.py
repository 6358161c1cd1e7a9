"""A feature schema compiled to array indices, so that a batch is gathered without a loop over rows or features.

The totals of ``windows.py`` have a column for each of these that the schema needs:

    COUNT                     events
    PAID, HIGH, LOW           events in the schema's currency, and their amounts as HIGH * 2^20 + LOW
    FRAUD                     events reported as fraud

One event adds at most 2^20 to HIGH and less to LOW, so both are good for 2^43 events: no sum can overflow. float64 holds
HIGH exactly up to 2^33 events, so a sum is rounded once, like the float64 of the exact integer.

An *edge* is one end of a window, so many ticks before the event. Edges at the event itself are *own* edges: their totals
are known from applying it; the others are searched for.
"""

from collections.abc import Sequence

import numpy as np

from fraudgate.features.schema import Aggregate, Amount, Attribute, FeatureSchema, Hours, Weekend, Window
from fraudgate.limits import AMOUNT_MINOR_MAX, SECOND_NS
from fraudgate.transaction import ENTITIES, Bool, Float64, Int64

HALF_BITS = 20
HALF = 1 << HALF_BITS
assert AMOUNT_MINOR_MAX < HALF * HALF


class Plan:
    """The compiled form of ``schema``.

    entities: the kinds of entity that have windows, [K]
    searched_kind, searched_ticks: the edges to search, [E]: which kind, and how many ticks before the event
    reach: how many ticks a kind's windows reach back, [K]
    Totals are handed to ``fill`` as int64[E + K, rows, columns]: searched edges, then each kind's own.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        windows = schema.windows
        self.entities = tuple(entity for entity in ENTITIES if any(window.entity == entity for window in windows))
        self.fraud_entities = tuple(
            entity
            for entity in self.entities
            if any(window.entity == entity and window.aggregate == "fraud_share" for window in windows)
        )
        self.money = any(window.aggregate in ("sum", "mean") for window in windows)
        self.fraud_column = 4 if self.money else 1
        self.columns = self.fraud_column + bool(self.fraud_entities)
        self._plan_edges(windows)
        self._plan_features()

    def _plan_edges(self, windows: Sequence[Window]) -> None:
        tick_ns = self.schema.tick_ns
        ends = {}  # each distinct window once: (kind, ticks back to its end, ticks back to its start)
        for window in windows:
            delay = window.label_delay_ns // tick_ns
            ends[window.name] = (self.entities.index(window.entity), delay, delay + window.width_ns // tick_ns)
        spans = sorted(set(ends.values()))
        searched = sorted({(kind, ticks) for kind, to, start in spans for ticks in (to, start) if ticks})
        places = {edge: place for place, edge in enumerate(searched)}
        places |= {(kind, 0): len(searched) + kind for kind in range(len(self.entities))}
        self.searched_kind = _indices(kind for kind, _ in searched)
        self.searched_ticks = _indices(ticks for _, ticks in searched)
        self.reach = _indices(max(start for k, _, start in spans if k == kind) for kind in range(len(self.entities)))
        self._to = _indices(places[kind, to] for kind, to, _ in spans)
        self._from = _indices(places[kind, start] for kind, _, start in spans)
        self._span = {name: spans.index(span) for name, span in ends.items()}

    def _plan_features(self) -> None:
        features = self.schema.features
        self._amounts = [i for i, feature in enumerate(features) if isinstance(feature, Amount)]
        self._weekends = [i for i, feature in enumerate(features) if isinstance(feature, Weekend)]
        self._hours = [(i, feature) for i, feature in enumerate(features) if isinstance(feature, Hours)]
        self._attributes = [(i, feature) for i, feature in enumerate(features) if isinstance(feature, Attribute)]
        self.reads_money = self.money or bool(self._amounts)
        self._counts = self._group("count")
        self._sums = self._group("sum")
        self._means = self._group("mean")
        self._shares = self._group("fraud_share")

    def _group(self, aggregate: Aggregate) -> "_Group":
        chosen = [(i, f) for i, f in enumerate(self.schema.features) if isinstance(f, Window) and f.aggregate == aggregate]
        return _Group(
            rows=_indices(i for i, _ in chosen),
            spans=_indices(self._span[feature.name] for _, feature in chosen),
            empty=np.array([[feature.empty] for _, feature in chosen], np.float64).reshape(-1, 1),
        )

    def increments(self, amount_minor: Int64, paid: Bool | None) -> Int64:
        """What events add to the totals, [rows, columns]; ``paid``: which are in the schema's currency, None = all."""
        added = np.zeros((len(amount_minor), self.columns), np.int64)
        added[:, 0] = 1
        if self.money:
            added[:, 1] = 1
            np.right_shift(amount_minor, HALF_BITS, out=added[:, 2])
            np.bitwise_and(amount_minor, HALF - 1, out=added[:, 3])
            if paid is not None:
                added[~paid, 1:4] = 0
        return added

    def fill_request(self, values: Float64, event_time_ns: Int64, amount_minor: Int64, paid: Bool | None) -> None:
        """Write the amount, weekend and hours features. values: [features, rows]."""
        for i in self._amounts:
            np.divide(amount_minor, 10.0**self.schema.exponent, out=values[i])
            if paid is not None:
                values[i][~paid] = 0.0
        if not self._weekends and not self._hours:
            return
        hours = event_time_ns // (3_600 * SECOND_NS)
        if self._weekends:
            values[self._weekends] = (hours // 24 + 3) % 7 >= 5  # 1970-01-01 was a Thursday, weekday 3
        if self._hours:
            hours %= 24
        for i, feature in self._hours:
            after, before = hours >= feature.first, hours <= feature.last
            values[i] = after & before if feature.first <= feature.last else after | before

    def fill_attributes(self, values: Float64, attributes: Sequence[dict[str, float]] | None) -> None:
        """Write the attribute features. values: [features, rows]; ``attributes`` by row, None = no row has any."""
        for i, feature in self._attributes:
            if attributes is None:
                values[i] = feature.default
            else:
                values[i] = [row.get(feature.attribute, feature.default) for row in attributes]

    def fill_windows(self, values: Float64, totals: Int64) -> None:
        """Write the window features. values: [features, rows]; totals: [E + K, rows, columns]."""
        if not len(self._to):
            return
        spans = (totals.take(self._to, 0) - totals.take(self._from, 0)).astype(np.float64)
        count = spans[:, :, 0]
        group = self._counts
        if len(group.rows):
            chosen = count.take(group.spans, 0)
            values[group.rows] = np.where(chosen > 0, chosen, group.empty) if group.empty.any() else chosen
        if self.money:
            money = spans[:, :, 2] * HALF + spans[:, :, 3]
            scale = 10.0**self.schema.exponent
            self._fill_ratio(values, self._means, money, spans[:, :, 1], scale)
            group = self._sums
            if len(group.rows):
                paid = spans[:, :, 1].take(group.spans, 0) > 0
                values[group.rows] = np.where(paid, money.take(group.spans, 0) / scale, group.empty)
        if self.fraud_entities:
            self._fill_ratio(values, self._shares, spans[:, :, self.fraud_column], count, 1.0)

    def _fill_ratio(self, values: Float64, group: "_Group", above: Float64, below: Float64, scale: float) -> None:
        if not len(group.rows):
            return
        below = below.take(group.spans, 0)
        some = below > 0
        result = np.empty_like(below)
        result[:] = group.empty
        np.divide(above.take(group.spans, 0), below, out=result, where=some)
        if scale != 1.0:
            np.divide(result, scale, out=result, where=some)
        values[group.rows] = result


class _Group:
    """The window features of one aggregate: rows of the output [G], their windows [G], values when empty [G, 1]."""

    def __init__(self, rows: Int64, spans: Int64, empty: Float64) -> None:
        self.rows, self.spans, self.empty = rows, spans, empty


def _indices(values: "object") -> Int64:
    return np.array(list(values), np.int64)  # type: ignore[call-overload]
