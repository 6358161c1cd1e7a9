"""What outlives the process: the store's snapshot, beside it the idempotency table in one Arrow IPC file and, as JSON,
what live transactions are compared with where the model brings no reference of its own.

Each file is written whole (temporary file, fsync, rename) and read at start. A row of the table holds what renders the
stored answer to the same bytes; the editions that rows name are JSON in the metadata.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from fraudgate.clock import Clock
from fraudgate.drift.kept import LiveReference
from fraudgate.drift.watch import DriftWatch
from fraudgate.editions import Editions
from fraudgate.errors import SnapshotError
from fraudgate.features.snapshot import appearing_whole, write_whole
from fraudgate.features.store import FeatureStore
from fraudgate.idempotency import DIGEST_BYTES, IdempotencyTable
from fraudgate.transaction import ANSWER_DTYPE

FILE_NAME = "idempotency.arrow"
DRIFT_FILE_NAME = "drift.json"
_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.utf8(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("age_ns", pa.int64(), nullable=False),
        pa.field("answer", pa.binary(ANSWER_DTYPE.itemsize), nullable=False),
    ]
)


class Written(NamedTuple):
    """What a snapshot wrote, and how long that took."""

    directory: Path
    size_bytes: int
    stored_decisions: int
    duration_ns: int


def write(
    directory: Path,
    store: FeatureStore,
    table: IdempotencyTable | None,
    editions: Editions,
    clock: Clock,
    wall_ns: int,
    drift: DriftWatch | None = None,
) -> Written:
    """Write windows, outcomes, profiles, stored decisions and the live reference of drift, where there is one.

    ``clock`` is monotonic. Between two batches, or after the last.
    """
    started_ns = clock()
    size_bytes, stored = store.snapshot(directory).stat().st_size, 0
    if table is not None:
        stored = save(directory, table, editions, started_ns, wall_ns)
        size_bytes += (directory / FILE_NAME).stat().st_size
    kept = drift.kept() if drift is not None else None
    if kept is not None and (data := kept.to_json()) is not None:
        with appearing_whole(directory / DRIFT_FILE_NAME) as file:
            file.write(data)
        size_bytes += len(data)
    return Written(directory.resolve(), size_bytes, stored, clock() - started_ns)


def restore_drift(directory: Path, names: Sequence[str]) -> LiveReference | None:
    """The live reference that ``write`` left, for features called ``names``; None where there is no file.

    Raises SnapshotError for a damaged or foreign file.
    """
    path = directory / DRIFT_FILE_NAME
    if not path.exists():
        return None
    try:
        return LiveReference.from_json(path.read_bytes(), names)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); delete it to make a reference anew") from error


def save(directory: Path, table: IdempotencyTable, editions: Editions, now_ns: int, wall_ns: int) -> int:
    """Write the table's live answers; returns how many. ``now_ns`` is monotonic, ``wall_ns`` the wall clock."""
    ids, digests, ages_ns, answers = table.dump(now_ns)
    metadata = {
        "format": f"fraudgate-idempotency/1 {ANSWER_DTYPE.descr}",
        "wall_ns": str(wall_ns),
        "editions": json.dumps(editions.dump(set(answers["edition"].tolist()))),
    }
    schema = _SCHEMA.with_metadata(metadata)
    columns = [
        pa.array(ids, pa.utf8()),
        _fixed(digests, DIGEST_BYTES),
        pa.array(ages_ns, pa.int64()),
        _fixed(answers, ANSWER_DTYPE.itemsize),
    ]
    write_whole(directory / FILE_NAME, pa.RecordBatch.from_arrays(columns, schema=schema))
    return len(ids)


def restore(directory: Path, table: IdempotencyTable, editions: Editions, now_ns: int, wall_ns: int) -> int:
    """Read what ``save`` wrote into an empty table; returns how many answers; 0 where there is no file.

    Raises SnapshotError for a damaged or foreign file.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return 0
    try:
        with pa.memory_map(str(path)) as source:
            form = pa.ipc.open_file(source).read_all().combine_chunks()
            metadata = {key.decode(): value.decode() for key, value in (form.schema.metadata or {}).items()}
            if metadata.get("format") != f"fraudgate-idempotency/1 {ANSWER_DTYPE.descr}":
                raise SnapshotError(f"{path}: written by another version; delete it to start with an empty table")
            editions.load(json.loads(metadata["editions"]))
            down_ns = max(wall_ns - int(metadata["wall_ns"]), 0)
            digests = np.array(form["digest"].to_pylist(), f"S{DIGEST_BYTES}").view(f"V{DIGEST_BYTES}")
            answers = np.frombuffer(b"".join(form["answer"].to_pylist()), ANSWER_DTYPE)
            ages_ns = form["age_ns"].to_numpy() + down_ns
            table.load(form["transaction_id"].to_pylist(), digests, ages_ns, answers, now_ns)
    except (pa.ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); delete it to start with an empty table") from error
    return len(table)


def _fixed(values: np.ndarray, width: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
