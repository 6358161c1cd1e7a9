"""HTTP/2 and gRPC as strangers speak them to the native front end: what is no gRPC, what lies about its length, what is
compressed, what comes a byte at a time. Each ends as it should and disturbs nobody.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import h2.events
import pytest
import pytest_asyncio
from h2.errors import ErrorCodes

from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, request, transaction
from tests.native.http2_peer import (
    MIB,
    PREFACE,
    SCORE,
    SCORE_BATCH,
    SCORE_STREAM,
    SETTINGS,
    Ended,
    Numbers,
    Peer,
    frame,
    head,
    message,
)
from tests.native.http2_server import NativeRunning, serve_native, withstands

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")
pytestmark = pytest.mark.asyncio(loop_scope="module")

INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 4, 8, 12, 13
PATIENCE = 0.7
"""Seconds that the server gives a handshake, and a message."""
WAITING = 32
"""The least that a queue may hold."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path) -> AsyncIterator[NativeRunning]:
    """One server for the whole of it."""
    limits = {"handshake_seconds_max": PATIENCE, "message_seconds_max": PATIENCE}
    async with serve_native(models, ingress=limits) as running:
        yield running


def body(**fields: object) -> bytes:
    return request(Numbers.name(), **fields).SerializeToString()


# -- no HTTP/2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /fraudgate.v1.ScoringService/Score HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\0" * 24,
        PREFACE[:20] + b"XXXX",
    ],
    ids=["HTTP/1.1", "a long HTTP/1.1 POST", "TLS in the clear", "zeros", "nearly a preface"],
)
async def test_what_does_not_begin_with_the_preface_is_closed(server: NativeRunning, words: bytes) -> None:
    async with withstands(server, connections_broken=1):
        peer = await Peer.connect(server.data_port)
        peer.write(words)
        assert await peer.goodbye() is None


async def test_garbage_after_the_preface_is_a_protocol_error(server: NativeRunning) -> None:
    async with withstands(server, connections_broken=1):
        peer = await Peer.connect(server.data_port)
        await peer.initiate()
        peer.write(b"\xff" * 4_096)
        assert await peer.goodbye() in (ErrorCodes.FRAME_SIZE_ERROR, ErrorCodes.PROTOCOL_ERROR)


async def test_another_frame_than_settings_after_the_preface_is_a_protocol_error(server: NativeRunning) -> None:
    async with withstands(server, connections_broken=1):
        peer = await Peer.connect(server.data_port)
        peer.initiated = True
        peer.write(PREFACE + frame(0x0, b"DATA on stream 0"))
        assert await peer.goodbye() is ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize("words", [b"", PREFACE[:10]], ids=["nothing", "ten bytes"])
async def test_a_peer_that_does_not_finish_its_preface_is_closed(server: NativeRunning, words: bytes) -> None:
    async with withstands(server, connections_stalled=1):
        peer = await Peer.connect(server.data_port)
        peer.write(words)
        assert await peer.goodbye() is None


async def test_a_preface_of_one_byte_now_and_then_is_closed_in_time(server: NativeRunning) -> None:
    async with withstands(server, connections_stalled=1):
        peer = await Peer.connect(server.data_port)
        started = asyncio.get_running_loop().time()
        for byte in PREFACE:
            if peer.writer.is_closing() or peer._reader.at_eof():
                break
            peer.write(bytes([byte]))
            await asyncio.sleep(PATIENCE / 8)
        assert await peer.goodbye() is None
        assert asyncio.get_running_loop().time() - started < 4 * PATIENCE


async def test_a_peer_that_leaves_has_broken_nothing(server: NativeRunning) -> None:
    async with withstands(server):
        for words in (b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS), PREFACE + frame(SETTINGS)[:5]):
            peer = await Peer.connect(server.data_port)
            peer.write(words)
            await peer.writer.drain()
            await peer.close()


# -- HTTP/2, but no gRPC -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "", "application/grpcx", "text/plain"])
async def test_another_content_type_is_415(server: NativeRunning, kind: str) -> None:
    async with withstands(server) as peer:
        ended = await peer.call(head(content_type=kind), message(body()))
        assert (ended.status, ended.code) == (415, None)
        assert b"gRPC" in ended.data


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "HEAD"])
async def test_another_method_than_post_is_405(server: NativeRunning, method: str) -> None:
    async with withstands(server) as peer:
        ended = await peer.call(head(method=method))
        assert (ended.status, ended.code) == (405, None)
        assert bool(ended.data) == (method != "HEAD")


async def test_a_stranger_that_never_ends_is_not_heard_for_ever(server: NativeRunning) -> None:
    async with withstands(server) as peer:
        ended = await peer.end_of(await peer.start(head(content_type="text/plain"), b"and another thing", end=False))
        assert ended.reset is not None


@pytest.mark.parametrize("path", ["/", f"{SCORE}s", "/fraudgate.v1.Nobody/Score", "/grpc.health.v1.Health/Guess", "*"])
async def test_an_unknown_path_is_unimplemented(server: NativeRunning, path: str) -> None:
    async with withstands(server) as peer:
        ended = await peer.call(head(path), message(b""))
        assert (ended.status, ended.code) == (200, UNIMPLEMENTED)


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "compressed"), [("identity", 0), ("gzip", 0), ("gzip", 1)])
async def test_identity_and_gzip_are_accepted(server: NativeRunning, encoding: str, compressed: int) -> None:
    async with withstands(server) as peer:
        data = gzip.compress(body()) if compressed else body()
        ended = await peer.call(head(grpc_encoding=encoding), message(data, compressed=compressed))
        assert ended.response.decision


@pytest.mark.parametrize("encoding", ["deflate", "snappy", "br", "x" * 100])
async def test_other_compressions_are_unimplemented(server: NativeRunning, encoding: str) -> None:
    async with withstands(server) as peer:
        ended = await peer.call(head(grpc_encoding=encoding), message(body(), compressed=1))
        assert ended.code == UNIMPLEMENTED


BAD_MESSAGES = {
    "compressed with nothing": ({}, message(b"x", compressed=1), {INTERNAL}),
    "gzip that is none": ({"grpc_encoding": "gzip"}, message(b"not gzip", compressed=1), {INVALID_ARGUMENT, INTERNAL}),
    "cut gzip": (
        {"grpc_encoding": "gzip"},
        message(gzip.compress(b"x" * 500)[:-9], compressed=1),
        {INVALID_ARGUMENT, INTERNAL},
    ),
    "a bomb": ({"grpc_encoding": "gzip"}, message(gzip.compress(bytes(60 * MIB)), compressed=1), {RESOURCE_EXHAUSTED}),
    "an unknown flag": ({}, message(b"x", compressed=7), {INVALID_ARGUMENT, INTERNAL}),
    "a length of 4 GB": ({}, message(b"x", length=2**32 - 1), {RESOURCE_EXHAUSTED}),
    "a length just over the limit": ({}, message(b"x", length=MIB + 1), {RESOURCE_EXHAUSTED}),
    "a length that is too long": ({}, message(b"x" * 50, length=60), {INVALID_ARGUMENT}),
    "a length that is too short": ({}, message(request("short").SerializeToString(), length=7), {INVALID_ARGUMENT}),
    "half a prefix": ({}, b"\0\0\0", {INVALID_ARGUMENT}),
    "nothing": ({}, b"", {INVALID_ARGUMENT}),
}


@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH, SCORE_STREAM])
@pytest.mark.parametrize("name", BAD_MESSAGES)
async def test_a_message_that_lies_ends_its_own_call(server: NativeRunning, name: str, path: str) -> None:
    headers, data, codes = BAD_MESSAGES[name]
    async with withstands(server) as peer:
        ended = await peer.call(head(path, **headers), data)
        if name == "nothing" and path == SCORE_STREAM:
            codes = {0}  # a stream may have no message
        assert ended.code in codes


async def test_messages_at_the_limit_are_heard(server: NativeRunning) -> None:
    """One mebibyte, and the first byte beyond it."""
    async with withstands(server) as peer:
        row = transaction("row")
        filled = pb.ScoreBatchRequest(transactions=[row] * 513).SerializeToString()
        size = MIB - len(filled) - 4
        filled += (
            b"\x7a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + b"x" * size
        )  # an unknown field
        assert len(filled) == MIB
        assert (await peer.call(head(SCORE_BATCH), message(filled))).code == INVALID_ARGUMENT  # 513 rows
        assert (await peer.call(head(SCORE_BATCH), message(filled + b"\0"))).code == RESOURCE_EXHAUSTED


# -- a byte at a time --------------------------------------------------------------------------------------------------


async def drip(peer: Peer, stream: int, data: bytes, seconds: float) -> None:
    """Send ``data`` a byte at a time, so slowly that all of it takes so long."""
    for place in range(len(data)):
        await peer.send(stream, data[place : place + 1], end=False)
        await asyncio.sleep(seconds / len(data))


@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH, SCORE_STREAM])
async def test_a_message_a_byte_at_a_time_is_heard_while_it_has_time(server: NativeRunning, path: str) -> None:
    async with withstands(server) as peer:
        one = pb.ScoreBatchRequest(transactions=[transaction(Numbers.name())]) if path == SCORE_BATCH else None
        data = message(one.SerializeToString() if one else body())
        stream = await peer.start(head(path), b"", end=False)
        await drip(peer, stream, data, PATIENCE / 8)
        await peer.send(stream, b"", end=True)
        assert (await peer.end_of(stream)).code == 0


@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH, SCORE_STREAM])
async def test_a_message_that_takes_too_long_ends_its_call(server: NativeRunning, path: str) -> None:
    async with withstands(server) as peer:
        stream = await peer.start(head(path), b"", end=False)
        dripping = asyncio.create_task(drip(peer, stream, message(body() * 20), 60.0))
        ended = await peer.wait_for(h2.events.StreamEnded | h2.events.StreamReset, stream)
        dripping.cancel()
        assert ended is not None


async def test_calls_of_which_no_message_comes_end(server: NativeRunning) -> None:
    async with withstands(server) as peer:
        streams = [await peer.start(head(path), b"", end=False) for path in (SCORE, SCORE_BATCH) * 20]
        ends = [await peer.end_of(stream) for stream in streams]
        assert {(ended.status, ended.code) for ended in ends} == {(200, DEADLINE_EXCEEDED)}


async def test_a_deadline_ends_a_call_of_which_no_message_comes(models: Path) -> None:
    async with serve_native(models) as patient, withstands(patient) as peer:
        streams = [await peer.start(head(path, grpc_timeout="50m"), b"\0", end=False) for path in (SCORE, SCORE_BATCH)]
        assert [(await peer.end_of(stream)).code for stream in streams] == [DEADLINE_EXCEEDED] * 2
        assert patient.refusals("deadline") == 2


async def test_no_more_calls_wait_for_their_messages_than_can_be_queued(models: Path) -> None:
    """The rest are refused at their headers. What they send all the same is no mistake of theirs, however often."""
    async with serve_native(models, batching={"queue_rows_max": WAITING}) as crowded, withstands(crowded) as peer:
        waiting = [await peer.start(head(), b"", end=False) for _ in range(WAITING)]
        for _ in range(20):
            refused = [await peer.start(head(), b"", end=False) for _ in range(100)]
            assert {(await peer.end_of(stream)).code for stream in refused} == {RESOURCE_EXHAUSTED}
            for stream in refused:
                await peer.send(stream, message(body()))
        assert crowded.refusals("queue_full") >= 2_000
        for stream in waiting:
            await peer.send(stream, message(body()))
            assert (await peer.end_of(stream)).code == 0


async def test_messages_of_refused_calls_leave_room_for_others(models: Path) -> None:
    """They are read although no further call comes: more than a connection's window holds."""
    async with serve_native(models, batching={"queue_rows_max": WAITING}) as crowded, withstands(crowded) as peer:
        waiting = [await peer.start(head(), b"", end=False) for _ in range(WAITING)]
        refused = [await peer.start(head(), b"", end=False) for _ in range(100)]
        assert {(await peer.end_of(stream)).code for stream in refused} == {RESOURCE_EXHAUSTED}
        for stream in refused:
            await peer.send(stream, message(bytes(MIB // 32)))
        await peer.send(waiting[0], message(body()))
        assert (await peer.end_of(waiting[0])).code == 0


async def test_an_idle_stream_stays(server: NativeRunning) -> None:
    """Only a message that has begun is in a hurry."""
    async with withstands(server) as peer:
        stream = await peer.start(head(SCORE_STREAM), message(body()), end=False)
        await peer.wait_for(h2.events.DataReceived, stream)
        late = await peer.start(head(), b"", end=False)
        assert (await peer.end_of(late)).code == DEADLINE_EXCEEDED  # so long, and a while more
        await peer.send(stream, message(body()), end=True)
        ended = await peer.end_of(stream)
        assert (ended.code, bool(ended.data)) == (0, True)


async def test_trailers_and_padding_are_heard(server: NativeRunning) -> None:
    async with withstands(server) as peer:
        stream = await peer.start(head(), b"", end=False)
        data = message(body())
        peer.h2.send_data(stream, data[:7], pad_length=200)
        peer.h2.send_data(stream, data[7:], pad_length=0)
        peer.h2.send_headers(stream, [("x-checksum", "1")], end_stream=True)
        await peer.flush()
        assert (await peer.end_of(stream)).response.decision


async def test_many_calls_at_once_with_every_size_of_frame(server: NativeRunning) -> None:
    async with withstands(server) as peer:
        streams = []
        for size in (1, 2, 4, 5, 6, 50, 100):
            stream = await peer.start(head(), b"", end=False)
            data = message(body())
            for place in range(0, len(data), size):
                peer.h2.send_data(stream, data[place : place + size])
            peer.h2.end_stream(stream)
            streams.append(stream)
        await peer.flush()
        async with asyncio.timeout(PATIENCE_SECONDS):
            ends: list[Ended] = [await peer.end_of(stream) for stream in streams]
        assert {ended.code for ended in ends} == {0}
