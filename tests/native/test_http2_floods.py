"""Floods and peers that do not read: each is ended by a configured limit, the memory of the server stays where it was,
and all the while others are decided for.
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.events
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from h2.errors import ErrorCodes

from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import request, transaction
from tests.native.http2_flood import pour
from tests.native.http2_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MIB,
    PING,
    PREFACE,
    RST_STREAM,
    SCORE,
    SCORE_BATCH,
    SCORE_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    Numbers,
    Peer,
    block,
    frame,
    head,
    message,
    setting,
)
from tests.native.http2_server import NativeChild, serve_native_child, withstands

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")
pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS_MAX = 100
RESETS_MAX = 50
HEADER_LIST_BYTES_MAX = 4_096
STALL_SECONDS = 0.4
GROWTH_BYTES_MAX = 24 * MIB
CANCEL = ErrorCodes.CANCEL.to_bytes(4)
OPEN = block(head(SCORE))
OK, RESOURCE_EXHAUSTED = 0, 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NativeChild]:
    """One server in a process of its own, so that its memory can be watched."""
    limits = {
        "header_list_bytes_max": HEADER_LIST_BYTES_MAX,
        "reset_streams_max": RESETS_MAX,
        "write_stall_seconds_max": STALL_SECONDS,
    }
    directory = tmp_path_factory.mktemp("floods")
    async with serve_native_child(directory, models, server={"streams_max": STREAMS_MAX}, ingress=limits) as child:
        async with withstands(child):
            pass  # what the first calls touch is no growth
        yield child


@asynccontextmanager
async def bounded(server: NativeChild, **moved: Any) -> AsyncIterator[Peer]:
    """``withstands``, and the memory of the server stays where it was."""
    before = server.resident_bytes
    async with withstands(server, **moved) as neighbour:
        yield neighbour
        grown = server.resident_bytes - before
        assert grown < GROWTH_BYTES_MAX, f"{grown / MIB:.1f} MiB"


def streams(count: int) -> range:
    return range(1, 2 * count, 2)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"", b"\0\0\0\0\x50half a message"], ids=["headers alone", "half a message"])
async def test_20_000_streams_opened_and_reset(server: NativeChild, part: bytes) -> None:
    """Rapid reset, CVE-2023-44487."""
    opened_and_reset = (
        frame(HEADERS, OPEN, END_HEADERS, stream)
        + (frame(DATA, part, 0, stream) if part else b"")
        + frame(RST_STREAM, CANCEL, 0, stream)
        for stream in streams(20_000)
    )
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, opened_and_reset)
        assert (poured.goaway, poured.closed) == (ErrorCodes.ENHANCE_YOUR_CALM, True)


async def test_a_peer_whose_deadlines_pass_all_at_once_is_no_attacker(server: NativeChild) -> None:
    """What a stall of the server makes of a peer with all its streams open: calls and resets are read together."""
    call = message(request(Numbers.name()).SerializeToString())
    opened_and_reset = (
        frame(HEADERS, OPEN, END_HEADERS, stream)
        + frame(DATA, call, END_STREAM, stream)
        + frame(RST_STREAM, CANCEL, 0, stream)
        for stream in streams(STREAMS_MAX)
    )
    async with bounded(server):
        poured = await pour(server.data_port, [b"".join(opened_and_reset)])
        assert (poured.goaway, poured.closed) == (None, False)


async def test_whole_calls_sent_and_reset_are_no_attack_on_others(server: NativeChild) -> None:
    """Each reaches the queue before it is cancelled; they come and go in rounds that the server has seen."""
    async with bounded(server):
        peer = await Peer.greet(server.data_port)
        peer.h2.increment_flow_control_window(16 * MIB)
        for _ in range(40):
            calls = [await peer.start(head(), message(request(Numbers.name()).SerializeToString())) for _ in range(50)]
            peer.h2.ping(b"barrier.")
            await peer.flush()
            await peer.wait_for(h2.events.PingAckReceived)
            for call in calls:
                if not peer.over(call):
                    peer.h2.reset_stream(call, ErrorCodes.CANCEL)
            peer.events.clear()
            await peer.flush()
        assert (await peer.score(Numbers.name())).code == OK
        await peer.close()


async def test_streams_that_the_server_has_to_reset_itself(server: NativeChild) -> None:
    """MadeYouReset, CVE-2025-8671: each stream breaks its own rules, so that the server resets it."""
    made = (
        frame(HEADERS, OPEN, END_HEADERS, stream) + frame(WINDOW_UPDATE, WINDOW_MAX.to_bytes(4), 0, stream)
        for stream in streams(5_000)
    )
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, made)
        assert (poured.goaway, poured.closed) == (ErrorCodes.ENHANCE_YOUR_CALM, True)


async def test_streams_over_the_limit_are_refused(server: NativeChild) -> None:
    opened = [frame(HEADERS, block(head(SCORE_STREAM)), END_HEADERS, stream) for stream in streams(STREAMS_MAX + 10)]
    async with bounded(server):
        poured = await pour(server.data_port, opened)
        assert (poured.resets(ErrorCodes.REFUSED_STREAM), poured.closed) == (10, False)


async def test_a_peer_that_is_refused_again_and_again_is_closed(server: NativeChild) -> None:
    opened = [frame(HEADERS, block(head(SCORE_STREAM)), END_HEADERS, stream) for stream in streams(STREAMS_MAX + 2_000)]
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, opened)
        assert (poured.goaway, poured.closed) == (ErrorCodes.ENHANCE_YOUR_CALM, True)
        assert poured.resets(ErrorCodes.REFUSED_STREAM) <= RESETS_MAX


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100])
async def test_continuations_without_end(server: NativeChild, size: int) -> None:
    """CVE-2024-24549 and its family."""
    first = frame(HEADERS, OPEN, 0, 1)
    flood = frame(CONTINUATION, b"\0" * size, 0, 1) * 50_000
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, [first, flood])
        assert poured.closed
        assert poured.goaway in (ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.COMPRESSION_ERROR)


HEADER_LISTS = {
    "one long value": [("x-long", "v" * HEADER_LIST_BYTES_MAX)],
    "many short": [(f"x-{i}", "v") for i in range(HEADER_LIST_BYTES_MAX // 32)],
    "one name again and again": [("x", "v")] * (HEADER_LIST_BYTES_MAX // 32),
}


@pytest.mark.parametrize("name", HEADER_LISTS)
async def test_headers_over_the_limit_are_431(server: NativeChild, name: str) -> None:
    async with bounded(server) as peer:
        ended = await peer.call([*head(), *HEADER_LISTS[name]])
        assert (ended.status, ended.code) == (431, None)


async def test_headers_just_below_the_limit_are_taken(server: NativeChild) -> None:
    async with bounded(server) as peer:
        used = sum(len(name) + len(value) + 32 for name, value in head())
        filling = ("x-filling", "v" * (HEADER_LIST_BYTES_MAX - used - 33 - len("x-filling")))
        data = message(request(Numbers.name()).SerializeToString())
        assert (await peer.call([*head(), filling], data)).code == OK
        assert (await peer.call([*head(), (filling[0], filling[1] + "v")], data)).status == 431


async def test_a_header_bomb_unpacks_to_nothing(server: NativeChild) -> None:
    """An entry of 3,900 bytes in the server's table, then 10,000 references to it, a byte each."""
    value = b"v" * 3_900
    length = b"\x7f" + bytes([(len(value) - 127) & 127 | 128, (len(value) - 127) >> 7])
    entry = b"\x40\x01x" + length + value
    bomb = frame(HEADERS, OPEN + entry + b"\xbe" * 10_000, END_HEADERS | END_STREAM, 1)
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, [bomb])
        assert (poured.goaway, poured.closed) == (ErrorCodes.ENHANCE_YOUR_CALM, True)


# -- frames that cost an answer, or cost nothing -----------------------------------------------------------------------

SMALL_FRAMES = {
    "PING": frame(PING, b"12345678"),
    "SETTINGS": frame(SETTINGS, setting(INITIAL_WINDOW_SIZE, 65_535)),
    "empty SETTINGS": frame(SETTINGS),
}


@pytest.mark.parametrize("name", SMALL_FRAMES)
async def test_a_flood_of_small_frames_is_answered(server: NativeChild, name: str) -> None:
    async with bounded(server):
        poured = await pour(server.data_port, [SMALL_FRAMES[name] * 50_000])
        assert not poured.closed
        assert len(poured.frames) > 50_000


@pytest.mark.parametrize("name", SMALL_FRAMES)
async def test_a_flood_whose_answers_nobody_reads_is_closed(server: NativeChild, name: str) -> None:
    async with bounded(server, connections_stalled=1):
        poured = await pour(server.data_port, [SMALL_FRAMES[name] * 1_500_000], read=False)
        assert poured.closed


async def test_empty_data_without_end(server: NativeChild) -> None:
    flood = frame(HEADERS, OPEN, END_HEADERS, 1) + frame(DATA, b"", 0, 1) * 50_000
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, [flood])
        assert (poured.goaway, poured.closed) == (ErrorCodes.ENHANCE_YOUR_CALM, True)


UNKNOWN = 0xBE
IGNORED = {
    "PRIORITY": frame(0x2, bytes(4) + b"\x10", 0, 1),
    "unknown": frame(UNKNOWN, b"whatever", 0, 1),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, (1).to_bytes(4)),
    "PING of an answer": frame(PING, b"12345678", 1),
}


@pytest.mark.parametrize("name", IGNORED)
async def test_a_flood_of_frames_that_mean_nothing_is_ignored(server: NativeChild, name: str) -> None:
    async with bounded(server):
        assert not (await pour(server.data_port, [IGNORED[name] * 50_000])).closed


# -- windows -----------------------------------------------------------------------------------------------------------


async def test_a_connection_window_that_overflows_is_closed(server: NativeChild) -> None:
    async with bounded(server, connections_broken=1):
        poured = await pour(server.data_port, [frame(WINDOW_UPDATE, WINDOW_MAX.to_bytes(4)) * 2])
        assert (poured.goaway, poured.closed) == (ErrorCodes.FLOW_CONTROL_ERROR, True)


async def test_a_stream_window_that_overflows_ends_its_stream(server: NativeChild) -> None:
    opened = frame(HEADERS, OPEN, END_HEADERS, 1)
    async with bounded(server):
        poured = await pour(server.data_port, [opened, frame(WINDOW_UPDATE, WINDOW_MAX.to_bytes(4), 0, 1)])
        assert (poured.resets(ErrorCodes.FLOW_CONTROL_ERROR), poured.closed) == (1, False)


async def test_more_data_than_the_window_is_an_error(server: NativeChild) -> None:
    opened = frame(HEADERS, OPEN, END_HEADERS, 1)
    async with bounded(server):
        poured = await pour(server.data_port, [opened, frame(DATA, bytes(16_384), 0, 1) * 3, frame(SETTINGS)])
        assert not poured.closed


async def test_answers_that_nobody_reads_close_the_connection(server: NativeChild) -> None:
    """A kilobyte that asks for 70, again and again, every window wide open, on a socket that is never read."""
    rows = message(pb.ScoreBatchRequest(transactions=[pb.Transaction()] * 512).SerializeToString())
    wide = frame(SETTINGS, setting(INITIAL_WINDOW_SIZE, WINDOW_MAX))
    wide += frame(WINDOW_UPDATE, (WINDOW_MAX - 65_535).to_bytes(4))
    opened, count = block(head(SCORE_BATCH)), 60  # as many as the first window has room for
    calls = (
        frame(HEADERS, opened, END_HEADERS, stream) + frame(DATA, rows, END_STREAM, stream) for stream in streams(count)
    )
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        # Some answers are given up before the connection is, and most rows are refused, which pauses it.
        unread, paused = range(count + 1), range(count + 1)
        async with bounded(server, connections_stalled=1, answers_unread=unread, connections_paused=paused):
            peer.connect(("127.0.0.1", server.data_port))
            peer.sendall(b"".join([PREFACE, wide, *calls]))


def calls_of_every_kind(count: int) -> Iterator[tuple[str, bytes]]:
    for number in range(count):
        path = (SCORE, SCORE_BATCH, SCORE_STREAM)[number % 3]
        one = request(Numbers.name())
        body = pb.ScoreBatchRequest(transactions=[one.transaction]) if path == SCORE_BATCH else one
        yield path, message(body.SerializeToString())


async def test_answers_without_a_window_are_given_up(server: NativeChild) -> None:
    """A peer that reads its socket and answers PINGs, and whose streams never have room."""
    async with bounded(server, answers_unread=60):
        peer = await Peer.greet(server.data_port, {INITIAL_WINDOW_SIZE: 0})
        calls = [await peer.start(head(path), data) for path, data in calls_of_every_kind(60)]
        ends = [await peer.end_of(call) for call in calls]
        assert {(ended.data, ended.reset) for ended in ends} == {(b"", ErrorCodes.CANCEL)}
        await peer.close()


async def test_answers_without_a_connection_window_are_given_up(server: NativeChild) -> None:
    """All windows of the streams are wide open, the connection's is used up and never moves."""
    async with bounded(server, answers_unread=1):
        peer = await Peer.greet(server.data_port)
        rows = [transaction(f"{Numbers.name()} {i}", customer_id="C") for i in range(512)]
        data = message(pb.ScoreBatchRequest(transactions=rows).SerializeToString())
        peer.acknowledges = False
        call = await peer.start(head(SCORE_BATCH), data)
        ended = await peer.end_of(call)
        assert (len(ended.data), ended.reset) == (65_535, ErrorCodes.CANCEL)
        await peer.close()


@pytest.mark.parametrize("step", [20, 100, 10_000])
async def test_answers_fit_in_a_window_that_opens_slowly(server: NativeChild, step: int) -> None:
    async with bounded(server):
        peer = await Peer.greet(server.data_port, {INITIAL_WINDOW_SIZE: 0})
        calls = [await peer.start(head(path), data) for path, data in calls_of_every_kind(3)]
        for call in calls:
            while not peer.over(call):
                peer.h2.increment_flow_control_window(step, call)
                peer.h2.ping(b"barrier.")
                await peer.flush()
                await peer.wait_for(h2.events.PingAckReceived)
        assert [(await peer.end_of(call)).code for call in calls] == [OK] * 3
        await peer.close()


# -- the side door -----------------------------------------------------------------------------------------------------


async def test_watchers_leave_room_for_those_who_ask(server: NativeChild) -> None:
    """One connection may hold 16 calls open there; the others ask as before."""
    watch, check = "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"
    question = message(health_pb2.HealthCheckRequest().SerializeToString())
    async with bounded(server) as peer:
        watching = [await peer.start(head(watch), question) for _ in range(16)]
        for call in watching:
            await peer.wait_for(h2.events.DataReceived, call)
        assert (await peer.call(head(watch), question)).code == RESOURCE_EXHAUSTED
        other = await Peer.greet(server.data_port)
        assert (await other.call(head(check), question)).code == OK
        for call in watching:
            peer.h2.reset_stream(call, ErrorCodes.CANCEL)
        await peer.flush()
        assert (await peer.call(head(check), question)).code in (OK, RESOURCE_EXHAUSTED)
        await other.close()


async def test_health_calls_opened_and_reset_do_not_pile_up(server: NativeChild) -> None:
    question = message(health_pb2.HealthCheckRequest().SerializeToString())
    opened = block(head("/grpc.health.v1.Health/Watch"))
    async with bounded(server):
        for _ in range(20):
            asked = (
                frame(HEADERS, opened, END_HEADERS, stream) + frame(DATA, question, END_STREAM, stream)
                for stream in streams(90)
            )
            await pour(server.data_port, asked)
