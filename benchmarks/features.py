"""The feature store's own cost: full batches of apply_and_gather on the handbook schema, and bulk load.

The traffic is the simulator's, of the benchmark's size: 5,000 customers, 10,000 terminals, 1.9 transactions a customer
and day. A batch is opened just before it is timed, as in the pipeline, so its own strings are warm and the store's
windows are not; the warm figure is the last batch again and again, with everything in the caches.
``python -m benchmarks.features [--json] [--profile]``.
"""

import argparse
import cProfile
import gc
import json
import pstats
import statistics
from time import thread_time_ns
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.traffic import CUSTOMERS, SEED, TERMINALS
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.simulator import simulate
from fraudgate.transaction import ENTITIES, REQUEST_SCHEMA, open_batch

DAYS, HISTORY_BATCH_ROWS = 75, 65_536


def measure(days: int = DAYS, batches: int = 2_000, profile: bool = False) -> dict[str, float]:
    """CPU microseconds per batch of 32 (median, mean, and warm), and events a second of bulk load."""
    traffic = simulate(SEED, CUSTOMERS, TERMINALS, days)
    history = traffic.num_rows - batches * BATCH_ROWS_MAX
    store = EmbeddedStore(FeatureSchema.named("handbook"))
    started_ns = thread_time_ns()
    store.bulk_load(traffic.slice(0, history).to_batches(HISTORY_BATCH_ROWS))
    load_ns = thread_time_ns() - started_ns
    made = [
        request_batch(traffic.slice(start, BATCH_ROWS_MAX))
        for start in range(history, traffic.num_rows, BATCH_ROWS_MAX)
    ]
    del traffic
    while not _is_plain(made[-1]):
        made.pop()
    gc.collect()  # as the service does when it starts
    gc.freeze()
    gc.disable()
    profiler = cProfile.Profile() if profile else None
    costs_ns = [_timed(store, batch, profiler) for batch in made]
    warm_us = _warm_us(store, made[-1])
    gc.enable()
    if profiler:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    return {
        "features_cpu_us_per_batch": round(statistics.median(costs_ns) / 1_000, 1),
        "features_cpu_us_per_batch_mean": round(statistics.fmean(costs_ns) / 1_000, 1),
        "features_cpu_us_per_batch_warm": round(warm_us, 1),
        "bulk_load_events_per_second": round(history / (load_ns / 1e9)),
    }


def request_batch(rows: pa.Table) -> pa.RecordBatch:
    """A request batch of the simulator's rows."""
    absent = pa.nulls(len(rows), pa.utf8())
    none = pa.array([[]] * len(rows), REQUEST_SCHEMA.field("attributes").type)
    zeros = pa.array(np.zeros(len(rows), np.int64))
    given = {name: rows[name].combine_chunks() for name in rows.column_names}
    columns = dict.fromkeys(ENTITIES, absent) | given | {"attributes": none, "arrival_ns": zeros, "deadline_ns": zeros}
    return pa.RecordBatch.from_arrays([columns[name] for name in REQUEST_SCHEMA.names], schema=REQUEST_SCHEMA)


def _timed(store: EmbeddedStore, batch: pa.RecordBatch, profiler: Any) -> int:
    columns, rows = open_batch(batch), range(batch.num_rows)
    if profiler:
        profiler.runcall(store.apply_and_gather, columns, rows)
        return 0
    started_ns = thread_time_ns()
    store.apply_and_gather(columns, rows)
    return thread_time_ns() - started_ns


def figures() -> dict[str, float]:
    """The figures of the results file."""
    return measure()


def _is_plain(batch: pa.RecordBatch) -> bool:
    """Whether a batch is full and nobody occurs twice in it: five batches out of six."""
    return all(len(batch[name].unique()) == BATCH_ROWS_MAX for name in ("customer_id", "terminal_id"))


def _warm_us(store: EmbeddedStore, batch: pa.RecordBatch, repeats: int = 15, calls: int = 100) -> float:
    columns, rows = open_batch(batch), range(batch.num_rows)
    costs_ns = []
    for _ in range(repeats):
        started_ns = thread_time_ns()
        for _ in range(calls):
            store.apply_and_gather(columns, rows)
        costs_ns.append(thread_time_ns() - started_ns)
    return min(costs_ns) / calls / 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--profile", action="store_true", help="print a profile of the batches instead of their cost")
    args = parser.parse_args()
    figures = measure(profile=args.profile)
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value:,}")


if __name__ == "__main__":
    main()
