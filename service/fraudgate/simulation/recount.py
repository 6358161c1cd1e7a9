"""Windows recounted naively for a sample: a list of events by entity, scanned from end to end for every feature."""

from collections.abc import Sequence
from typing import NamedTuple

from fraudgate.features.schema import FeatureSchema, Window
from fraudgate.features.store import Gathered
from fraudgate.simulation.invariants import Invariants
from fraudgate.transaction import Columns, Fallback, Float64

TOLERANCE = 1e-9
"""Of means and shares, relative."""


class _Event(NamedTuple):
    transaction_id: str
    tick: int
    amount_minor: int


class Recount:
    """Follows the events of some entities, by name, and holds what the store gathers for them to its own count."""

    def __init__(self, schema: FeatureSchema, sample: frozenset[str], invariants: Invariants) -> None:
        self._schema, self._sample, self._invariants = schema, sample, invariants
        self._windows = [
            (column, feature) for column, feature in enumerate(schema.features) if isinstance(feature, Window)
        ]
        self._entities = sorted({window.entity for _, window in self._windows})
        self._events: dict[tuple[str, str], list[_Event]] = {}
        self._frauds: set[str] = set()
        self.compared = 0
        """Features that were held to their count."""

    def report(self, transaction_id: str) -> None:
        """A transaction is known as fraud from now on."""
        self._frauds.add(transaction_id)

    def applied(self, columns: Columns, rows: Sequence[int], gathered: Gathered) -> None:
        """The store has applied these rows and read these features."""
        for entity in self._entities:
            names = columns.ids[entity]
            if self._sample.isdisjoint(names):
                continue
            for place, row in enumerate(rows):
                name = names[row]
                if name in self._sample:
                    self._follow(entity, name or "", _event(self._schema, columns, row), gathered, place)

    def _follow(self, entity: str, name: str, event: _Event, gathered: Gathered, place: int) -> None:
        events = self._events.setdefault((entity, name), [])
        events.append(event)
        if gathered.fallback[place] == Fallback.NONE:
            self._compare(entity, events, event.tick, gathered.values[place])

    def _compare(self, entity: str, events: list[_Event], tick: int, values: Float64) -> None:
        for column, window in self._windows:
            if window.entity != entity:
                continue
            self.compared += 1
            expected, found = self._value(window, events, tick), float(values[column])
            if abs(expected - found) > TOLERANCE * max(abs(expected), 1.0):
                self._invariants.fail("windows equal a naive recount", f"{window.name}: {found}, counted {expected}")

    def _value(self, window: Window, events: list[_Event], tick: int) -> float:
        until = tick - window.label_delay_ns // self._schema.tick_ns
        since = until - window.width_ns // self._schema.tick_ns
        inside = [event for event in events if since < event.tick <= until]
        if window.aggregate == "count":
            return float(len(inside))
        if not inside:
            return window.empty
        if window.aggregate == "fraud_share":
            return sum(event.transaction_id in self._frauds for event in inside) / len(inside)
        assert window.aggregate == "mean", window.aggregate
        return sum(event.amount_minor for event in inside) / len(inside) / 100


def _event(schema: FeatureSchema, columns: Columns, row: int) -> _Event:
    tick = int(columns.event_time_ns[row]) // schema.tick_ns
    return _Event(columns.transaction_id[row], tick, int(columns.amount_minor[row]))
