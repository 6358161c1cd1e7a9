"""Batches to log, logs on disk, and what they are compared by."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.log_file import LoggedBatch
from fraudgate.transaction import ANSWER_DTYPE, ENTITIES, REQUEST_SCHEMA, Answers, Float64, Status, answer_batch

FEATURES = ("amount", "count_1d", "mean_7d")
METADATA = {
    "gate_policy": "fixed",
    "gate_ns": "5000000",
    "batch_rows_max": "32",
    "feature_names": ",".join(FEATURES),
    "schema_fingerprint": "f" * 64,
    "ruleset_version": "0123456789ab",
    "model": "simulated/1",
}
NEVER = 3_600.0  # a flush period that leaves all writing to close()

Appended = tuple[pa.RecordBatch, Float64, Answers, int, int]


def random_batch(rows: int, number: int) -> Appended:
    """What one append() takes; different in every column, seeded by ``number``."""
    random = np.random.default_rng(number)
    columns: dict[str, list[object]] = {
        "transaction_id": [f"tx-{number}-{row}-é" for row in range(rows)],
        "currency": ["EUR"] * rows,
        "event_time": random.integers(0, 2**62, rows).tolist(),
        "amount_minor": random.integers(0, 10**12, rows).tolist(),
        "attributes": [[("risk", float(row))] * (row % 3) for row in range(rows)],
        "arrival_ns": (np.arange(rows) + 1_000 * number).tolist(),
        "deadline_ns": [0] * rows,
    }
    columns |= {name: [f"{name}-{row}" if row % 2 else None for row in range(rows)] for name in ENTITIES}
    features = random.normal(size=(rows, len(FEATURES)))
    features[::4] = np.nan
    answers = np.frombuffer(random.bytes(rows * ANSWER_DTYPE.itemsize), ANSWER_DTYPE).copy()
    answers["scored"] = np.arange(rows) % 5 > 0
    answers["replayed"] = False
    answers["score"] = random.random(rows)
    answers["status"] = random.choice([Status.OK, Status.CANCELLED, Status.DEADLINE_EXCEEDED], rows)
    batch = pa.RecordBatch.from_pydict(columns, schema=REQUEST_SCHEMA)
    return batch, features, answers, 1_000 * number + 500, number % 2 * (1_000 * number + 400)


def assert_same(logged: LoggedBatch, appended: Appended) -> None:
    request, features, answers, closed_ns, idle_ns = appended
    assert logged.request.equals(request)
    assert logged.features.tobytes() == features.tobytes()
    assert logged.answers.equals(answer_batch(answers))
    assert (logged.closed_ns, logged.idle_ns) == (closed_ns, idle_ns)


def write_log(directory: Path, appended: list[Appended], **options: object) -> None:
    log = BatchLog(directory, METADATA, flush_seconds=NEVER, **options)  # type: ignore[arg-type]
    assert all(log.append(*one) for one in appended)
    assert log.close() == 0


def write_one_by_one(directory: Path, appended: list[Appended], **options: object) -> None:
    """One write for each batch: what waits is written before the next is appended."""
    log = BatchLog(directory, METADATA, flush_seconds=0.001, **options)  # type: ignore[arg-type]
    for count, one in enumerate(appended, start=1):
        assert log.append(*one)
        until(lambda count=count: log.written == count)  # type: ignore[misc]
    assert log.close() == 0


def until(holds: Callable[[], bool]) -> None:
    """Wait for the log's thread."""
    give_up = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.0005)


def request_batch(ids: Sequence[str], arrivals_ns: Sequence[int]) -> pa.RecordBatch:
    """A request batch of which only ids and arrival stamps matter."""
    rows = len(ids)
    columns: dict[str, list[object]] = {
        "transaction_id": list(ids),
        "currency": ["EUR"] * rows,
        "event_time": [0] * rows,
        "amount_minor": [1] * rows,
        "attributes": [[]] * rows,
        "arrival_ns": list(arrivals_ns),
        "deadline_ns": [0] * rows,
    }
    return pa.RecordBatch.from_pydict(columns | {name: [None] * rows for name in ENTITIES}, schema=REQUEST_SCHEMA)
