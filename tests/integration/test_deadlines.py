"""Deadlines over the wire, kept by the server: these clients send one and do not enforce it, and the engine hangs."""

import asyncio
from pathlib import Path

import grpc
import pytest

from fraudgate import wheel
from fraudgate.frontend.aio import SERVICE
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.raw_http2 import DATA, END_STREAM, PATIENCE_SECONDS, RawConnection, grpc_message
from tests.integration.server import Running, request, serve, transaction, until

LACKING = pytest.mark.skipif(not wheel.INSTALLED, reason="the native front end is not built")
BOTH = pytest.mark.parametrize("frontend", ["aio", pytest.param("native", marks=LACKING)])
SCORE, SCORE_BATCH = f"/{SERVICE}/Score", f"/{SERVICE}/ScoreBatch"
LATE = str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
DECIDED = str(grpc.StatusCode.OK.value[0])
SHORT = {"grpc-timeout": "300m"}
LONG = {"grpc-timeout": "1M"}


async def ends(connection: RawConnection, *streams: int) -> list[str]:
    """The statuses that these calls end with."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [end.status for end in await connection.ends_of_calls(streams)]


async def started(server: Running, path: str, body: bytes, headers: dict[str, str]) -> RawConnection:
    """A connection whose call 1 is this one."""
    connection = await RawConnection.open(server.data_port)
    connection.start_call(path, headers)
    connection.write(DATA, END_STREAM, 1, grpc_message(body))
    return connection


@BOTH
async def test_a_call_ends_at_its_deadline_and_its_decision_is_kept(models: Path, frontend: str) -> None:
    async with serve(models, server={"frontend": frontend}) as server:
        held = server.hold()
        late = await started(server, SCORE, request("late").SerializeToString(), SHORT)
        await until(lambda: held.started == 1)
        assert await ends(late, 1) == [LATE]
        held.let_go()
        retry = await server.score(request("late"))
        assert retry.replayed
        assert await server.count("C-late") == 1
        await late.close()


@BOTH
async def test_a_batch_ends_at_its_deadline_and_its_decisions_are_kept(models: Path, frontend: str) -> None:
    rows = [transaction(f"late {i}") for i in range(3)]
    async with serve(models, server={"frontend": frontend}) as server:
        held = server.hold()
        body = pb.ScoreBatchRequest(transactions=rows).SerializeToString()
        late = await started(server, SCORE_BATCH, body, SHORT)
        await until(lambda: held.started == 1)
        assert await ends(late, 1) == [LATE]
        held.let_go()
        assert {end.code for end in await server.score_rows(rows)} == {grpc.StatusCode.OK}
        assert [await server.count(f"C-late {i}") for i in range(3)] == [1, 1, 1]
        assert server.total("fraudgate_idempotent_replays_total") == 3
        await late.close()


@BOTH
@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH])
async def test_a_call_that_waits_past_its_deadline_leaves_no_trace(models: Path, frontend: str, path: str) -> None:
    row = transaction("waiting")
    bodies = {
        SCORE: pb.ScoreRequest(transaction=row).SerializeToString(),
        SCORE_BATCH: pb.ScoreBatchRequest(transactions=[row]).SerializeToString(),
    }
    async with serve(models, server={"frontend": frontend}) as server:
        held = server.hold()
        ahead = await server.fill([transaction("ahead")])
        late = await started(server, path, bodies[path], SHORT)
        await until(lambda: server.queued == 2)
        assert await ends(late, 1) == [LATE]
        held.let_go()
        for call in ahead:
            assert {end.code for end in await call} == {grpc.StatusCode.OK}
        await until(lambda: server.queued == 0)
        assert await server.count("C-waiting") == 0
        assert not (await server.score(pb.ScoreRequest(transaction=row))).replayed
        await late.close()


@BOTH
@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH])
async def test_a_call_whose_message_does_not_come_ends_at_its_deadline(models: Path, frontend: str, path: str) -> None:
    async with serve(models, server={"frontend": frontend}) as server:
        silent = await RawConnection.open(server.data_port)
        silent.start_call(path, SHORT)
        assert await ends(silent, 1) == [LATE]
        await silent.close()


@BOTH
async def test_each_call_has_its_own_deadline(models: Path, frontend: str) -> None:
    """Of calls that share a connection and their batches, those end whose deadline comes; the others are decided."""
    async with serve(models, server={"frontend": frontend}) as server:
        held = server.hold()
        connection = await RawConnection.open(server.data_port)
        streams = range(1, 121, 2)
        for stream in streams:
            connection.start_call(SCORE, LONG if stream % 3 else SHORT, stream)
            body = request(f"call {stream}").SerializeToString()
            connection.write(DATA, END_STREAM, stream, grpc_message(body))
        late = [stream for stream in streams if stream % 3 == 0]
        assert set(await ends(connection, *late)) == {LATE}
        held.let_go()
        others = [stream for stream in streams if stream % 3]
        assert set(await ends(connection, *others)) == {DECIDED}
        await connection.close()


@BOTH
async def test_a_stream_ends_at_its_deadline(models: Path, frontend: str) -> None:
    async with serve(models, server={"frontend": frontend}) as server:
        held = server.hold()
        stream = await RawConnection.open(server.data_port)
        stream.start_call(f"/{SERVICE}/ScoreStream", SHORT)
        stream.write(DATA, 0, 1, grpc_message(request("streamed").SerializeToString()))
        await until(lambda: held.started == 1)
        assert await ends(stream, 1) == [LATE]
        held.let_go()
        assert (await server.score(request("streamed"))).replayed
        await stream.close()


@BOTH
async def test_a_watch_of_health_ends_at_its_deadline(models: Path, frontend: str) -> None:
    async with serve(models, server={"frontend": frontend}) as server:
        watch = await RawConnection.open(server.data_port)
        watch.start_call("/grpc.health.v1.Health/Watch", SHORT)
        watch.write(DATA, END_STREAM, 1, grpc_message(b""))
        assert await ends(watch, 1) == [LATE]
        await watch.close()
