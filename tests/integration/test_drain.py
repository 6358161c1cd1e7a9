"""The end of a server: asked to, told to, and killed."""

import asyncio
import signal
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate.audit.log_file import open_log, read_log
from fraudgate.limits import DRAIN_NS_MAX, SECOND_NS
from fraudgate.v1 import models_pb2 as mb
from tests.integration.sabotaged import looping, sound
from tests.integration.server import (
    HELD_GATE,
    Child,
    end_of,
    end_of_row,
    read_to_end,
    request,
    serve,
    serve_child,
    serve_command_of,
    transaction,
    until,
)

pytestmark = pytest.mark.usefixtures("frontend")
Code = grpc.StatusCode
DRAIN_SECONDS_MAX = DRAIN_NS_MAX / SECOND_NS
SCORING = "fraudgate.v1.ScoringService"


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    return int((await HealthStub(channel).Check(HealthCheckRequest(service=service))).status)


async def drained(server: Child) -> int:
    """The exit status after a SIGTERM, which must come within the contract's time."""
    server.send(signal.SIGTERM)
    return await asyncio.wait_for(server.ended(), DRAIN_SECONDS_MAX)


# -- the order of a drain, in this process -----------------------------------------------------------------------------


async def test_during_the_notice_health_says_not_serving_and_service_is_normal(models: Path) -> None:
    async with serve(models, server={"drain_notice_seconds": 0.3}) as server:
        for service in ("", SCORING):
            assert await health(server.channel, service) == HealthCheckResponse.SERVING
        draining = server.start_drain()
        await until(lambda: not server.service._ready)
        end = await server.score(request("in the notice"))
        for service in ("", SCORING):
            assert await health(server.channel, service) == HealthCheckResponse.NOT_SERVING
            assert await health(server.control, service) == HealthCheckResponse.NOT_SERVING
        assert end.code is Code.OK
        assert not draining.done()
        assert await draining == 0
        assert server.lines[-2:] == ["draining", "drained"]


async def test_what_was_admitted_is_answered(models: Path) -> None:
    """The open batch, closed batches behind it, and those in the engine."""
    async with serve(models, batching=HELD_GATE) as server:
        held = server.hold()
        calls = await server.fill([transaction(f"queued {i}") for i in range(40)])
        alone = server.start_score(request("alone"))
        await until(lambda: server.queued == 41)
        draining = server.start_drain()
        await until(lambda: server.service.door.closed is not None)
        assert (await server.score(request("too late"))).code is Code.UNAVAILABLE
        held.let_go()
        for ends in [[await end_of(alone)], *await asyncio.gather(*calls)]:
            assert {end.code for end in ends} == {Code.OK}
        assert await draining == 0


async def test_open_streams_finish_what_was_read_and_end_unavailable(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        busy, quiet = server.score_stream(), server.score_stream()
        await quiet.write(request("before it fell quiet").SerializeToString())
        await until(lambda: server.queued == 1)
        for i in range(40):
            await busy.write(request(f"streamed {i}").SerializeToString())
        await until(lambda: server.service.parts.counters.batches == 1 and server.queued == 9)
        draining = server.start_drain()
        results, end = await read_to_end(busy)
        assert [each.transaction_id for each in results] == [f"streamed {i}" for i in range(40)]
        assert {end_of_row(each).code for each in results} == {Code.OK}
        assert (end.code, end.message) == (
            Code.UNAVAILABLE,
            "the server is draining; send the same transaction_id elsewhere or later",
        )
        results, end = await read_to_end(quiet)
        assert ([end_of_row(each).code for each in results], end.code) == ([Code.OK], Code.UNAVAILABLE)
        assert await draining == 0


async def test_a_stream_that_nobody_reads_does_not_hold_the_drain(models: Path) -> None:
    async with serve(models) as server:
        call = server.score_stream([request(f"unread {i}").SerializeToString() for i in range(500)])
        await until(lambda: server.service.parts.counters.batches > 0)
        assert await asyncio.wait_for(server.start_drain(), DRAIN_SECONDS_MAX) == 0
        call.cancel()


async def test_a_drain_that_takes_too_long_says_so(models: Path) -> None:
    async with serve(models, server={"drain_max_seconds": 0.05}) as server:
        held = server.hold()
        call = server.start_score(request("stuck"))
        await until(lambda: held.started == 1)
        assert await server.start_drain() == 1
        assert any("did not finish within 0.05 s" in line for line in server.lines)
        held.let_go()
        call.cancel()
        await server.service._finish()


# -- a process ---------------------------------------------------------------------------------------------------------


async def test_sigterm_answers_writes_everything_and_exits_0(models: Path, tmp_path: Path) -> None:
    sections = {"log": {"dir": str(tmp_path / "log")}, "state": {"dir": str(tmp_path / "state")}}
    async with serve_child(tmp_path, models, batching=HELD_GATE, **sections) as server:
        stream = server.score_stream()
        await stream.write(request("streamed").SerializeToString())
        waiting = server.start_rows([transaction(f"waiting {i}") for i in range(40)])
        decided = await server.score(request("fills the first batch", customer_id="C-waiting 0"))
        # 32 of the 42 are decided; whichever came last waits in the open batch for a gate of a minute.
        server.send(signal.SIGTERM)
        results, end = await read_to_end(stream)
        assert (end_of_row(*results).code, end.code) == (Code.OK, Code.UNAVAILABLE)
        assert {end.code for end in [*await waiting, decided]} == {Code.OK}
        assert await asyncio.wait_for(server.ended(), DRAIN_SECONDS_MAX) == 0
        assert server.said("snapshot written to")
        assert server.said("42 stored decisions")
        assert server.said("batch log closed: 2 batches written, 0 lost")
        assert server.lines[-1] == "drained"
    (log,) = open_log(tmp_path / "log")
    assert [batch.request.num_rows for batch in log] == [32, 10]
    assert log.ended
    async with serve_child(tmp_path, models, **sections) as server:
        assert await server.count("C-waiting 0") == 2
        (again,) = await server.score_rows([transaction("waiting 7")])
        assert again.response == (await waiting)[7].response


async def test_sigint_drains_too(models: Path, tmp_path: Path) -> None:
    async with serve_child(tmp_path, models) as server:
        server.send(signal.SIGINT)
        assert await asyncio.wait_for(server.ended(), DRAIN_SECONDS_MAX) == 0
        assert server.lines[-2:] == ["draining", "drained"]


async def test_sigterm_ends_the_check_of_a_version_at_once(tmp_path: Path) -> None:
    """The check is of a graph that never ends, for which its child has a minute."""
    sound().declaring(version="1").write(tmp_path / "models")
    endless = sound().declaring(version="2").ending(looping(1), turns=np.array(1 << 62), go=np.array(True))
    endless.write(tmp_path / "models")
    model = {"name": "handbook", "version": "1"}
    async with serve_child(tmp_path, tmp_path / "models", model=model) as server:
        loading = server.models.LoadModel(mb.LoadModelRequest(name="handbook", version="2"))
        await until(lambda: len(children_of(server.process._process.pid)) == 1)
        (check,) = children_of(server.process._process.pid)
        assert await drained(server) == 0
        assert server.lines[-1] == "drained"
        assert not Path(f"/proc/{check}").exists()
        with pytest.raises(grpc.aio.AioRpcError):
            await loading


def children_of(pid: int) -> list[int]:
    """The processes that this one started, in whatever thread."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def test_a_second_sigterm_exits_1_and_says_what_was_left(models: Path, tmp_path: Path) -> None:
    async with serve_child(tmp_path, models, batching=HELD_GATE, server={"drain_notice_seconds": 60.0}) as server:
        calls = [server.start_rows([transaction(f"{name} {i}") for i in range(24)]) for name in ("first", "second")]
        _, (waiting,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        # 32 of the 48 have their decision; both calls were admitted whole, so 16 wait for a gate of a minute.
        server.send(signal.SIGTERM)
        await until(lambda: server.said("draining"))
        server.send(signal.SIGTERM)
        assert await asyncio.wait_for(server.ended(), DRAIN_SECONDS_MAX) == 1
        assert "second signal: leaving at once with 16 transactions queued and 0 batches in flight" in server.lines[-1]
        with pytest.raises(AssertionError):
            await waiting


async def test_after_kill_9_the_log_is_readable_and_the_server_starts(models: Path, tmp_path: Path) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    sections = {"log": {"dir": str(log)}, "state": {"dir": str(state)}}
    async with serve_child(tmp_path, models, batching=HELD_GATE, **sections) as server:
        await server.score_rows([transaction(f"snapshot {i}") for i in range(32)])
        assert await drained(server) == 0
    async with serve_child(tmp_path, models, batching=HELD_GATE, **sections) as server:
        await server.score_rows([transaction(f"logged {i}") for i in range(64)])
        await until(lambda: len(list(read_log(log))) == 3)
        server.send(signal.SIGKILL)
        assert await server.ended() == -signal.SIGKILL
    first, second = open_log(log)
    assert [len(list(file)) for file in (first, second)] == [1, 2]
    assert (first.ended, second.ended) == (True, False)
    async with serve_child(tmp_path, models, batching=HELD_GATE, **sections) as server:
        # What the snapshot holds is there; what came after it is free to be sent again.
        assert (await server.count("C-snapshot 0"), await server.count("C-logged 0")) == (1, 0)
        ends = await server.score_rows([transaction(f"logged {i}") for i in range(32)])
        assert {end.code for end in ends} == {Code.OK}
        assert await drained(server) == 0
    assert [len(list(file)) for file in open_log(log)] == [1, 2, 1]


async def test_a_cut_snapshot_of_an_earlier_kill_is_left_aside(models: Path, tmp_path: Path) -> None:
    """A kill in the middle of the writing leaves a temporary file, and the snapshot of before."""
    sections = {"state": {"dir": str(tmp_path)}}
    async with serve(models, **sections) as server:
        first = await server.score(request("kept"))
    for path in list(tmp_path.iterdir()):
        (tmp_path / f".{path.name}.part").write_bytes(path.read_bytes()[:100])
    async with serve(models, **sections) as server:
        assert (await server.score(request("kept"))).body == first.body
        assert await server.count("C-kept") == 1


# -- what keeps a process from starting --------------------------------------------------------------------------------


async def test_a_damaged_snapshot_is_refused_by_name(models: Path, tmp_path: Path) -> None:
    async with serve(models, state={"dir": str(tmp_path / "state")}) as server:
        await server.score(request("kept"))
    for path in (tmp_path / "state").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with serve_command_of(tmp_path, models, {"state": {"dir": str(tmp_path / "state")}}) as (process, lines):
            assert await asyncio.to_thread(process._process.wait, 30) == 2
            await asyncio.to_thread(process._reader.join)
        assert any(str(path) in line for line in lines), lines
        assert not any("Traceback" in line for line in lines)
        path.write_bytes(whole)


@pytest.mark.parametrize("plane", ["data", "control", "ops"])
async def test_a_taken_port_is_refused_by_its_address(models: Path, tmp_path: Path, plane: str) -> None:
    listener = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    with serve_command_of(tmp_path, models, {"server": {f"{plane}_address": address}}) as (process, lines):
        assert await asyncio.to_thread(process._process.wait, 30) == 2
        await asyncio.to_thread(process._reader.join)
    assert any(address in line for line in lines), lines
    assert not any("Traceback" in line for line in lines)
    listener.close()
