"""The batch log's writer: every closed batch with its features and answers, appended by a background thread.

    scoring loop    append(batch, features, answers)   a bounded queue; full means dropped and counted
    log thread      joins what waits into one RecordBatch, serialises it, writes it at once, rotates
    reader          log_file.read_log                  splits it into the batches that were appended

A file is complete up to its last whole write: ``kill -9`` loses the batches of the last ``flush_seconds``, and at worst
leaves a cut tail that the reader steps over and reports. The log survives the process, not the machine: nothing is
synced to disk.
"""

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from fraudgate.audit.log_file import METADATA_KEYS, feature_names, log_schema, named_metadata
from fraudgate.audit.rotation import RotatedFiles
from fraudgate.clock import monotonic_ns
from fraudgate.errors import ConfigError
from fraudgate.latency.timeline import Timeline
from fraudgate.limits import MILLISECOND_NS
from fraudgate.transaction import ANSWER_DTYPE, REQUEST_SCHEMA, Answers, Float64, Request, answer_batch, record

ROTATE_BYTES = 64 << 20
QUEUE_BATCHES_MAX = 256
FLUSH_SECONDS = 0.1
CLOSE_SECONDS_MAX = 5.0
# Bounds how long one flush holds the interpreter: 32 full batches are joined in under 0.2 ms.
JOINED_BATCHES_MAX = 32
NOTED_WRITE_NS = MILLISECOND_NS
"""Writes that take longer stand in the timeline."""

_log = logging.getLogger(__name__)

_Pending: TypeAlias = tuple[int, int, int, pa.RecordBatch, Float64, Answers]


class BatchLog:
    """Appends batches to files in ``directory``, at about a microsecond a batch for the caller, who sees no IO error.

    metadata: ``METADATA_KEYS`` (and more, if wanted), written into every file.
    queue_batches_max: batches that may wait for the log thread; further ones are dropped and counted.
    flush_seconds: how often the log thread writes; sooner when a quarter of the queue is taken.
    files_max: the oldest files over this number are deleted when a new one is made; None keeps all.
    ConfigError: the directory cannot be made or written to.
    """

    def __init__(
        self,
        directory: Path | str,
        metadata: Mapping[str, str],
        rotate_bytes: int = ROTATE_BYTES,
        queue_batches_max: int = QUEUE_BATCHES_MAX,
        files_max: int | None = None,
        flush_seconds: float = FLUSH_SECONDS,
        timeline: Timeline | None = None,
    ) -> None:
        missing = set(METADATA_KEYS) - set(metadata)
        assert not missing, f"the batch log's metadata lacks {sorted(missing)}"
        self.run = token_hex(8)
        """Names this process in every file."""
        self._metadata = {**metadata, "run": self.run}
        self._features = len(feature_names(metadata))
        self._schema = log_schema(self._features)
        self._files = RotatedFiles(_made(Path(directory)), rotate_bytes, files_max)
        self._queue: deque[_Pending] = deque()
        self._queue_batches_max = queue_batches_max
        self._flush_seconds = flush_seconds
        self._timeline = timeline or Timeline()
        # One writer each: the scoring loop counts what it appended and refused, the log thread the rest.
        self._appended = self._refused = 0
        self._written = self._lost = self._next_sequence = 0
        self._reported = False
        self._warm_up()
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<BatchLog {self._files.directory} [{self.written} written, {self.dropped} dropped]>"

    def _warm_up(self) -> None:
        """The first conversion makes PyArrow look for pandas: 10 ms that must not fall between two batches."""
        nothing = pa.RecordBatch.from_pylist([], REQUEST_SCHEMA)
        self._join([(0, 0, 0, nothing, np.zeros((0, self._features)), np.zeros(0, ANSWER_DTYPE))])

    def append(self, batch: Request, features: Float64, answers: Answers, closed_ns: int, idle_ns: int = 0) -> bool:
        """Log one closed batch; the arrays belong to the log from here on. False: dropped, and counted.

        batch: or what makes it; schema ``REQUEST_SCHEMA``, every entry of the batch in arrival order, at least one.
        features: [rows, F], a row of NaN where none were gathered. answers: [rows] of ``ANSWER_DTYPE``.
        closed_ns, idle_ns: of the ``ClosedBatch``.
        """
        batch = record(batch)
        rows = batch.num_rows
        assert features.shape == (rows, self._features), "features must be [rows, F]"
        assert len(answers) == rows > 0, "one answer per entry, at least one entry"
        assert answers.dtype == ANSWER_DTYPE, "answers must be rows of ANSWER_DTYPE"
        sequence = self._appended
        self._appended = sequence + 1
        waiting = len(self._queue)
        if waiting >= self._queue_batches_max or self._closed:
            self._refused += 1
            return False
        if waiting == self._queue_batches_max // 4:
            self._wake.set()
        self._queue.append((sequence, closed_ns, idle_ns, batch, features, answers))
        return True

    @property
    def waiting(self) -> int:
        """Batches that the log thread has not taken yet."""
        return len(self._queue)

    @property
    def written(self) -> int:
        """Batches handed to the operating system."""
        return self._written

    @property
    def dropped(self) -> int:
        """Batches that will not be in the log: the queue was full, or a write failed."""
        return self._refused + self._lost

    def close(self, seconds_max: float = CLOSE_SECONDS_MAX) -> int:
        """Write what waits and end the file, within ``seconds_max``; returns how many batches the log lacks."""
        if not self._closed:
            self._closed = True
            self._wake.set()
            atexit.unregister(self.close)
            self._thread.join(seconds_max)
        lacking = self._appended - self._written
        if self._thread.is_alive():
            _log.error("batch log: given up after %g s, %d batches not written", seconds_max, lacking)
        return lacking

    def _run(self) -> None:
        # It polls, and only a filling queue wakes it: to wake a thread costs the scoring loop more than the rest of
        # append(), and what waits together is written together, at a fraction of the cost.
        while not self._closed:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self._flush()
        self._flush()
        self._end()

    def _flush(self) -> None:
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), JOINED_BATCHES_MAX))]
            try:
                message = memoryview(self._join(group).serialize())
                self._write(message, group[0][0])
            except (OSError, ValueError, pa.ArrowException) as error:
                self._lost += len(group)
                self._report(error)
            else:
                self._written += len(group)
                self._next_sequence = group[-1][0] + 1

    def _write(self, message: memoryview, first_sequence: int) -> None:
        started_ns = monotonic_ns()
        try:
            self._files.write(message, partial(self._header, first_sequence))
        finally:
            ended_ns = monotonic_ns()
            if ended_ns - started_ns >= NOTED_WRITE_NS:
                self._timeline.note("log_write", started_ns, ended_ns, f"{len(message):,} bytes")

    def _end(self) -> None:
        try:
            self._files.finish()
            if self._next_sequence < self._appended:  # a file without rows shows that the last batches were dropped
                self._files.write(memoryview(b""), partial(self._header, self._appended))
                self._files.finish()
        except OSError as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._reported:
            self._reported = True
            _log.error("batch log: dropping batches, cannot write to %s: %s", self._files.directory, error)

    def _header(self, first_sequence: int) -> memoryview:
        metadata = named_metadata({**self._metadata, "first_sequence": str(first_sequence)})
        return memoryview(self._schema.with_metadata(metadata).serialize())

    def _join(self, group: Sequence[_Pending]) -> pa.RecordBatch:
        sequences, closed_ns, idle_ns, batches, features, answers = zip(*group, strict=True)
        rows = [batch.num_rows for batch in batches]
        values = pa.FixedSizeListArray.from_arrays(
            pa.array(np.concatenate(features).reshape(-1)), type=self._schema.field("features").type
        )
        # Joined as bytes: NumPy copies structured rows field by field, a hundred times slower.
        rows_bytes = b"".join([one.tobytes() for one in answers])
        answered = answer_batch(np.frombuffer(rows_bytes, ANSWER_DTYPE))
        per_batch = [pa.array(np.repeat(np.array(one, np.int64), rows)) for one in (sequences, closed_ns, idle_ns)]
        columns = [*pa.concat_batches(batches).columns, values, *answered.columns, *per_batch]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"log.dir {directory}: cannot be made: {error.strerror}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"log.dir {directory}: may not be written to by this user")
    return directory
