"""The batch log's files: cut ones give what is whole, damaged and foreign ones are refused by name and place."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraudgate.audit.log_file import log_schema, open_log, read_log
from fraudgate.audit.rotation import numbered_files
from fraudgate.errors import SnapshotError
from fraudgate.transaction import REQUEST_SCHEMA
from tests.unit.batch_logs import METADATA, random_batch, write_log, write_one_by_one


def test_a_file_cut_anywhere_gives_the_whole_batches_before_the_cut(tmp_path: Path) -> None:
    appended = [random_batch(5, number) for number in range(3)]
    write_one_by_one(tmp_path, appended)
    path = tmp_path / "batches-000001.arrows"
    whole = path.read_bytes()
    ends = message_ends(whole)
    for size in sorted({*range(0, len(whole), 53), *(end + more for end in ends for more in (-1, 0, 1, 3, 4, 7))}):
        path.write_bytes(whole[:size])
        files = open_log(tmp_path)
        assert len(files) == (size >= ends[0])
        for file in files:
            complete = sum(end <= size for end in ends[1:4])
            assert [batch.sequence for batch in file] == list(range(complete))
            assert file.cut_bytes == (size - ends[complete] if size < len(whole) else 0)
            assert file.ended == (size == len(whole))


def message_ends(stream: bytes) -> list[int]:
    """Where the header, each RecordBatch and the stream end."""
    with pa.BufferReader(stream) as source:
        reader = pa.ipc.open_stream(source)
        ends = [source.tell()]
        for _ in reader:
            ends.append(source.tell())
    return ends


def foreign_stream(schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema):
        pass
    return sink.getvalue().to_pybytes()


MARKED = {f"fraudgate.{key}": value for key, value in {**METADATA, "batch_log": "1", "run": "r"}.items()}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"transaction_id,amount\n1,2\n", "not a batch log"),
        (b"\x00" * 64, "not a batch log"),
        (b"\xff" * 4 + b"\x08\x00\x00\x00" + b"\xff" * 64, "not a batch log"),
        (foreign_stream(REQUEST_SCHEMA), "not a batch log of format 1"),
        (foreign_stream(log_schema(3).with_metadata({**MARKED, "fraudgate.batch_log": "2"})), "of format 1"),
        (foreign_stream(log_schema(3).with_metadata(MARKED)), "its header lacks first_sequence"),
        (
            foreign_stream(log_schema(3).with_metadata({**MARKED, "fraudgate.first_sequence": "x"})),
            "not a whole number",
        ),
        (foreign_stream(log_schema(2).with_metadata({**MARKED, "fraudgate.first_sequence": "0"})), "other columns"),
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "batches-000001.arrows"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=says) as raised:
        list(read_log(tmp_path))
    assert str(path) in str(raised.value)


def test_damage_before_the_end_is_refused_with_its_place(tmp_path: Path) -> None:
    write_one_by_one(tmp_path, [random_batch(5, number) for number in range(3)])
    path = tmp_path / "batches-000001.arrows"
    whole = path.read_bytes()
    first = message_ends(whole)[0]
    path.write_bytes(whole[: first + 8] + b"\xee" * 16 + whole[first + 24 :])
    with pytest.raises(SnapshotError, match=f"damaged at byte {first}"):
        list(read_log(path))


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [random_batch(5, 1)])
    path = tmp_path / "batches-000001.arrows"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(SnapshotError, match="4 foreign bytes after its end"):
        list(read_log(path))


def test_damage_never_crashes_the_reader(tmp_path: Path) -> None:
    write_one_by_one(tmp_path, [random_batch(5, number) for number in range(2)])
    path = tmp_path / "batches-000001.arrows"
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(1)
    for place in random.integers(0, len(whole), 400).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with suppress(SnapshotError):
            assert len(list(read_log(path))) <= 10


@pytest.mark.parametrize(("name", "says"), [("absent", "no such batch log"), ("empty", "holds no batch log")])
def test_where_there_is_no_log(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SnapshotError, match=says):
        list(read_log(tmp_path / name))


def test_other_files_of_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("not a log")
    (tmp_path / "batches-1.arrows").write_text("not our name")
    write_log(tmp_path, [random_batch(1, 1)])
    assert [path.name for path in numbered_files(tmp_path)] == ["batches-000001.arrows"]
    assert len(list(read_log(tmp_path))) == 1
