"""The batch log's files: what stands in one, and how it is read back.

A file is an Arrow IPC stream, ``batches-000001.arrows`` and on. One row is one entry: the columns of
``REQUEST_SCHEMA``, ``features``, the columns of ``ANSWER_SCHEMA`` (``answer_`` before a name that the request has too),
and, equal over the rows of a batch, ``batch_sequence``, ``closed_ns`` and ``idle_ns``. One RecordBatch of the stream
holds several batches. ``batch_sequence`` counts what was appended, dropped batches included, so a drop shows as a gap.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fraudgate.audit.rotation import END_OF_STREAM, numbered_files
from fraudgate.errors import SnapshotError
from fraudgate.transaction import ANSWER_SCHEMA, REQUEST_SCHEMA, Float64, Int64

METADATA_KEYS = (
    "gate_policy",
    "gate_ns",
    "batch_rows_max",
    "feature_names",  # joined by ","
    "schema_fingerprint",
    "ruleset_version",
    "model",
)
"""What a log says of the service that wrote it. The writer adds ``run`` and ``first_sequence``."""

_PREFIX = "fraudgate."
_FORMAT_KEY, _FORMAT = _PREFIX + "batch_log", "1"
_BATCH_NAMES = ("batch_sequence", "closed_ns", "idle_ns")
_FEATURES_AT = len(REQUEST_SCHEMA)
_ANSWERS_AT = _FEATURES_AT + 1
_BATCH_AT = _ANSWERS_AT + len(ANSWER_SCHEMA)
_CONTINUATION = END_OF_STREAM[:4]
# Every way in which PyArrow says that bytes are not what they should be.
_UNREADABLE = (OSError, ValueError, pa.ArrowException)


def log_schema(features: int) -> pa.Schema:
    """The columns of a log whose rows have ``features`` features."""
    answers = [f.with_name(f"answer_{f.name}") if f.name in REQUEST_SCHEMA.names else f for f in ANSWER_SCHEMA]
    values = pa.field("features", pa.list_(pa.field("item", pa.float64(), nullable=False), features), nullable=False)
    return pa.schema(
        [*REQUEST_SCHEMA, values, *answers, *(pa.field(name, pa.int64(), nullable=False) for name in _BATCH_NAMES)]
    )


def named_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata as it stands in a file's schema, marked as a batch log's."""
    return {_FORMAT_KEY: _FORMAT} | {_PREFIX + key: value for key, value in metadata.items()}


def feature_names(metadata: Mapping[str, str]) -> list[str]:
    """The names of the columns of ``features``, in order."""
    return [name for name in metadata["feature_names"].split(",") if name]


class LoggedBatch(NamedTuple):
    """One batch as it was appended; a view of what was read."""

    sequence: int
    closed_ns: int
    idle_ns: int
    request: pa.RecordBatch
    """Schema ``REQUEST_SCHEMA``, arrival order."""
    features: Float64
    """[rows, F], the names are ``LogFile.feature_names``; a row of NaN where none were gathered."""
    answers: pa.RecordBatch
    """Schema ``ANSWER_SCHEMA``."""


class LogFile:
    """One file of a log. Making it reads the header, iterating reads the batches.

    SnapshotError: not a batch log, of another version, or damaged elsewhere than at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_bytes = 0
        """After iteration: bytes of an unfinished write at the end; they hold no whole batch."""
        self.ended = False
        """After iteration: the writer ended the file; else it is still open or the writer was killed."""
        self.metadata = _read_metadata(path)
        """``METADATA_KEYS``, and what else the writer was given."""
        self.feature_names = feature_names(self.metadata)
        self.run = self.metadata["run"]
        """Names the process that wrote the file; sequences and stamps of two runs have nothing in common."""
        self.first_sequence = self.whole_number("first_sequence")
        """Of the first batch of the file."""

    def __iter__(self) -> Iterator[LoggedBatch]:
        with self._source() as source:
            reader = pa.ipc.open_stream(source)
            self._check(reader.schema)
            while (record := self._next(reader, source)) is not None:
                yield from _split(record, len(self.feature_names))

    def _source(self) -> pa.NativeFile:
        try:
            return pa.OSFile(str(self.path))
        except OSError as error:
            raise SnapshotError(f"{self.path}: {error}") from error

    def whole_number(self, key: str) -> int:
        """A metadata value that must be a whole number."""
        if not self.metadata[key].isdecimal():
            raise SnapshotError(f"{self.path}: {key} is {self.metadata[key]!r}, not a whole number")
        return int(self.metadata[key])

    def _check(self, schema: pa.Schema) -> None:
        if not schema.equals(log_schema(len(self.feature_names))):
            raise SnapshotError(f"{self.path}: other columns than this version writes; read it with the one that did")

    def _next(self, reader: pa.RecordBatchReader, source: pa.NativeFile) -> pa.RecordBatch | None:
        start, size = source.tell(), source.size()
        try:
            record = reader.read_next_batch()
        except StopIteration:
            record = None
        except _UNREADABLE as error:
            if source.tell() < size:
                raise SnapshotError(f"{self.path}: damaged at byte {start}: {error}") from error
            record = None
        if record is None:
            self._note_end(source, start, size)
            return None
        try:
            _validate(record)
        except _UNREADABLE as error:
            raise SnapshotError(f"{self.path}: damaged after byte {start}: {error}") from error
        return record

    def _note_end(self, source: pa.NativeFile, start: int, size: int) -> None:
        source.seek(start)
        self.ended = source.read(len(END_OF_STREAM)) == END_OF_STREAM
        if self.ended and source.tell() < size:
            raise SnapshotError(f"{self.path}: {size - source.tell()} foreign bytes after its end")
        self.cut_bytes = 0 if self.ended else size - start


def open_log(path: Path | str) -> list[LogFile]:
    """The files of a log directory, runs in the order of their first file; or one file.

    A file cut within its header holds nothing and is left out. SnapshotError: none there, or one is unreadable.
    """
    path = Path(path)
    if not path.exists():
        raise SnapshotError(f"{path}: no such batch log")
    paths = numbered_files(path) if path.is_dir() else [path]
    if not paths:
        raise SnapshotError(f"{path}: holds no batch log (batches-*.arrows); was log.dir set?")
    files = [LogFile(path) for path in paths if not _header_is_cut(path)]
    runs = {file.run: i for i, file in reversed(list(enumerate(files)))}
    return sorted(files, key=lambda file: runs[file.run])


def read_log(path: Path | str) -> Iterator[LoggedBatch]:
    """Every batch of a log directory or file, in order; ``open_log`` tells what is cut or missing."""
    for file in open_log(path):
        yield from file


def _header_is_cut(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(8)
    starts_so = head[:4] == _CONTINUATION[: len(head)]
    return starts_so and (len(head) < 8 or 8 + int.from_bytes(head[4:], "little") > path.stat().st_size)


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with pa.OSFile(str(path)) as source:
            named = pa.ipc.open_stream(source).schema.metadata or {}
        metadata = {key.decode(): value.decode() for key, value in named.items()}
    except _UNREADABLE as error:
        raise SnapshotError(f"{path}: not a batch log; move it out of the directory ({error})") from error
    if metadata.pop(_FORMAT_KEY, "") != _FORMAT:
        raise SnapshotError(f"{path}: not a batch log of format {_FORMAT}; move it out of the directory")
    metadata = {key.removeprefix(_PREFIX): value for key, value in metadata.items()}
    if missing := {*METADATA_KEYS, "run", "first_sequence"} - metadata.keys():
        raise SnapshotError(f"{path}: its header lacks {', '.join(sorted(missing))}")
    return metadata


def _validate(record: pa.RecordBatch) -> None:
    record.validate(full=True)
    for field, column in zip(record.schema, record.columns, strict=True):
        if column.null_count and not field.nullable:
            raise ValueError(f"{field.name} is null")


def _split(record: pa.RecordBatch, features: int) -> Iterator[LoggedBatch]:
    columns = record.columns
    request = pa.RecordBatch.from_arrays(columns[:_FEATURES_AT], schema=REQUEST_SCHEMA)
    values = columns[_FEATURES_AT].flatten().to_numpy().reshape(record.num_rows, features)
    answers = pa.RecordBatch.from_arrays(columns[_ANSWERS_AT:_BATCH_AT], schema=ANSWER_SCHEMA)
    sequence, closed_ns, idle_ns = (_int64(column) for column in columns[_BATCH_AT:])
    starts = [0, *(np.flatnonzero(np.diff(sequence)) + 1).tolist(), record.num_rows]
    for start, end in pairwise(starts):
        yield LoggedBatch(
            int(sequence[start]),
            int(closed_ns[start]),
            int(idle_ns[start]),
            request.slice(start, end - start),
            values[start:end],
            answers.slice(start, end - start),
        )


def _int64(column: pa.Array) -> Int64:
    values: Int64 = column.to_numpy()
    return values
