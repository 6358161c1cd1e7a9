"""``fraudgate features``: real files, and a real server that restores or writes them."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudgate.cli import main
from fraudgate.v1 import features_pb2
from tests.integration.server import COUNT, NOW, Running, request, serve, until

END = datetime.fromisoformat(NOW)
HOUR = timedelta(hours=1)
ROWS = 60
CUSTOMERS = 3
AVERAGE = "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"
COUNT_1_DAY = "CUSTOMER_ID_NB_TX_1DAY_WINDOW"


def write_history(path: Path, first: int = 0, **changes: Any) -> Path:
    """Rows FIRST.. of a history that ends at NOW: one payment an hour, of customers C-0, C-1 and C-2 in turn."""
    numbers = range(first, first + ROWS)
    columns = {
        "transaction_id": [f"h{number}" for number in numbers],
        "event_time": pa.array([END - (2 * ROWS - 1 - number) * HOUR for number in numbers], pa.timestamp("ns", "UTC")),
        "amount_minor": [100 * number for number in numbers],
        "customer_id": [f"C-{number % CUSTOMERS}" for number in numbers],
        "terminal_id": ["T-1"] * ROWS,
        "is_fraud": [number % 10 == 0 for number in numbers],
    }
    pq.write_table(pa.table({name: values for name, values in {**columns, **changes}.items() if values}), path)
    return path


@pytest.fixture
def history(tmp_path: Path) -> list[Path]:
    """Two files, the later one first."""
    return [write_history(tmp_path / "b.parquet", ROWS), write_history(tmp_path / "a.parquet")]


def features(*words: object) -> int:
    """Run the verb; its exit status."""
    return main(["features", *map(str, words)])


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What the verb says with --json."""
    assert features(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def state(history: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A snapshot of the history."""
    assert features("load", *history, "--state", tmp_path / "state") == 0
    capsys.readouterr()
    return tmp_path / "state"


# -- load --------------------------------------------------------------------------------------------------------------


def test_load_says_what_it_loaded(history: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    loaded = answer(capsys, "load", *history, "--state", state)
    assert loaded.pop("events_per_second") > 0
    start = END - (2 * ROWS - 1) * HOUR
    assert loaded == {
        "rows": 2 * ROWS,
        "entities": {"customer_id": CUSTOMERS, "terminal_id": 1},
        "coverage_start": start.isoformat(),
        "whole_from": (start + timedelta(days=37)).isoformat(),  # 30 days, behind a label delay of 7
        "snapshot": str(state / "features.arrow"),
        "size_bytes": (state / "features.arrow").stat().st_size,
    }


def test_load_shows_progress_and_a_summary(
    history: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert features("load", *history, "--state", tmp_path / "state") == 0
    captured = capsys.readouterr()
    assert captured.err.count(f"loading history: {ROWS} events in") == 2
    assert captured.out.startswith(f"events    {2 * ROWS}, ")
    assert f"entities  {CUSTOMERS} customer_id, 1 terminal_id\n" in captured.out


def test_load_does_not_replace_a_snapshot(
    state: Path, history: Sequence[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (state / "features.arrow").read_bytes()
    assert features("load", *history, "--state", state) == 2
    assert f"{state / 'features.arrow'} exists" in capsys.readouterr().err
    assert (state / "features.arrow").read_bytes() == before


def test_load_names_the_file_that_is_wrong_and_writes_nothing(
    history: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, bad, lacking = tmp_path / "state", tmp_path / "bad.parquet", tmp_path / "lacking.parquet"
    bad.write_text("not Parquet")
    write_history(lacking, amount_minor=None)
    for file, problem in [
        (tmp_path / "absent.parquet", "is not a readable Parquet file"),
        (bad, "is not a readable Parquet file"),
        (lacking, "column 'amount_minor' is missing"),
    ]:
        assert features("load", *history, file, "--state", state) == 2
        message = capsys.readouterr().err
        assert str(file) in message
        assert problem in message
    assert features("load", *history, "--state", bad / "below") == 2
    assert f"--state {bad / 'below'}: cannot write" in capsys.readouterr().err
    assert not state.exists()


async def test_a_server_restores_what_was_loaded(models: Path, state: Path) -> None:
    async with serve(models, state={"dir": str(state)}) as server:
        assert any(line.startswith("restored <EmbeddedStore") for line in server.lines)
        assert await server.count("C-0") == 2 * ROWS // CUSTOMERS
        await server.score(request("new", customer_id="C-0"))
        assert await server.count("C-0") == 2 * ROWS // CUSTOMERS + 1


# -- dump --------------------------------------------------------------------------------------------------------------


def test_dump_reads_one_entity(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C-2 paid in the hours 2, 5, ... 119 of the history; the last day holds hours 96 to 119."""
    found = answer(capsys, "dump", "--state", state, "--entity", "customer_id", "--id", "C-2")
    assert (found["at"], found["latest_event_time"]) == (END.isoformat(), END.isoformat())
    assert (found["buckets"], found["stale"], found["defaulted"]) == (2 * ROWS // CUSTOMERS, False, [])
    last_day = range(98, 120, CUSTOMERS)
    assert found["values"][COUNT_1_DAY] == len(last_day)
    assert found["values"][AVERAGE] == pytest.approx(sum(last_day) / len(last_day))
    assert found["values"][COUNT] == 2 * ROWS // CUSTOMERS


def test_dump_reads_at_an_instant(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("dump", "--state", state, "--entity", "customer_id", "--id", "C-2", "--at")
    early = answer(capsys, *words, (END - 20 * HOUR).isoformat())
    assert early["values"][COUNT_1_DAY] == len([hour for hour in range(2, 100, 3) if 99 - 24 < hour <= 99])
    assert not early["stale"]
    assert answer(capsys, *words, (END - 25 * HOUR).isoformat())["stale"]
    assert features(*words, (END - 25 * HOUR).astimezone(UTC).isoformat().replace("+00:00", "Z")) == 0
    assert "STALE: events before this instant are no longer kept" in capsys.readouterr().out


def test_dump_prints_a_table(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert features("dump", "--state", state, "--entity", "terminal_id", "--id", "T-1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"terminal_id T-1 at {END.isoformat()}"
    assert [line.split()[0] for line in lines[1:-1]] == [
        f"TERMINAL_ID_{what}_{days}DAY_WINDOW" for days in (1, 7, 30) for what in ("NB_TX", "RISK")
    ]
    assert lines[-1].startswith(f"latest event {END.isoformat()}, {2 * ROWS} buckets kept")


def test_dump_says_which_profiles_were_never_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "small.toml"
    kinds = ['kind = "window"\naggregate = "count"\nwidth = "1d"', 'kind = "profile"\ndefault = 0.5']
    parts = [
        f'[[feature]]\nname = "{name}"\nentity = "customer_id"\n{kind}' for name, kind in zip("WP", kinds, strict=True)
    ]
    schema.write_text("\n".join(['name = "small"\ncurrency = "EUR"\ntick = "1s"', *parts]))
    options = ("--state", tmp_path / "state", "--schema", schema)
    assert features("load", write_history(tmp_path / "a.parquet"), *options) == 0
    capsys.readouterr()
    found = answer(capsys, "dump", *options, "--entity", "customer_id", "--id", "C-0")
    assert (found["values"]["P"], found["defaulted"]) == (0.5, ["P"])
    assert features("dump", *options, "--entity", "customer_id", "--id", "C-0") == 0
    assert "P  0.5  (default: never stored)" in capsys.readouterr().out


@pytest.mark.parametrize(("entity", "id"), [("customer_id", "C-9"), ("card_id", "C-0")])
def test_dump_of_an_unknown_entity_is_1(state: Path, capsys: pytest.CaptureFixture[str], entity: str, id: str) -> None:
    assert features("dump", "--state", state, "--entity", entity, "--id", id) == 1
    assert f"knows no {entity} {id!r}" in capsys.readouterr().err


def test_dump_of_a_wrong_state_is_2(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    who = ("--entity", "customer_id", "--id", "C-0")
    assert features("dump", "--state", tmp_path / "absent", *who) == 2
    assert features("dump", "--state", state, "--schema", "handbok", *who) == 2
    assert "did you mean 'handbook'" in capsys.readouterr().err
    for at in ("yesterday", "2026-03-01T00:00:00"):
        with pytest.raises(SystemExit) as left:
            features("dump", "--state", state, *who, "--at", at)
        assert left.value.code == 2
    assert "needs a time zone" in capsys.readouterr().err


# -- snapshot ----------------------------------------------------------------------------------------------------------


async def snapshot(server: Running, *words: object) -> int:
    return await asyncio.to_thread(features, "snapshot", "--target", f"127.0.0.1:{server.service.control_port}", *words)


async def test_a_snapshot_of_a_running_server_outlives_a_kill(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, kept = tmp_path / "state", tmp_path / "kept"
    async with serve(models, state={"dir": str(state)}) as server:
        first = await server.score(request("before"))
        assert await snapshot(server, "--json") == 0
        written = json.loads(capsys.readouterr().out)
        shutil.copytree(state, kept)  # what a kill would leave
        await server.score(request("after"))
        assert await snapshot(server) == 0
        assert "2 stored decisions; scoring stood still for" in capsys.readouterr().out
    assert written.pop("duration_ns") > 0
    size_bytes = sum(path.stat().st_size for path in kept.iterdir())
    assert written == {"directory": str(state.resolve()), "size_bytes": size_bytes, "stored_decisions": 1}

    async with serve(models, state={"dir": str(kept)}) as server:
        again = await server.score(request("before"))
        assert (again.replayed, again.body) == (True, first.body)
        assert (await server.count("C-before"), await server.count("C-after")) == (1, 0)


async def test_a_snapshot_never_holds_an_event_without_its_decision(models: Path, tmp_path: Path) -> None:
    """The batch in the engine has applied its events: the snapshot waits for its answer, the next batch for that."""

    async def write() -> features_pb2.SnapshotResponse:
        written: features_pb2.SnapshotResponse = await server.features.Snapshot(features_pb2.SnapshotRequest())
        return written

    state = tmp_path / "state"
    async with serve(models, state={"dir": str(state)}) as server:
        engine = server.hold()
        scored = asyncio.create_task(server.score(request("held")))
        await until(lambda: engine.started == 1)
        written = asyncio.create_task(write())
        await until(lambda: server.service.door.shell._pauses == 1)
        later = asyncio.create_task(server.score(request("later")))
        await until(lambda: server.queued == 1)
        assert not state.exists()
        engine.let_go()
        assert (await written).stored_decisions == 1
        assert not (await scored).replayed
        assert (await later).response.decision


async def test_without_a_state_dir_a_snapshot_is_refused(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(models) as server:
        assert await snapshot(server) == 2
    message = capsys.readouterr().err
    assert "FAILED_PRECONDITION" in message
    assert "set state.dir (FRAUDGATE_STATE__DIR)" in message


async def test_a_snapshot_that_cannot_be_written_costs_nothing_else(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    async with serve(models, state={"dir": str(state)}) as server:
        state.write_text("in the way")
        assert await snapshot(server) == 2
        assert "INTERNAL: cannot write the snapshot" in capsys.readouterr().err
        assert (await server.score(request("a"))).response.decision
        state.unlink()
        assert await snapshot(server) == 0


def test_a_server_that_is_not_there_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert features("snapshot", "--target", "127.0.0.1:1") == 2
    assert "127.0.0.1:1: no snapshot: UNAVAILABLE" in capsys.readouterr().err
