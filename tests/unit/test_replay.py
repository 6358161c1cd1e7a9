"""Replay of a batch log: what it says of differences, gaps, cut files and logs that prove nothing."""

import argparse
import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.replay import Gap, replay_composition
from fraudgate.commands import replay as command
from fraudgate.errors import ConfigError, SnapshotError
from fraudgate.limits import MILLISECOND_NS
from fraudgate.transaction import ANSWER_DTYPE
from tests.unit.batch_logs import request_batch, until

GATE_NS = 5 * MILLISECOND_NS
METADATA = {
    "gate_policy": "fixed",
    "gate_ns": str(GATE_NS),
    "batch_rows_max": "32",
    "feature_names": "amount",
    "schema_fingerprint": "",
    "ruleset_version": "",
    "model": "",
}


def write_log(directory: Path, batches: list[list[int]], metadata: dict[str, str] = METADATA) -> None:
    """Log batches of entries with these stamps, each in a file of its own; ids tx-0, tx-1 and on."""
    log = BatchLog(directory, metadata, rotate_bytes=1, flush_seconds=0.001)
    ids = (f"tx-{i}" for i in count())
    for number, stamps_ns in enumerate(batches, start=1):
        rows = len(stamps_ns)
        batch = request_batch([next(ids) for _ in stamps_ns], stamps_ns)
        log.append(batch, np.full((rows, 1), np.nan), np.zeros(rows, ANSWER_DTYPE), closed_ns=0)
        until(lambda number=number: log.written == number)  # type: ignore[misc]
    assert log.close() == 0


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


# Six batches that the fixed gate draws: by the gate, one after the other.
TRUE = [[GATE_NS * 10 * batch + entry for entry in range(3)] for batch in range(1, 7)]
# The first two entries of the third batch are told to have been in the second.
FALSE = [TRUE[0], TRUE[1] + TRUE[2][:2], TRUE[2][2:], *TRUE[3:]]


def test_a_true_log_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, TRUE)
    assert run("--batches", tmp_path) == 0
    assert capsys.readouterr().out == "same: every batch is composed as logged (6 batches, 18 entries, 1 segments)\n"


def test_full_batches_and_the_gate_in_one_instant(tmp_path: Path) -> None:
    full = [GATE_NS] * 32
    write_log(tmp_path, [full, full, [GATE_NS, 2 * GATE_NS - 1], [2 * GATE_NS], [3 * GATE_NS]])
    found = replay_composition(tmp_path)
    assert (found.same, found.batches, found.rows) == (True, 5, 68)


def test_a_difference_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, FALSE)
    assert run("--batches", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "DIFFERENT: 2 batches are not composed as logged (6 batches, 18 entries, 1 segments)"
    assert lines[1].startswith("first difference: batch 1 of run ")
    assert lines[2:] == ["  logged    5 entries: tx-3 tx-4 ... tx-6 tx-7", "  replayed  3 entries: tx-3 tx-4 tx-5"]


def test_the_sides_of_a_gap_are_proved_separately(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, TRUE)
    for lost in (1, 3, 4):
        (tmp_path / f"batches-{lost:06d}.arrows").unlink()
    found = replay_composition(tmp_path)
    assert [gap[1:] for gap in found.gaps] == [(0, 1), (2, 2)]
    assert (found.same, found.batches, found.segments, found.missing) == (True, 3, 2, 3)
    assert run("--batches", tmp_path) == 0
    assert "gap: 2 batches from 2 on are not in the log" in capsys.readouterr().out


def test_a_difference_after_a_gap_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, FALSE)
    (tmp_path / "batches-000001.arrows").unlink()
    found = replay_composition(tmp_path)
    assert not found.same
    assert (found.differing, len(found.gaps)) == (2, 1)


def test_batches_missing_before_a_file_without_any_are_a_gap(tmp_path: Path) -> None:
    write_log(tmp_path, TRUE)
    (tmp_path / "batches-000005.arrows").unlink()
    last = tmp_path / "batches-000006.arrows"
    last.write_bytes(last.read_bytes()[:-100])
    found = replay_composition(tmp_path)
    assert [gap[1:] for gap in found.gaps] == [(4, 1)]
    assert (found.same, found.batches) == (True, 4)


def test_two_runs_are_two_segments_without_a_gap(tmp_path: Path) -> None:
    write_log(tmp_path, TRUE)
    write_log(tmp_path, TRUE[:2])  # the clock of another boot starts again
    found = replay_composition(tmp_path)
    assert (found.same, found.batches, found.segments, found.gaps) == (True, 8, 2, [])


def test_each_run_is_replayed_under_its_own_gate(tmp_path: Path) -> None:
    write_log(tmp_path, [[0, GATE_NS - 1]])
    write_log(tmp_path, [[0], [GATE_NS - 1]], {**METADATA, "gate_ns": str(GATE_NS - 1)})
    assert replay_composition(tmp_path).same


def test_a_cut_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, TRUE)
    last = tmp_path / "batches-000006.arrows"
    last.write_bytes(last.read_bytes()[:-100])
    assert run("--batches", tmp_path) == 0
    out = capsys.readouterr().out
    assert "5 batches, 15 entries" in out
    assert "cut: batches-000006.arrows ends in" in out
    assert "not ended: 1 runs still write or were killed" in out


def test_a_log_without_batches_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, TRUE[:1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert run("--batches", tmp_path) == 1
    assert "nothing is proved" in capsys.readouterr().out


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, TRUE)
    (tmp_path / "batches-000007.arrows").write_bytes((tmp_path / "batches-000002.arrows").read_bytes())
    with pytest.raises(SnapshotError, match="batch 1 comes after batch 5; is a file in the directory twice"):
        replay_composition(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("gate_policy", "lazy", "gate_policy 'lazy' is none that this version knows"),
        ("gate_ns", "0", "make no batcher"),
        ("gate_ns", "-5", "not a whole number"),
        ("batch_rows_max", "many", "not a whole number"),
    ],
)
def test_metadata_that_make_no_batcher_are_refused(tmp_path: Path, key: str, value: str, says: str) -> None:
    write_log(tmp_path, TRUE[:1], {**METADATA, key: value})
    with pytest.raises(SnapshotError, match=says):
        replay_composition(tmp_path)


def test_json_on_stdout_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log", FALSE)
    (tmp_path / "log" / "batches-000006.arrows").unlink()
    assert run("--batches", tmp_path / "log", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert run("--batches", tmp_path / "log", "--json", tmp_path / "found.json") == 1
    assert json.loads((tmp_path / "found.json").read_text()) == printed
    run_name = printed["first_difference"].pop("run")
    assert printed == {
        "same": False,
        "batches": 5,
        "rows": 15,
        "segments": 1,
        "differing": 2,
        "first_difference": {
            "sequence": 1,
            "logged_ids": ["tx-3", "tx-4", "tx-5", "tx-6", "tx-7"],
            "replayed_ids": ["tx-3", "tx-4", "tx-5"],
        },
        "missing": 0,
        "gaps": [],
        "cut_files": {},
        "unended_runs": 0,
    }
    assert len(run_name) == 16


def test_gaps_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, TRUE)
    (tmp_path / "batches-000002.arrows").unlink()
    assert run("--batches", tmp_path, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    (gap,) = printed["gaps"]
    assert Gap(**gap)[1:] == (1, 1)
    assert printed["missing"] == 1


def test_what_cannot_be_read_or_written_is_an_error_of_use(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no such batch log"):
        run("--batches", tmp_path / "absent")
    write_log(tmp_path / "log", TRUE[:1])
    with pytest.raises(ConfigError, match="cannot write"):
        run("--batches", tmp_path / "log", "--json", tmp_path / "no" / "such" / "directory.json")


def test_batches_is_required() -> None:
    with pytest.raises(SystemExit) as raised:
        run()
    assert raised.value.code == 2
