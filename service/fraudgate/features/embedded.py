"""The embedded feature store: exact windows, profiles and outcomes in this process's memory.

Row by row is the meaning, not the method. Within a *segment* of a batch, applying every event and then reading every
row gives what row by row gives, because an event can change the windows of an earlier row only if it belongs to one of
that row's series and is older than the row. A batch is cut where that happens (and where one series jumps by more than
the lateness, lest a later row expires what an earlier one still reads); nearly every batch is one segment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fraudgate.errors import FeaturesRefused, UnknownTransaction
from fraudgate.features import bulk, kernel, snapshot
from fraudgate.features.outcomes import DecisionIndex, Place, Reported
from fraudgate.features.plan import Plan
from fraudgate.features.profiles import Profiles
from fraudgate.features.schema import FeatureSchema, Window
from fraudgate.features.store import EntityView, Gathered, Outcome
from fraudgate.features.windows import ABSENT, FIRST, Windows
from fraudgate.limits import LATENESS_SECONDS_MAX, OUTCOME_INDEX_ENTRIES_MAX, SECOND_NS
from fraudgate.transaction import ENTITIES, Bool, Columns, Fallback, Float64, Int64, UInt8

# Plain integers: an IntEnum costs NumPy microseconds.
NONE, DEFAULTED, STALE = int(Fallback.NONE), int(Fallback.DEFAULTED_FEATURES), int(Fallback.STALE_FEATURES)
assert NONE == 1


class SeriesIndex(dict[str | None, int]):
    """The series of each id of one kind of entity; an unseen id opens one, an absent or empty one is ABSENT."""

    def __init__(self, windows: Windows, keep: int) -> None:
        super().__init__({None: ABSENT, "": ABSENT})
        self._windows, self._keep = windows, keep

    def __missing__(self, id: str) -> int:
        series = self[id] = self._windows.open_series(self._keep)
        return series


class EmbeddedStore:
    """A ``FeatureStore`` in memory. Every entity keeps its longest window + label delay + lateness.

    lateness_seconds_max: rows older than this before the latest event of an entity of theirs are STALE_FEATURES.
    coverage_start_ns: every event from here on will be applied; None = from the first batch on.
    native: let the native kernel do the windows where it is installed; the results have the same bits.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        lateness_seconds_max: int = LATENESS_SECONDS_MAX,
        coverage_start_ns: int | None = None,
        outcome_entries_max: int = OUTCOME_INDEX_ENTRIES_MAX,
        native: bool = True,
    ) -> None:
        self.schema = schema
        self.lateness_seconds_max = lateness_seconds_max
        self.plan = plan = Plan(schema)
        self._lateness = -(-lateness_seconds_max * SECOND_NS // schema.tick_ns)
        self._keep = plan.reach.reshape(-1, 1) + self._lateness
        self.windows = Windows(plan.columns)
        keep = self._keep[:, 0].tolist()
        self.series = [SeriesIndex(self.windows, ticks) for ticks in keep]
        self._kernel = kernel.make(plan, self.windows, self.series, keep, self._lateness) if native else None
        self._features, self._entities = len(schema.features), schema.entities
        # The kernel sees which rows miss an id or the currency, but knows no profiles.
        self._finds_defaults = self._kernel is None or plan.has_profiles
        self.profiles = Profiles(schema)
        self.reported = Reported(self._is_live)
        self._kinds = list(enumerate(plan.entities))
        self._fraud_kinds = [kind for kind, entity in self._kinds if entity in plan.fraud_entities]
        self.decisions = DecisionIndex(len(self._fraud_kinds), outcome_entries_max)
        self.coverage_start_ns: int | None = None
        self._covered_from = np.full_like(self._keep, FIRST)
        if coverage_start_ns is not None:
            self.set_coverage_start(coverage_start_ns)

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self.schema.name} {self.windows!r} [{len(self.reported)} reported frauds]>"

    @classmethod
    def restore(cls, directory: str | Path, schema: FeatureSchema, **options: Any) -> "EmbeddedStore":
        """The store that was snapshot into ``directory``; ``options`` as for the constructor. Raises SnapshotError."""
        store = cls(schema, **options)
        snapshot.read(store, Path(directory))
        return store

    def snapshot(self, directory: str | Path) -> Path:
        """Write everything the store knows into ``directory``, atomically; returns the file."""
        return snapshot.write(self, Path(directory))

    def bulk_load(self, batches: Iterable[Any], progress: Callable[[int], None] | None = None) -> int:
        """Apply history, in any order; see ``bulk.load``. Returns the rows loaded. Raises FeaturesRefused."""
        return bulk.load(self, batches, progress)

    def set_coverage_start(self, ns: int) -> None:
        """Say that every event from ``ns`` on is, or will be, applied. A row whose windows reach before it is STALE."""
        self.coverage_start_ns = ns
        first_whole_tick = -(-ns // self.schema.tick_ns)
        # The oldest tick of a window is one after its start, so a row at this tick sees covered ticks only.
        self._covered_from = first_whole_tick + self.plan.reach.reshape(-1, 1) - 1
        self._covered_from_ticks = self._covered_from[:, 0].tolist()

    # -- the scoring path ----------------------------------------------------------------------------------------------

    def apply_and_gather(self, columns: Columns, rows: Sequence[int]) -> Gathered:
        """Row by row, apply the row's event, then read its features over everything applied so far.

        See ``FeatureStore``.
        """
        plan, n = self.plan, len(rows)
        whole = n == columns.rows
        gathered = Gathered(np.empty((n, self._features)), np.empty(n, np.uint8))
        if plan.has_attributes:
            plan.fill_attributes(gathered.values.T, columns.attributes and _chosen(columns.attributes, rows, whole))
        if whole and n and self._kernel and columns.native is not None and not self._finds_defaults:
            self._apply_native(self._kernel, columns, gathered)
        else:
            self._apply_chosen(columns, rows, gathered)
        return gathered

    def _apply_native(self, native: Any, columns: Columns, gathered: Gathered) -> None:
        """Apply and read a whole batch, which the kernel reads where the front end put it."""
        if self.coverage_start_ns is None:
            self.set_coverage_start(int(columns.event_time_ns.max()))
        places = native.apply_and_gather_columns(columns.native, self._covered_from_ticks, *gathered)
        if self._fraud_kinds:
            self.decisions.add(columns.native, places)

    def _apply_chosen(self, columns: Columns, rows: Sequence[int], gathered: Gathered) -> None:
        """Apply and read these rows of a batch, from its lists."""
        plan, n = self.plan, len(rows)
        whole = n == columns.rows
        event_time_ns = columns.event_time_ns if whole else columns.event_time_ns[rows]
        amount_minor = columns.amount_minor if whole else columns.amount_minor[rows]
        currency = _chosen(columns.currency, rows, whole)
        paid = None if currency.count(self.schema.currency) == n else self._paid(currency)
        ids = columns.ids if whole else {entity: _chosen(columns.ids[entity], rows, whole) for entity in self._entities}
        if self._finds_defaults:
            self._fill_defaults(gathered, ids, paid)
        if not n or not plan.entities:
            plan.fill_request(gathered.values.T, event_time_ns, amount_minor, paid)
            return
        if self.coverage_start_ns is None:
            self.set_coverage_start(int(event_time_ns.max()))
        if self._kernel is None:
            places = self._apply(gathered, ids, event_time_ns, amount_minor, paid)
        else:
            mine = [ids[entity] for entity in plan.entities]
            flags = paid if paid is None else paid.tolist()
            places = self._kernel.apply_and_gather(
                mine, event_time_ns, amount_minor, flags, self._covered_from_ticks, *gathered
            )
        if self._fraud_kinds:
            self.decisions.add(_chosen(columns.transaction_id, rows, whole), places)

    def _apply(
        self,
        gathered: Gathered,
        ids: Mapping[str, Sequence[str | None]],
        event_time_ns: Int64,
        amount_minor: Int64,
        paid: Bool | None,
    ) -> bytes:
        """Apply the rows and write the request and window features. Returns where their outcomes count, see ``add``."""
        plan, values = self.plan, gathered.values.T
        plan.fill_request(values, event_time_ns, amount_minor, paid)
        ticks = event_time_ns // self.schema.tick_ns
        series = [list(map(self.series[kind].__getitem__, ids[entity])) for kind, entity in self._kinds]
        numbers = np.array(series)
        self._apply_and_read(values, gathered.fallback, series, numbers, ticks, plan.increments(amount_minor, paid))
        places = np.empty((len(ticks), 1 + len(self._fraud_kinds)), np.int64)
        places[:, 0] = ticks
        places[:, 1:] = numbers.take(self._fraud_kinds, 0).T
        return places.tobytes()

    def _paid(self, currency: Sequence[str]) -> Bool:
        return np.array([code == self.schema.currency for code in currency], np.bool_)

    def _fill_defaults(self, gathered: Gathered, ids: Mapping[str, Sequence[str | None]], paid: Bool | None) -> None:
        """Write the profiles, and NONE or DEFAULTED for every row."""
        gathered.fallback.fill(NONE)
        defaulted = self._defaulted(gathered.values.T, ids, paid)
        if defaulted is not None:
            gathered.fallback[defaulted] = DEFAULTED

    def _defaulted(self, values: Float64, ids: Mapping[str, Sequence[str | None]], paid: Bool | None) -> Bool | None:
        """Write the profiles; which rows miss an id, a profile or (for money) the schema's currency. None = no row."""
        defaulted = self.profiles.fill(values, ids)
        for known in map(ids.__getitem__, self._entities):
            if not all(known):
                absent = np.array([not name for name in known])
                defaulted = absent if defaulted is None else defaulted | absent
        if paid is not None and self.plan.reads_money:
            defaulted = ~paid if defaulted is None else defaulted | ~paid
        return defaulted

    def _apply_and_read(
        self,
        values: Float64,
        fallback: UInt8,
        series: list[list[int]],
        numbers: Int64,
        ticks: Int64,
        increments: Int64,
    ) -> None:
        """Cut the batch where it has to be cut. values: [features, rows]; series, numbers: [kinds, rows]."""
        rows = len(ticks)
        if all(len(distinct := set(kind)) == rows and ABSENT not in distinct for kind in series):
            self._segment(values, fallback, numbers, ticks, increments, [])
            return
        crowds = [_crowds(kind) for kind in series]
        for start, stop in pairwise([0, *self._cuts(crowds, ticks.tolist()), rows]):
            part = slice(start, stop)
            mine = crowds if stop - start == rows else [_crowds(kind[part]) for kind in series]
            alone = sorted(
                kind * (stop - start) + row
                for kind, crowd in enumerate(mine)
                for together in crowd.values()
                for row in together
            )
            self._segment(values[:, part], fallback[part], numbers[:, part], ticks[part], increments[part], alone)

    def _cuts(self, crowds: list[dict[int, list[int]]], ticks: list[int]) -> list[int]:
        """Where to cut a batch, so that no row of a segment changes what an earlier one of it reads."""
        cuts: set[int] = set()
        for rows in (rows for crowd in crowds for number, rows in crowd.items() if number != ABSENT):
            first = latest = ticks[rows[0]]
            for row in rows:
                if not latest <= ticks[row] <= first + self._lateness:
                    cuts.add(row)
                    first = ticks[row]
                latest = ticks[row]
        return sorted(cuts)

    def _segment(
        self, values: Float64, fallback: UInt8, numbers: Int64, ticks: Int64, increments: Int64, alone: list[int]
    ) -> None:
        """Apply a segment's events, then read its rows. numbers: [kinds, rows]; ``alone`` as for ``Windows.apply``."""
        plan = self.plan
        searched = len(plan.searched_kind)
        totals = np.empty((searched + len(numbers), len(ticks), plan.columns), np.int64)
        latest = self.windows.apply(numbers, ticks, increments, alone, totals[searched:])
        edges = ticks - plan.searched_ticks
        stale = ticks < self._covered_from
        if latest is not None:
            stale |= ticks < latest - self._lateness
            np.maximum(edges, (latest - self._keep).take(plan.searched_kind, 0), out=edges)
        if np.count_nonzero(stale):
            fallback[(stale & (numbers != ABSENT)).any(axis=0)] = STALE
        self.windows.totals_at(numbers.take(plan.searched_kind, 0), edges, totals[:searched])
        plan.fill_windows(values, totals)

    # -- the control plane ---------------------------------------------------------------------------------------------

    def apply_outcome(self, outcome: Outcome) -> bool:
        """Mark a transaction as fraud, or take that back; True when a window changed. Raises UnknownTransaction."""
        if outcome.transaction_id in self.reported:
            return not outcome.is_fraud and self._take_back(outcome.transaction_id)
        place = self._place(outcome)
        return outcome.is_fraud and self.mark_fraud(outcome.transaction_id, place)

    def mark_fraud(self, transaction_id: str, place: Place) -> bool:
        """Count a transaction as fraud in every bucket of its own that is kept, and remember that."""
        marked = tuple(series for series in place.series if self._adjust_fraud(series, place.tick, 1))
        if marked:
            self.reported.add(transaction_id, Place(place.tick, marked))
        return bool(marked)

    def _take_back(self, transaction_id: str) -> bool:
        place = self.reported.pop(transaction_id)
        if place is None:
            return False
        changed = [self._adjust_fraud(series, place.tick, -1) for series in place.series]
        return any(changed)

    def _adjust_fraud(self, series: int, tick: int, delta: int) -> bool:
        return self.windows.adjust(series, tick, self.plan.fraud_column, delta)

    def _is_live(self, place: Place) -> bool:
        return any(self.windows.keeps(series, place.tick) for series in place.series)

    def _place(self, outcome: Outcome) -> Place:
        given = [(self.series[kind], outcome.ids.get(self.plan.entities[kind], "")) for kind in self._fraud_kinds]
        if outcome.event_time_ns is not None and any(name for _, name in given):
            series = tuple(index[name] for index, name in given if name and name in index)
            return Place(outcome.event_time_ns // self.schema.tick_ns, series)
        place = self.decisions.find(outcome.transaction_id)
        if place is None:
            wanted = " and ".join(self.plan.fraud_entities) or "no entity"
            raise UnknownTransaction(
                f"transaction {outcome.transaction_id!r} is not among the recent decisions: "
                f"send its event_time and {wanted} with the outcome"
            )
        return place

    def put_profile(self, entity: str, id: str, values: Mapping[str, float]) -> None:
        """Store profile values of one entity; the last value wins. Raises FeaturesRefused and then stores nothing."""
        self.profiles.put(entity, id, values)

    def read_entity(self, entity: str, id: str, at_ns: int | None = None) -> EntityView:
        """The features of one entity at ``at_ns``, None = at its latest event. Raises FeaturesRefused."""
        if entity not in ENTITIES:
            raise FeaturesRefused(f"{entity!r} is not a kind of entity: {', '.join(ENTITIES)}")
        values, defaulted = self.profiles.read(entity, id)
        if entity not in self.plan.entities:
            return EntityView(values, defaulted, None, 0)
        kind = self.plan.entities.index(entity)
        series = self.series[kind].get(id, ABSENT)
        latest = self.windows.latest(series)
        tick = latest if at_ns is None else at_ns // self.schema.tick_ns
        values |= self._windows_at(kind, series, tick)
        seen = latest != FIRST
        return EntityView(values, defaulted, latest * self.schema.tick_ns if seen else None, self.windows.kept(series))

    def _windows_at(self, kind: int, series: int, tick: int) -> dict[str, float]:
        """The window features of one series at a tick, by feature name."""
        plan = self.plan
        edges = tick - np.append(plan.searched_ticks, np.zeros_like(plan.reach))
        edges = np.maximum(edges, self.windows.latest(series) - self._keep[kind, 0])
        kinds = np.append(plan.searched_kind, np.arange(len(plan.reach)))
        totals = np.empty((len(edges), 1, plan.columns), np.int64)
        self.windows.totals_at(np.where(kinds == kind, series, ABSENT), edges, totals.reshape(-1, plan.columns))
        values = np.zeros((len(self.schema.features), 1))
        plan.fill_windows(values, totals)
        entity = plan.entities[kind]
        return {
            name: float(value)
            for name, value, feature in zip(self.schema.names, values[:, 0], self.schema.features, strict=True)
            if isinstance(feature, Window) and feature.entity == entity
        }


def _chosen(values: list[Any], rows: Sequence[int], whole: bool) -> list[Any]:
    return values if whole else [values[row] for row in rows]


def _crowds(numbers: list[int]) -> dict[int, list[int]]:
    """The series that occur more than once, and ABSENT, with their rows."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        rows.setdefault(number, []).append(row)
    return {number: mine for number, mine in rows.items() if len(mine) > 1 or number == ABSENT}
