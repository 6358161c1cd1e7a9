"""Naive oracles: the semantics written down as slowly and plainly as possible, for clever code to be held to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from fraudgate.errors import UnknownTransaction
from fraudgate.features.schema import Amount, Attribute, FeatureSchema, Hours, Profile, Weekend, Window
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import ENTITIES, Columns, Fallback


@dataclass
class Event:
    """One transaction, as the list store keeps it."""

    transaction_id: str
    time_ns: int
    amount_minor: int
    currency: str
    ids: dict[str, str]  # of the entities that are present
    attributes: dict[str, float] = field(default_factory=dict)


def columns(made: Sequence[Event]) -> Columns:
    """The opened request batch of these events."""
    zeros = np.zeros(len(made), np.int64)
    return Columns(
        rows=len(made),
        transaction_id=[event.transaction_id for event in made],
        currency=[event.currency for event in made],
        event_time_ns=np.array([event.time_ns for event in made], np.int64),
        amount_minor=np.array([event.amount_minor for event in made], np.int64),
        ids={name: [event.ids.get(name) for event in made] for name in ENTITIES},
        attributes=[event.attributes for event in made],
        arrival_ns=zeros,
        deadline_ns=zeros,
    )


def history(made: Sequence[Event], labels: Sequence[bool | None]) -> pa.RecordBatch:
    """The bulk-load batch of these events."""
    return pa.record_batch(
        {
            "transaction_id": pa.array([event.transaction_id for event in made]),
            "event_time": pa.array([event.time_ns for event in made], pa.timestamp("ns", "UTC")),
            "amount_minor": pa.array([event.amount_minor for event in made]),
            "currency": pa.array([event.currency for event in made]),
            "customer_id": pa.array([event.ids.get("customer_id") for event in made], pa.utf8()),
            "terminal_id": pa.array([event.ids.get("terminal_id") for event in made], pa.utf8()),
            "is_fraud": pa.array(labels, pa.bool_()),
        }
    )


class ListStore:
    """The feature store as a list of events that is scanned from end to end for each feature of each row."""

    def __init__(self, schema: FeatureSchema, lateness_seconds_max: int, coverage_start_ns: int) -> None:
        self.schema = schema
        self.lateness = lateness_seconds_max * SECOND_NS // schema.tick_ns
        self.coverage_start_ns = coverage_start_ns
        self.events: list[Event] = []
        self.decisions: dict[str, Event] = {}
        self.reported: dict[str, list[tuple[int, str, str]]] = {}  # id -> marks: tick, entity, entity's id
        self.profiles: dict[tuple[str, str, str], float] = {}

    def apply_and_gather(self, event: Event) -> tuple[list[float], int]:
        """One row: its features, and its fallback."""
        self.events.append(event)
        self.decisions[event.transaction_id] = event
        values = [self.value(feature, event) for feature in self.schema.features]
        return values, self.fallback(event)

    def load(self, event: Event, is_fraud: bool) -> None:
        """One row of history."""
        self.coverage_start_ns = min(self.coverage_start_ns, event.time_ns)
        self.events.append(event)
        if is_fraud and event.transaction_id not in self.reported:
            self.mark(event.transaction_id, event.time_ns, event.ids)

    def apply_outcome(
        self, transaction_id: str, is_fraud: bool, event_time_ns: int | None, ids: Mapping[str, str]
    ) -> bool:
        """True when a window changed."""
        marks = self.reported.get(transaction_id)
        if marks is not None:
            if is_fraud:
                return False
            del self.reported[transaction_id]
            return any(self.keeps(tick, entity, name) for tick, entity, name in marks)
        fraud_ids = {entity: name for entity, name in ids.items() if entity in self.fraud_entities()}
        if event_time_ns is None or not fraud_ids:
            if transaction_id not in self.decisions:
                raise UnknownTransaction(transaction_id)
            event = self.decisions[transaction_id]
            event_time_ns, fraud_ids = event.time_ns, event.ids
        return is_fraud and self.mark(transaction_id, event_time_ns, fraud_ids)

    def mark(self, transaction_id: str, time_ns: int, ids: Mapping[str, str]) -> bool:
        """Count a fraud at every entity that was seen at that tick, where that is still kept."""
        tick = time_ns // self.schema.tick_ns
        marks = [
            (tick, entity, name)
            for entity, name in ids.items()
            if entity in self.fraud_entities()
            and any(self.tick(event) == tick for event in self.events_of(entity, name))
            and self.keeps(tick, entity, name)
        ]
        if marks:
            self.reported[transaction_id] = marks
        return bool(marks)

    def value(self, feature: object, event: Event) -> float:
        """One feature of an event that was applied just now."""
        match feature:
            case Amount():
                return event.amount_minor / 100 if event.currency == self.schema.currency else 0.0
            case Weekend():
                return float((event.time_ns // (86_400 * SECOND_NS) + 3) % 7 >= 5)
            case Hours():
                hour = event.time_ns // (3_600 * SECOND_NS) % 24
                inside = (
                    feature.first <= hour <= feature.last
                    if feature.first <= feature.last
                    else hour >= feature.first or hour <= feature.last
                )
                return float(inside)
            case Attribute():
                return event.attributes.get(feature.attribute, feature.default)
            case Profile():
                key = (feature.entity, event.ids.get(feature.entity, ""), feature.name)
                return self.profiles.get(key, feature.default)
            case Window():
                name = event.ids.get(feature.entity)
                return feature.empty if name is None else self.window(feature, name, self.tick(event))
        raise AssertionError(feature)

    def window(self, window: Window, name: str, tick: int) -> float:
        """A window of one entity, read at a tick over everything applied so far."""
        until = tick - window.label_delay_ns // self.schema.tick_ns
        since = until - window.width_ns // self.schema.tick_ns

        def counts(at: int) -> bool:
            return since < at <= until and self.keeps(at, window.entity, name)

        inside = [event for event in self.events_of(window.entity, name) if counts(self.tick(event))]
        paid = [event.amount_minor for event in inside if event.currency == self.schema.currency]
        if not (paid if window.aggregate in ("sum", "mean") else inside):
            return window.empty
        match window.aggregate:
            case "count":
                return float(len(inside))
            case "sum":
                return sum(paid) / 100
            case "mean":
                return sum(paid) / len(paid) / 100
            case "fraud_share":
                marks = [mark for marks in self.reported.values() for mark in marks]
                frauds = [at for at, entity, who in marks if (entity, who) == (window.entity, name)]
                return len([at for at in frauds if counts(at)]) / len(inside)

    def fallback(self, event: Event) -> int:
        """The worst that applied to a row."""
        first_covered = -(-self.coverage_start_ns // self.schema.tick_ns)
        for window in self.schema.windows:
            name = event.ids.get(window.entity)
            if name is None:
                continue
            oldest = self.tick(event) - (window.label_delay_ns + window.width_ns) // self.schema.tick_ns + 1
            if oldest < first_covered or self.tick(event) < self.latest(window.entity, name) - self.lateness:
                return Fallback.STALE_FEATURES
        missing = any(entity not in event.ids for entity in self.schema.entities)
        profiles = [feature for feature in self.schema.features if isinstance(feature, Profile)]
        unset = any((p.entity, event.ids.get(p.entity, ""), p.name) not in self.profiles for p in profiles)
        foreign = event.currency != self.schema.currency and any(
            isinstance(feature, Amount) or (isinstance(feature, Window) and feature.aggregate in ("sum", "mean"))
            for feature in self.schema.features
        )
        return Fallback.DEFAULTED_FEATURES if missing or unset or foreign else Fallback.NONE

    def keeps(self, tick: int, entity: str, name: str) -> bool:
        """Whether an entity keeps its events of a tick: longest window + label delay + lateness."""
        spans = [w.width_ns + w.label_delay_ns for w in self.schema.windows if w.entity == entity]
        return tick > self.latest(entity, name) - max(spans) // self.schema.tick_ns - self.lateness

    def latest(self, entity: str, name: str) -> int:
        return max((self.tick(event) for event in self.events_of(entity, name)), default=-(10**15))

    def events_of(self, entity: str, name: str) -> list[Event]:
        return [event for event in self.events if event.ids.get(entity) == name]

    def fraud_entities(self) -> set[str]:
        return {window.entity for window in self.schema.windows if window.aggregate == "fraud_share"}

    def tick(self, event: Event) -> int:
        return event.time_ns // self.schema.tick_ns
