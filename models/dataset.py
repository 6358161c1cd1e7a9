"""Labelled rows with the features that serving would have gathered: traffic is replayed through the feature store."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fraudgate.demo.data import TRANSACTIONS_FILE, find_benchmark, read_benchmark
from fraudgate.errors import ConfigError
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Outcome
from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.progress import Progress
from fraudgate.simulator import simulate
from fraudgate.transaction import ENTITIES, Bool, Columns, Float32, Float64, Int64

SCHEMA = FeatureSchema.named("handbook")
HISTORY_SCHEMA = FeatureSchema.named("handbook_history")
"""The same features and eight more windows, for a model that has a long history to learn from."""
DAY_NS = DAY_SECONDS * SECOND_NS
BATCH_ROWS = 256  # where a row of the replay costs least; the size changes no value


@dataclass(frozen=True)
class Dataset:
    """Rows in event order."""

    features: Float64  # [n, F] in the order of the schema that they were replayed with
    day: Int64  # since 1970
    customer: npt.NDArray[np.generic]
    is_fraud: Bool

    def __len__(self) -> int:
        return len(self.day)


@dataclass(frozen=True)
class Town:
    """What the simulator is asked for. The dates are those of the benchmark's protocol."""

    seed: int
    customers: int = 5_000
    terminals: int = 10_000
    start: str = "2018-05-01"
    days: int = 106

    def events(self) -> pa.Table:
        """Its traffic, in bulk-load columns."""
        return simulate(self.seed, self.customers, self.terminals, self.days, self.start)


def benchmark_events(data: str | None) -> pa.Table:
    """The public benchmark in bulk-load columns. Raises ConfigError where it is not at hand."""
    folder = find_benchmark(data)
    if folder is None:
        raise ConfigError(f"no {TRANSACTIONS_FILE} here: name its folder with --data DIR or $FRAUDGATE_DATA")
    return read_benchmark(Path(folder))


def replay(events: pa.Table, first_day: int, schema: FeatureSchema = SCHEMA) -> Dataset:
    """The rows from ``first_day`` on, with the features of ``schema`` that serving would have gathered for each.

    ``events`` has the bulk-load columns, time-sorted, every label known. A fraud is applied right after its row, which
    changes nothing: the windows of the schema show it only when its label delay has passed.
    """
    times_ns = _int64(events["event_time"])
    first = int(np.searchsorted(times_ns, first_day * DAY_NS))
    store = EmbeddedStore(schema)
    store.bulk_load(events.slice(0, first).to_batches())
    rows = events.slice(first)
    return Dataset(
        features=np.concatenate(list(_gather(store, rows))),
        day=times_ns[first:] // DAY_NS,
        customer=rows["customer_id"].to_numpy().astype(str),
        is_fraud=np.asarray(rows["is_fraud"]).astype(np.bool_),
    )


def digest(features: Float32, labels: Bool) -> str:
    """SHA-256, hex, of labelled rows as the engine would see them."""
    return hashlib.sha256(features.tobytes() + labels.tobytes()).hexdigest()


def day_number(date: str) -> int:
    """Days since 1970 of a date such as "2018-07-25"."""
    return int(np.datetime64(date, "D").astype(np.int64))


def _gather(store: EmbeddedStore, events: pa.Table) -> Iterator[Float64]:
    with Progress("replaying traffic through the feature store", events.num_rows, "transactions") as progress:
        for start in range(0, events.num_rows, BATCH_ROWS):
            batch = events.slice(start, BATCH_ROWS)
            columns = _open(batch)
            yield store.apply_and_gather(columns, range(columns.rows)).values
            for row in np.flatnonzero(np.asarray(batch["is_fraud"])):
                store.apply_outcome(Outcome(columns.transaction_id[row], True))
            progress.advance(columns.rows)


def _open(batch: pa.Table) -> Columns:
    """Rows in bulk-load columns, as the store takes them."""
    rows = batch.num_rows
    no_stamps = np.zeros(rows, np.int64)
    return Columns(
        rows=rows,
        transaction_id=batch["transaction_id"].to_pylist(),
        currency=batch["currency"].to_pylist(),
        event_time_ns=_int64(batch["event_time"]),
        amount_minor=_int64(batch["amount_minor"]),
        ids={name: batch[name].to_pylist() if name in batch.column_names else [None] * rows for name in ENTITIES},
        attributes=None,
        arrival_ns=no_stamps,
        deadline_ns=no_stamps,
    )


def _int64(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column.cast(pa.int64()).to_numpy())
