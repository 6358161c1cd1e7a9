"""Snapshots: everything an embedded store knows, in one Arrow IPC file that is renamed into place.

The file holds one record batch of one row; every column is a list. Series are numbered by their position, from 1; 0
means "no such id". Buckets lie series after series, ascending, and only those that their series still keeps.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from fraudgate.errors import SnapshotError
from fraudgate.features.outcomes import Place
from fraudgate.transaction import Int64

if TYPE_CHECKING:
    from fraudgate.features.embedded import EmbeddedStore

FILE_NAME = "features.arrow"
FORMAT = "fraudgate-features/1"

_ITEMS = {
    "series_kind": pa.int8(),  # which of the schema's kinds of entity with windows, in the order of ENTITIES
    "series_id": pa.large_utf8(),
    "series_buckets": pa.int64(),  # how many buckets
    "bucket_tick": pa.int64(),
    "bucket_added": pa.int64(),  # one number per column of the totals, bucket after bucket
    "reported_id": pa.large_utf8(),
    "reported_tick": pa.int64(),
    "reported_marks": pa.int64(),  # how many series carry its mark
    "mark_series": pa.int64(),
    "decision_id": pa.large_utf8(),
    "decision_tick": pa.int64(),
    "decision_series": pa.int64(),  # one number per kind of entity with fraud windows, kind after kind
    "profile_entity": pa.large_utf8(),
    "profile_id": pa.large_utf8(),
    "profile_feature": pa.large_utf8(),
    "profile_value": pa.float64(),
}
_SCHEMA = pa.schema(
    [pa.field(name, pa.large_list(pa.field("item", kind)), nullable=False) for name, kind in _ITEMS.items()]
)


def write(store: "EmbeddedStore", directory: Path) -> Path:
    """Write ``store`` to ``directory``/features.arrow: temporary file, fsync, rename. Returns that path."""
    lists = _lists(store)
    coverage = store.coverage_start_ns
    schema = _SCHEMA.with_metadata(
        {
            "format": FORMAT,
            "schema_fingerprint": store.schema.fingerprint,
            "lateness_seconds_max": str(store.lateness_seconds_max),
            "coverage_start_ns": "" if coverage is None else str(coverage),
        }
    )
    row = [_one_list(lists[name], kind) for name, kind in _ITEMS.items()]
    path = directory / FILE_NAME
    write_whole(path, pa.RecordBatch.from_arrays(row, schema=schema))
    return path


def write_whole(path: Path, batch: pa.RecordBatch) -> None:
    """One batch as an Arrow IPC file that appears whole or not at all."""
    with appearing_whole(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


@contextmanager
def appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which stands at ``path`` from the end on: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read(store: "EmbeddedStore", directory: Path) -> None:
    """Fill a new store with what ``write`` left in ``directory``. Raises SnapshotError, saying what to delete."""
    path = directory / FILE_NAME
    remedy = f"restore it from a copy, or delete {path} and start cold or from history"
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
            metadata = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
            if metadata.get("format") != FORMAT or not batch.schema.equals(_SCHEMA):
                raise SnapshotError(f"{path} is not a feature snapshot of this version; {remedy}")
            if metadata["schema_fingerprint"] != store.schema.fingerprint:
                raise SnapshotError(
                    f"{path} was written under another feature schema "
                    f"({metadata['schema_fingerprint'][:12]}, now {store.schema.fingerprint[:12]}); "
                    f"serve with that schema, or delete {path} and start from history"
                )
            if int(metadata["lateness_seconds_max"]) < store.lateness_seconds_max:
                raise SnapshotError(
                    f"{path} keeps events for a lateness of {metadata['lateness_seconds_max']} s, "
                    f"less than the {store.lateness_seconds_max} s asked for; lower the setting, or delete {path}"
                )
            batch.validate(full=True)
            _fill(store, {name: batch.column(name).values for name in _ITEMS})
            if metadata["coverage_start_ns"]:
                store.set_coverage_start(int(metadata["coverage_start_ns"]))
    except (pa.ArrowException, OSError, KeyError, ValueError, IndexError) as error:
        raise SnapshotError(f"{path} cannot be read ({error}); {remedy}") from error


def _lists(store: "EmbeddedStore") -> dict[str, Any]:
    windows = store.windows
    kinds = np.zeros(windows.series_count, np.int8)
    ids = [""] * windows.series_count
    for kind, index in enumerate(store.series):
        for name, number in index.items():
            if name:
                kinds[number], ids[number] = kind, name
    buckets, ticks, added = windows.dump()
    reported = list(store.reported)
    decision_ids, decision_ticks, decision_series = store.decisions.dump()
    profiles = [(entity, who, name, value) for entity, who, values in store.profiles for name, value in values.items()]
    return {
        "series_kind": kinds[1:],
        "series_id": ids[1:],
        "series_buckets": buckets,
        "bucket_tick": ticks,
        "bucket_added": added.reshape(-1),
        "reported_id": [name for name, _ in reported],
        "reported_tick": [place.tick for _, place in reported],
        "reported_marks": [len(place.series) for _, place in reported],
        "mark_series": [series for _, place in reported for series in place.series],
        "decision_id": decision_ids,
        "decision_tick": decision_ticks,
        "decision_series": decision_series.reshape(-1),
        "profile_entity": [entity for entity, *_ in profiles],
        "profile_id": [who for _, who, *_ in profiles],
        "profile_feature": [name for *_, name, _ in profiles],
        "profile_value": [value for *_, value in profiles],
    }


def _one_list(values: Any, kind: Any) -> Any:
    items = values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)
    return pa.LargeListArray.from_arrays(pa.array([0, len(items)], pa.int64()), items)


def _fill(store: "EmbeddedStore", lists: dict[str, Any]) -> None:
    """Everything but coverage. Series are opened in the file's order, so they get the numbers that it uses."""
    for kind, name in zip(lists["series_kind"].to_pylist(), lists["series_id"].to_pylist(), strict=True):
        store.series[kind][name]
    ticks, added = _numbers(lists["bucket_tick"]), _numbers(lists["bucket_added"])
    store.windows.load(_numbers(lists["series_buckets"]), ticks, added.reshape(len(ticks), store.plan.columns))

    marks = iter(lists["mark_series"].to_pylist())
    reported = zip(*(lists[f"reported_{name}"].to_pylist() for name in ("id", "tick", "marks")), strict=True)
    for name, tick, count in reported:
        store.reported.add(name, Place(tick, tuple(islice(marks, count))))
    decision_ticks = _numbers(lists["decision_tick"])
    decision_series = _numbers(lists["decision_series"]).reshape(len(store.plan.fraud_entities), len(decision_ticks))
    store.decisions.load(lists["decision_id"].to_pylist(), decision_ticks, decision_series)
    profiles = (lists[f"profile_{name}"].to_pylist() for name in ("entity", "id", "feature", "value"))
    for entity, who, name, value in zip(*profiles, strict=True):
        store.profiles.put(entity, who, {name: value})


def _numbers(values: Any) -> Int64:
    numbers: Int64 = values.to_numpy()
    return numbers
