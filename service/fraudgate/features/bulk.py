"""Bulk load: history into a store, columnar, with the same result as applying it row by row."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudgate.errors import FeaturesRefused
from fraudgate.features.outcomes import Place
from fraudgate.features.windows import ABSENT
from fraudgate.limits import AMOUNT_MINOR_MAX
from fraudgate.transaction import Bool, Int64

if TYPE_CHECKING:
    from fraudgate.features.embedded import EmbeddedStore

CHUNK_ROWS = 1 << 17
"""Rows merged at once: enough to spread the cost of touching each series, little enough to stay under 50 MB."""


def load(store: "EmbeddedStore", batches: Iterable[Any], progress: Callable[[int], None] | None) -> int:
    """Apply history to ``store``; event times may be in any order and the store need not be empty.

    batches: pyarrow RecordBatches with event_time (timestamp, naive = UTC) and amount_minor, and where known currency
    (default the schema's), any of ENTITIES, is_fraud (null = not fraud) and transaction_id, which lets a fraud be taken
    back. Coverage then begins at the earliest event loaded, if that is earlier than before.
    progress: called with the rows done so far. Returns the rows loaded. Raises FeaturesRefused; what was loaded stays.
    """
    done = 0
    for table in _chunks(batches):
        try:
            _load_chunk(store, table)
        except (FeaturesRefused, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FeaturesRefused(f"after {done} rows: {error}") from error
        done += table.num_rows
        if progress:
            progress(done)
    return done


def _chunks(batches: Iterable[Any]) -> Iterator[Any]:
    """Tables of at most CHUNK_ROWS rows, from batches of any size."""
    waiting: list[Any] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, CHUNK_ROWS - rows)
            waiting.append(part)
            rows += part.num_rows
            start += part.num_rows
            if rows == CHUNK_ROWS:
                yield pa.Table.from_batches(waiting)
                waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _load_chunk(store: "EmbeddedStore", table: Any) -> None:
    event_time_ns = _int64(table, "event_time", pa.timestamp("ns", tz=getattr(table["event_time"].type, "tz", None)))
    amount_minor = _int64(table, "amount_minor", pa.int64())
    if amount_minor.min() < 0 or amount_minor.max() > AMOUNT_MINOR_MAX:
        raise FeaturesRefused(f"amount_minor must be in 0..{AMOUNT_MINOR_MAX}")
    ticks = event_time_ns // store.schema.tick_ns
    increments = store.plan.increments(amount_minor, _paid(store, table))
    frauds = _frauds(store, table)
    if frauds is not None:
        increments[frauds, store.plan.fraud_column] = 1

    series = {
        entity: _series(table, entity, index) for entity, index in zip(store.plan.entities, store.series, strict=True)
    }
    for numbers in series.values():
        known = np.flatnonzero(numbers != ABSENT)
        store.windows.merge(numbers[known], ticks[known], increments[known])
    if frauds is not None and "transaction_id" in table.column_names:
        rows = np.flatnonzero(frauds)
        places = np.stack([series[entity][rows] for entity in store.plan.fraud_entities], axis=1).tolist()
        for id, tick, mine in zip(
            table["transaction_id"].take(rows).to_pylist(), ticks[rows].tolist(), places, strict=True
        ):
            if id:
                store.reported.add(id, Place(tick, tuple(number for number in mine if number != ABSENT)))
    earliest = int(event_time_ns.min())
    if store.coverage_start_ns is None or earliest < store.coverage_start_ns:
        store.set_coverage_start(earliest)


def _column(table: Any, name: str) -> Any:
    if name not in table.column_names:
        raise FeaturesRefused(f"column {name!r} is missing; there are: {', '.join(table.column_names)}")
    return table[name]


def _int64(table: Any, name: str, kind: Any) -> Int64:
    column = _column(table, name)
    if column.null_count:
        raise FeaturesRefused(f"column {name!r} has {column.null_count} nulls")
    numbers: Int64 = column.cast(kind).cast(pa.int64()).to_numpy()
    return numbers


def _paid(store: "EmbeddedStore", table: Any) -> Bool | None:
    if "currency" not in table.column_names:
        return None
    paid: Bool = pc.equal(table["currency"], store.schema.currency).fill_null(False).to_numpy()
    return None if paid.all() else paid


def _frauds(store: "EmbeddedStore", table: Any) -> Bool | None:
    """Which rows are newly known as fraud; None when no window asks."""
    if not store.plan.fraud_entities or "is_fraud" not in table.column_names:
        return None
    frauds: Bool = np.array(table["is_fraud"].cast(pa.bool_()).fill_null(False).to_numpy())
    if "transaction_id" in table.column_names and len(store.reported):
        rows = np.flatnonzero(frauds)
        ids = table["transaction_id"].take(rows).to_pylist()
        frauds[rows[[id in store.reported for id in ids]]] = False
    return frauds


def _series(table: Any, entity: str, index: Any) -> Int64:
    """The series of each row; ABSENT where the id is null or empty."""
    if entity not in table.column_names:
        return np.full(table.num_rows, ABSENT, np.int64)
    encoded = table[entity].combine_chunks().dictionary_encode()
    numbers = np.array([*map(index.__getitem__, encoded.dictionary.cast(pa.utf8()).to_pylist()), ABSENT], np.int64)
    codes = encoded.indices.fill_null(len(numbers) - 1).to_numpy()
    return numbers[codes]
