"""The idempotency table on disk: what a retry gets after a restart, and files that must not be read."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraudgate import state
from fraudgate.editions import Edition, Editions
from fraudgate.errors import SnapshotError
from fraudgate.frontend.codec import Renderer
from fraudgate.guardrails.reasons import RuleTexts, mark_texts
from fraudgate.idempotency import IdempotencyTable
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import ANSWER_DTYPE

ENTRIES_MAX, LIFETIME_NS = 2_048, 3_600 * SECOND_NS
NOW_NS, WALL_NS = 5 * SECOND_NS, 1_800_000_000 * SECOND_NS
EDITION = Edition("4fe1", "handbook", "7", "d" * 64, "int8", RuleTexts("0" * 12, (("r", "R", "Über."),), mark_texts()))
# Digests that end, begin and consist of zero bytes: a text type would cut them.
DIGESTS = [b"\xff" * 14 + b"\0\0", b"\0" * 15 + b"\1", b"\0" * 16]
IDS = ["tx-1", "tx-ü", "tx-😀"]


def filled() -> tuple[IdempotencyTable, Editions]:
    table, editions = IdempotencyTable(ENTRIES_MAX, LIFETIME_NS), Editions()
    claims = table.claim(IDS, DIGESTS, range(3), NOW_NS)
    answers = np.zeros(3, ANSWER_DTYPE)
    answers["decision"], answers["scored"], answers["score"] = [1, 2, 3], [True, False, True], [0.25, 0, 1]
    answers["edition"], answers["rules"] = editions.add(EDITION), [0, 1, 1 << 63]
    answers["sequence"], answers["answered_ns"] = [0, 1, 2**40], [2**62, 7, 8]
    table.store(claims.fresh_slots, answers)
    return table, editions


def restored(directory: Path, down_ns: int = 0) -> tuple[IdempotencyTable, Editions, int]:
    table, editions = IdempotencyTable(ENTRIES_MAX, LIFETIME_NS), Editions()
    return table, editions, state.restore(directory, table, editions, NOW_NS, WALL_NS + down_ns)


def rendered(table: IdempotencyTable, editions: Editions) -> list[bytes]:
    claims = table.claim(IDS, DIGESTS, range(3), NOW_NS)
    assert claims.replays == [0, 1, 2]
    return Renderer(editions).render(table.answers(claims.replay_slots), IDS)


def test_a_retry_after_a_restart_gets_the_same_bytes(tmp_path: Path) -> None:
    table, editions = filled()
    assert state.save(tmp_path, table, editions, NOW_NS, WALL_NS) == 3
    after, editions_after, count = restored(tmp_path)
    assert count == 3
    assert rendered(after, editions_after) == rendered(table, editions)
    assert editions_after.add(EDITION) == 2


def test_another_payload_still_conflicts_after_a_restart(tmp_path: Path) -> None:
    state.save(tmp_path, *filled(), NOW_NS, WALL_NS)
    after, _, _ = restored(tmp_path)
    assert after.claim(IDS, DIGESTS[::-1], range(3), NOW_NS).conflicts == [0, 2]


@pytest.mark.parametrize(("down_ns", "kept"), [(0, 3), (LIFETIME_NS - 1, 3), (LIFETIME_NS, 0), (-SECOND_NS, 3)])
def test_lifetimes_go_on_while_the_process_is_down(tmp_path: Path, down_ns: int, kept: int) -> None:
    """A wall clock that went back adds nothing."""
    state.save(tmp_path, *filled(), NOW_NS, WALL_NS)
    assert restored(tmp_path, down_ns)[2] == kept


def test_no_file_is_an_empty_table(tmp_path: Path) -> None:
    assert restored(tmp_path)[2] == 0
    assert restored(tmp_path / "absent")[2] == 0


def test_an_empty_table_is_saved_and_read(tmp_path: Path) -> None:
    assert state.save(tmp_path / "new", IdempotencyTable(ENTRIES_MAX), Editions(), NOW_NS, WALL_NS) == 0
    assert restored(tmp_path / "new")[2] == 0


def test_saving_again_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    table, editions = filled()
    state.save(tmp_path, IdempotencyTable(ENTRIES_MAX), Editions(), NOW_NS, WALL_NS)
    state.save(tmp_path, table, editions, NOW_NS, WALL_NS)
    assert [path.name for path in tmp_path.iterdir()] == [state.FILE_NAME]
    assert restored(tmp_path)[2] == 3


def test_a_save_that_was_cut_off_does_not_matter(tmp_path: Path) -> None:
    state.save(tmp_path, *filled(), NOW_NS, WALL_NS)
    (tmp_path / f".{state.FILE_NAME}.part").write_bytes(b"half")
    assert restored(tmp_path)[2] == 3


def saved_bytes(directory: Path) -> bytes:
    state.save(directory, *filled(), NOW_NS, WALL_NS)
    return (directory / state.FILE_NAME).read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 0.5, -1])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, cut: float) -> None:
    whole = saved_bytes(tmp_path)
    (tmp_path / state.FILE_NAME).write_bytes(whole[: cut if isinstance(cut, int) else int(len(whole) * cut)])
    with pytest.raises(SnapshotError, match=r"idempotency\.arrow: .*delete it to start with an empty table"):
        restored(tmp_path)


def rewrite(directory: Path, **metadata: str) -> None:
    """The saved file with other metadata."""
    changed = {key.encode(): value.encode() for key, value in metadata.items()}
    saved_bytes(directory)
    path = directory / state.FILE_NAME
    table = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
    table = table.replace_schema_metadata({**table.schema.metadata, **changed})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


BAD_METADATA = {
    "another version": {"format": "fraudgate-idempotency/0"},
    "no editions": {"editions": "{"},
    "editions that are none": {"editions": json.dumps({"1": {}})},
    "editions of another shape": {"editions": json.dumps({"1": {"texts": EDITION.texts.to_dict(), "name": "x"}})},
    "editions in a list": {"editions": "[]"},
    "no time": {"wall_ns": "noon"},
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_foreign_metadata_is_refused(tmp_path: Path, case: str) -> None:
    rewrite(tmp_path, **BAD_METADATA[case])
    with pytest.raises(SnapshotError):
        restored(tmp_path)
