"""Bulk load: history into a store, columnar, with the same result as applying it row by row."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudgate.errors import FeaturesRefused
from fraudgate.features.outcomes import Place
from fraudgate.features.windows import ABSENT
from fraudgate.limits import AMOUNT_MINOR_MAX, EVENT_TIME_NS_MIN
from fraudgate.transaction import Bool, Int64

if TYPE_CHECKING:
    from fraudgate.features.embedded import EmbeddedStore

CHUNK_ROWS = 1 << 17
"""Rows merged at once: enough to spread the cost of touching each series, few enough for some 60 MB in passing."""


def load(store: "EmbeddedStore", batches: Iterable[Any], progress: Callable[[int], None] | None) -> int:
    """Apply history to ``store``; event times may be in any order and the store need not be empty.

    batches: pyarrow RecordBatches with event_time (timestamp, naive = UTC) and amount_minor, and where known currency
    (default the schema's), any of ENTITIES, is_fraud (null = not fraud) and transaction_id, which lets a fraud be taken
    back. Coverage then begins at the earliest event loaded, if that is earlier than before.
    progress: called with the rows done so far. Returns the rows loaded. Raises FeaturesRefused; what was loaded stays.
    """
    done = 0
    try:
        for table in _chunks(batches):
            _load_chunk(store, table)
            done += table.num_rows
            if progress:
                progress(done)
    except (FeaturesRefused, pa.ArrowException) as error:
        raise FeaturesRefused(f"after {done} rows: {error}") from error
    pa.default_memory_pool().release_unused()  # Arrow keeps what the batches took
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
                yield pa.Table.from_batches(waiting).unify_dictionaries()
                waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting).unify_dictionaries()


def _load_chunk(store: "EmbeddedStore", table: Any) -> None:
    event_time_ns, amount_minor = _event_times(table), _int64(table, "amount_minor", pa.int64())
    if event_time_ns.min() < EVENT_TIME_NS_MIN:
        raise FeaturesRefused("event_time must not be before 2000-01-01")
    if amount_minor.min() < 0 or amount_minor.max() > AMOUNT_MINOR_MAX:
        raise FeaturesRefused(f"amount_minor must be in 0..{AMOUNT_MINOR_MAX}")
    ticks = event_time_ns // store.schema.tick_ns
    increments = store.plan.increments(amount_minor, _paid(store, table))
    series = {
        entity: _series(table, entity, index) for entity, index in zip(store.plan.entities, store.series, strict=True)
    }
    frauds = _frauds(store, table)
    if len(frauds):
        increments[frauds, store.plan.fraud_column] = 1
    for numbers in series.values():
        known = np.flatnonzero(numbers != ABSENT)
        store.windows.merge(numbers[known], ticks[known], increments[known])
    if len(frauds) and "transaction_id" in table.column_names:
        places = np.stack([series[entity][frauds] for entity in store.plan.fraud_entities], axis=1).tolist()
        _remember(store, table["transaction_id"].take(frauds).to_pylist(), ticks[frauds].tolist(), places)
    earliest = int(event_time_ns.min())
    if store.coverage_start_ns is None or earliest < store.coverage_start_ns:
        store.set_coverage_start(earliest)


def _remember(store: "EmbeddedStore", ids: list[str | None], ticks: list[int], places: list[list[int]]) -> None:
    """Frauds that have an id count as reported: a repeat is a no-op, a reversal takes them back."""
    for name, tick, series in zip(ids, ticks, places, strict=True):
        if name:
            store.reported.add(name, Place(tick, tuple(number for number in series if number != ABSENT)))


def _column(table: Any, name: str) -> Any:
    if name not in table.column_names:
        raise FeaturesRefused(f"column {name!r} is missing; there are: {', '.join(table.column_names)}")
    return table[name]


def _event_times(table: Any) -> Int64:
    kind = _column(table, "event_time").type
    if not pa.types.is_timestamp(kind):
        raise FeaturesRefused(f"column 'event_time' must be a timestamp, not {kind}")
    return _int64(table, "event_time", pa.timestamp("ns", kind.tz))


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


def _frauds(store: "EmbeddedStore", table: Any) -> Int64:
    """The rows that are newly known as fraud; none when no window asks."""
    if not store.plan.fraud_entities or "is_fraud" not in table.column_names:
        return np.empty(0, np.int64)
    frauds = np.flatnonzero(table["is_fraud"].cast(pa.bool_()).fill_null(False).to_numpy())
    if "transaction_id" not in table.column_names:
        return frauds
    ids = table["transaction_id"].take(frauds).to_pylist()
    first = {name: row for row, name in reversed([*enumerate(ids)]) if name}  # a repeat within the chunk is a no-op
    new = [not name or (first[name] == row and name not in store.reported) for row, name in enumerate(ids)]
    return frauds[new]


def _series(table: Any, entity: str, index: Any) -> Int64:
    """The series of each row; ABSENT where the id is null or empty."""
    if entity not in table.column_names:
        return np.full(table.num_rows, ABSENT, np.int64)
    column = table[entity].combine_chunks()
    encoded = (column.cast(pa.utf8()) if pa.types.is_null(column.type) else column).dictionary_encode()
    numbers = np.array([*map(index.__getitem__, encoded.dictionary.cast(pa.utf8()).to_pylist()), ABSENT], np.int64)
    codes: Int64 = encoded.indices.fill_null(len(numbers) - 1).to_numpy()
    return numbers.take(codes)
