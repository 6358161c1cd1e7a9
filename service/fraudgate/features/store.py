"""The port of the feature store: what the pipeline and the control plane need of any store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from fraudgate.features.schema import FeatureSchema
from fraudgate.transaction import Columns, Float64, UInt8


class Gathered(NamedTuple):
    """The features of some rows of a batch, in the order asked for."""

    values: Float64
    """[rows, features], in the order of the schema; never NaN."""
    fallback: UInt8
    """[rows]: ``Fallback`` NONE, DEFAULTED_FEATURES or STALE_FEATURES, the worst that applied."""


class Unapplied(Gathered):
    """Features that no store gave: these rows' events are not applied."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction. With ``event_time_ns`` and ids they are taken as the transaction's."""

    transaction_id: str
    is_fraud: bool
    event_time_ns: int | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    """By name of ``ENTITIES``."""


@dataclass(frozen=True, slots=True)
class EntityView:
    """The features of one entity at one instant."""

    values: dict[str, float]
    """Profiles and windows of this kind of entity, by feature name."""
    defaulted: list[str]
    """Profiles that were never stored."""
    latest_event_time_ns: int | None
    """The tick of its latest event; None when the store knows none."""
    buckets: int
    """Distinct ticks that the store keeps for it."""


class FeatureStore(Protocol):
    """Applies transactions and reads their features. Calls must not overlap: one thread owns a store."""

    @property
    def schema(self) -> FeatureSchema:
        """The schema that ``values`` follow."""

    @property
    def coverage_start_ns(self) -> int | None:
        """Every event from here on was applied; None before the first."""

    def apply_and_gather(self, columns: Columns, rows: Sequence[int]) -> Gathered:
        """Row by row, apply the row's event, then read its features over everything applied so far.

        ``rows``: distinct and ascending, each already validated and not applied before.
        """

    def apply_outcome(self, outcome: Outcome) -> bool:
        """Mark a transaction as fraud, or take that back; True when a window changed. Raises UnknownTransaction."""

    def put_profile(self, entity: str, id: str, values: Mapping[str, float]) -> None:
        """Store profile values of one entity; the last value wins. Raises FeaturesRefused and then stores nothing."""

    def read_entity(self, entity: str, id: str, at_ns: int | None) -> EntityView:
        """The features of one entity at ``at_ns``, None = at its latest event. Raises FeaturesRefused."""

    def snapshot(self, directory: str | Path) -> Path:
        """Write everything the store knows into ``directory``; returns the file. Atomic."""
