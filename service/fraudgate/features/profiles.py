"""Profiles: the static features of entities, stored by the control plane."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite, isnan, nan

import numpy as np

from fraudgate.errors import FeaturesRefused
from fraudgate.features.schema import FeatureSchema, Profile
from fraudgate.transaction import ENTITIES, Bool, Float64


class Profiles:
    """Profile values of every entity; a value that was never stored stands at its declared default."""

    def __init__(self, schema: FeatureSchema) -> None:
        profiles = [feature for feature in schema.features if isinstance(feature, Profile)]
        self._kinds = {
            entity: _Kind(schema, [profile for profile in profiles if profile.entity == entity])
            for entity in ENTITIES
            if any(profile.entity == entity for profile in profiles)
        }

    def __iter__(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        """Everything stored: entity, id, values by feature name."""
        for entity, kind in self._kinds.items():
            for name, row in kind.row_of.items():
                yield entity, name, kind.stored(row)

    def put(self, entity: str, id: str, values: Mapping[str, float]) -> None:
        """Store values of one entity; the last value wins. Raises FeaturesRefused and then stores nothing."""
        kind = self._kinds.get(entity)
        if kind is None:
            known = ", ".join(self._kinds) or "none at all"
            raise FeaturesRefused(f"the feature schema has no profile of {entity!r}; it has profiles of: {known}")
        if not id:
            raise FeaturesRefused(f"{entity} is empty: a profile needs the entity's id")
        for name, value in values.items():
            if name not in kind.names:
                close = get_close_matches(name, kind.names, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise FeaturesRefused(f"{name!r} is not a profile feature of {entity}{hint}")
            if not isfinite(value):
                raise FeaturesRefused(f"{name} must be finite, not {value}")
        kind.put(id, values)

    def fill(self, values: Float64, ids: Mapping[str, Sequence[str | None]]) -> Bool | None:
        """Write the profile features. values: [features, rows]; ids: by entity.

        Returns which rows took a default, [rows], or None when the schema has no profiles.
        """
        missing = [kind.fill(values, ids[entity]) for entity, kind in self._kinds.items()]
        return np.logical_or.reduce(missing) if missing else None

    def read(self, entity: str, id: str) -> tuple[dict[str, float], list[str]]:
        """The profile features of one entity, and the names of those at their default."""
        kind = self._kinds.get(entity)
        if kind is None:
            return {}, []
        stored = kind.stored(kind.row_of.get(id, 0))
        values = {
            name: stored.get(name, float(default)) for name, default in zip(kind.names, kind.defaults, strict=True)
        }
        return values, [name for name in kind.names if name not in stored]


class _Kind:
    """The profiles of one kind of entity: a row per entity, NaN where nothing was stored; row 0 is nobody's."""

    def __init__(self, schema: FeatureSchema, profiles: Sequence[Profile]) -> None:
        self.names = [profile.name for profile in profiles]
        self.features = [schema.names.index(name) for name in self.names]
        self.defaults = np.array([profile.default for profile in profiles])
        self.row_of: dict[str, int] = {}
        self.table: Float64 = np.full((16, len(profiles)), nan)

    def put(self, id: str, values: Mapping[str, float]) -> None:
        row = self.row_of.setdefault(id, len(self.row_of) + 1)
        if row == len(self.table):
            self.table = np.concatenate([self.table, np.full_like(self.table, nan)])
        for name, value in values.items():
            self.table[row, self.names.index(name)] = value

    def stored(self, row: int) -> dict[str, float]:
        values = zip(self.names, self.table[row].tolist(), strict=True)
        return {name: value for name, value in values if not isnan(value)}

    def fill(self, values: Float64, ids: Sequence[str | None]) -> Bool:
        row_of = self.row_of
        found = self.table[[row_of.get(name, 0) if name else 0 for name in ids]]
        missing = np.isnan(found)
        values[self.features] = np.where(missing, self.defaults, found).T
        defaulted: Bool = np.logical_or.reduce(missing, axis=1)
        return defaulted
