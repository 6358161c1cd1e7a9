"""What a transaction's features are when no store can be asked."""

from collections.abc import Sequence

import numpy as np

from fraudgate.features.plan import Plan
from fraudgate.features.schema import Attribute, Feature, FeatureSchema, Profile, Window
from fraudgate.features.store import Unapplied
from fraudgate.transaction import Columns, Fallback


class Defaults:
    """The features of the request as they are; of windows and profiles the values that the schema declares."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self._plan = Plan(schema)
        self._declared = np.array([_declared(feature) for feature in schema.features], np.float64)

    def gather(self, columns: Columns, rows: Sequence[int]) -> Unapplied:
        """The features of these rows, all of them flagged. Nothing is applied."""
        values = np.tile(self._declared, (len(rows), 1))
        paid = np.array([columns.currency[row] == self.schema.currency for row in rows], np.bool_)
        self._plan.fill_request(values.T, columns.event_time_ns[rows], columns.amount_minor[rows], paid)
        self._plan.fill_attributes(values.T, columns.attributes and [columns.attributes[row] for row in rows])
        return Unapplied(values, np.full(len(rows), Fallback.DEFAULTED_FEATURES, np.uint8))


def _declared(feature: Feature) -> float:
    match feature:
        case Window():
            return feature.empty
        case Profile() | Attribute():
            return feature.default
        case _:
            return 0.0
