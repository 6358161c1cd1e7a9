"""The batch log's writer: what is appended is read back; what is dropped is counted and leaves a gap."""

import logging
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pytest

from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.log_file import open_log, read_log
from fraudgate.audit.rotation import RotatedFiles
from fraudgate.errors import ConfigError
from fraudgate.transaction import ENTITIES, answer_batch
from tests.unit.batch_logs import (
    FEATURES,
    METADATA,
    NEVER,
    Appended,
    assert_same,
    random_batch,
    until,
    write_log,
    write_one_by_one,
)

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def file_size_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow over ``size``: a write comes up short, the next fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def hanging_disk() -> Iterator[None]:
    """Inside, writes of the log's thread wait; on leaving they go through."""
    goes_on = threading.Event()
    write = RotatedFiles.write

    def late(files: RotatedFiles, message: memoryview, header: Callable[[], memoryview]) -> None:
        goes_on.wait()
        write(files, message, header)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RotatedFiles, "write", late)
        try:
            yield
        finally:
            goes_on.set()


def append_while_the_disk_hangs(log: BatchLog, count: int) -> list[bool]:
    """One batch is on its way to the disk, ``count`` more are appended."""
    with hanging_disk():
        log.append(*random_batch(1, 0))
        until(lambda: not log.waiting)
        return [log.append(*random_batch(1, number)) for number in range(1, count + 1)]


# What is appended is read back


@pytest.mark.parametrize("write", [write_log, write_one_by_one], ids=["joined", "one by one"])
def test_batches_are_read_back_as_they_were_appended(
    tmp_path: Path, write: Callable[[Path, list[Appended]], None]
) -> None:
    appended = [random_batch(rows, number) for number, rows in enumerate([1, 32, 7, 31, 1, 32])]
    write(tmp_path, appended)
    logged = list(read_log(tmp_path))
    assert [batch.sequence for batch in logged] == list(range(6))
    for batch, one in zip(logged, appended, strict=True):
        assert_same(batch, one)


def test_more_batches_than_are_joined_at_once(tmp_path: Path) -> None:
    appended = [random_batch(3, number) for number in range(75)]
    write_log(tmp_path, appended)
    for batch, one in zip(read_log(tmp_path), appended, strict=True):
        assert_same(batch, one)


def test_a_file_is_one_arrow_stream_with_documented_columns(tmp_path: Path) -> None:
    write_log(tmp_path, [random_batch(2, 1)])
    with pa.OSFile(str(tmp_path / "batches-000001.arrows")) as source:
        table = pa.ipc.open_stream(source).read_all()
    assert table.schema.names == [
        *("transaction_id", "currency", "event_time", "amount_minor", *ENTITIES, "attributes", "arrival_ns"),
        *("deadline_ns", "features", "status", "decision", "fallback", "score", "replayed", "error_field"),
        *("batch_rows", "edition", "rules", "sequence", "answer_arrival_ns", "taken_up_ns", "gathered_ns"),
        *("inferred_ns", "answered_ns", "batch_sequence", "closed_ns", "idle_ns"),
    ]
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["fraudgate.batch_log"] == "1"
    assert {key: metadata["fraudgate." + key] for key in METADATA} == METADATA


def test_a_file_tells_what_wrote_it(tmp_path: Path) -> None:
    write_log(tmp_path, [random_batch(2, 1)])
    (file,) = open_log(tmp_path)
    assert METADATA.items() <= file.metadata.items()
    assert tuple(file.feature_names) == FEATURES
    assert len(list(file)) == 1
    assert file.ended
    assert file.cut_bytes == 0


def test_answers_that_are_a_view_are_copied_whole(tmp_path: Path) -> None:
    batch, features, answers, closed_ns, idle_ns = random_batch(8, 1)
    wide = np.repeat(answers, 2)
    write_log(tmp_path, [(batch, features, wide[::2], closed_ns, idle_ns)])
    (logged,) = read_log(tmp_path)
    assert logged.answers.equals(answer_batch(answers))


def test_nothing_appended_leaves_no_file(tmp_path: Path) -> None:
    assert BatchLog(tmp_path / "log", METADATA).close() == 0
    assert list((tmp_path / "log").iterdir()) == []


# Rotation


def test_a_full_file_is_ended_and_the_next_one_begun(tmp_path: Path) -> None:
    appended = [random_batch(4, number) for number in range(5)]
    write_one_by_one(tmp_path, appended, rotate_bytes=1)
    files = open_log(tmp_path)
    assert [file.path.name for file in files] == [f"batches-{number:06d}.arrows" for number in range(1, 6)]
    assert [file.first_sequence for file in files] == [0, 1, 2, 3, 4]
    for file, one in zip(files, appended, strict=True):
        (batch,) = file
        assert_same(batch, one)
        assert file.ended
    assert [batch.sequence for batch in read_log(files[3].path)] == [3]


def test_the_oldest_files_go_when_there_are_more_than_files_max(tmp_path: Path) -> None:
    write_one_by_one(tmp_path, [random_batch(1, number) for number in range(6)], rotate_bytes=1, files_max=2)
    assert [batch.sequence for batch in read_log(tmp_path)] == [4, 5]


def test_a_restart_goes_on_in_new_files_under_another_run(tmp_path: Path) -> None:
    write_log(tmp_path, [random_batch(1, 1)])
    write_log(tmp_path, [random_batch(2, 2)])
    first, second = open_log(tmp_path)
    assert (first.path.name, second.path.name) == ("batches-000001.arrows", "batches-000002.arrows")
    assert first.run != second.run
    assert [batch.sequence for batch in read_log(tmp_path)] == [0, 0]


def test_two_logs_in_one_directory_keep_their_rows_apart(tmp_path: Path) -> None:
    logs = [BatchLog(tmp_path, METADATA, rotate_bytes=1, flush_seconds=0.001) for _ in range(2)]
    for count in range(1, 4):
        for log in logs:
            log.append(*random_batch(1, count))
            until(lambda log=log, count=count: log.written == count)  # type: ignore[misc]
    assert [log.close() for log in logs] == [0, 0]
    assert [batch.sequence for batch in read_log(tmp_path)] == [0, 1, 2, 0, 1, 2]


# Dropped and counted


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, METADATA, queue_batches_max=2, flush_seconds=0.001)
    assert append_while_the_disk_hangs(log, 5) == [True, True, False, False, False]
    assert log.dropped == 3
    assert log.close() == 3
    assert (log.written, log.dropped) == (3, 3)
    assert [batch.sequence for batch in read_log(tmp_path)] == [0, 1, 2]


def test_a_filling_queue_wakes_the_thread(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, METADATA, queue_batches_max=4, flush_seconds=NEVER)
    for number in range(3):
        assert log.append(*random_batch(1, number))
    until(lambda: log.written >= 2)
    log.append(*random_batch(1, 3))
    assert log.close() == 0


def test_drops_leave_a_gap_even_at_the_end(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, METADATA, queue_batches_max=2, flush_seconds=0.001)
    append_while_the_disk_hangs(log, 4)
    log.close()
    assert [(file.first_sequence, len(list(file)), file.ended) for file in open_log(tmp_path)] == [
        (0, 3, True),
        (5, 0, True),
    ]


def test_after_close_everything_is_dropped(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, METADATA)
    log.close()
    assert not log.append(*random_batch(1, 1))
    assert log.dropped == 1
    assert log.close() == 1


def test_a_full_disk_drops_counts_and_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    appended = [random_batch(32, number) for number in range(6)]
    log = BatchLog(tmp_path, METADATA, flush_seconds=0.001)
    log.append(*appended[0])
    until(lambda: log.written == 1)
    size = (tmp_path / "batches-000001.arrows").stat().st_size
    with caplog.at_level(logging.INFO), file_size_at_most(size + 100):
        for lost in (1, 2, 3):
            assert log.append(*appended[lost])
            until(lambda lost=lost: log.dropped == lost)  # type: ignore[misc]
    assert (tmp_path / "batches-000001.arrows").stat().st_size == size, "nothing torn stays behind"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "cannot write" in caplog.text
    log.append(*appended[4])  # there is room again
    until(lambda: log.written == 2)
    assert log.close() == 3
    first, last = read_log(tmp_path)
    assert (first.sequence, last.sequence) == (0, 4)
    assert_same(first, appended[0])
    assert_same(last, appended[4])


def test_a_disk_full_from_the_start_leaves_a_file_that_can_be_gone_on_with(tmp_path: Path) -> None:
    log = BatchLog(tmp_path, METADATA, flush_seconds=0.001)
    with file_size_at_most(3_000):
        log.append(*random_batch(32, 1))
        until(lambda: log.dropped == 1)
        assert open_log(tmp_path) == []
    log.append(*random_batch(32, 2))
    assert log.close() == 1
    assert [batch.sequence for batch in read_log(tmp_path)] == [1]


def test_a_batch_of_another_schema_is_lost_alone(tmp_path: Path) -> None:
    batch, *rest = random_batch(3, 1)
    log = BatchLog(tmp_path, METADATA, flush_seconds=0.001)
    log.append(batch.drop_columns(["currency"]), *rest)
    until(lambda: log.dropped == 1)
    log.append(batch, *rest)
    assert log.close() == 1
    assert [one.sequence for one in read_log(tmp_path)] == [1]


def test_close_gives_up_on_a_disk_that_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = BatchLog(tmp_path, METADATA)
    with hanging_disk():
        log.append(*random_batch(1, 1))
        log.append(*random_batch(1, 2))
        assert log.close(seconds_max=0.05) == 2
    assert "2 batches not written" in caplog.text
    until(lambda: log.written == 2)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"log\.dir .*file.*cannot be made"):
        BatchLog(tmp_path / "file", METADATA)


def test_our_own_mistakes_are_asserted(tmp_path: Path) -> None:
    batch, features, answers, closed_ns, idle_ns = random_batch(3, 1)
    with pytest.raises(AssertionError, match="gate_ns"):
        BatchLog(tmp_path, {key: value for key, value in METADATA.items() if key != "gate_ns"})
    log = BatchLog(tmp_path, METADATA)
    with pytest.raises(AssertionError, match="features"):
        log.append(batch, features[:, :2], answers, closed_ns, idle_ns)
    with pytest.raises(AssertionError, match="answer"):
        log.append(batch, features, answers[:2], closed_ns, idle_ns)
    with pytest.raises(AssertionError, match="entry"):
        log.append(batch[:0], features[:0], answers[:0], closed_ns, idle_ns)
    assert log.close() == 0


# Killed, or left without close


def test_kill_9_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    program = dedent("""
        import os, signal, sys
        from fraudgate.audit.batch_log import BatchLog
        from tests.unit.batch_logs import METADATA, random_batch, until
        log = BatchLog(sys.argv[1], METADATA, flush_seconds=0.001)
        for number in range(8):
            log.append(*random_batch(9, number))
        until(lambda: log.written == 8)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    (file,) = open_log(tmp_path)
    for number, batch in enumerate(file):
        assert_same(batch, random_batch(9, number))
    assert batch.sequence == 7
    assert (file.ended, file.cut_bytes) == (False, 0)


def test_a_process_that_exits_without_close_still_writes_everything(tmp_path: Path) -> None:
    program = dedent("""
        import sys
        from fraudgate.audit.batch_log import BatchLog
        from tests.unit.batch_logs import METADATA, random_batch
        log = BatchLog(sys.argv[1], METADATA)
        for number in range(8):
            log.append(*random_batch(9, number))
    """)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=60, check=True)
    assert [batch.sequence for batch in read_log(tmp_path)] == list(range(8))
