"""Connections of the native front end from their first byte to their last: how many there may be, who is still there,
how they end when the server does, TLS, and Unix sockets.
"""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import h2.events
import pytest
import pytest_asyncio
from h2.errors import ErrorCodes

from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, request, transaction, until
from tests.integration.test_tls import Identity, issue
from tests.native.http2_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    SCORE_BATCH,
    SCORE_STREAM,
    SETTINGS,
    Numbers,
    Peer,
    assert_decides,
    block,
    frame,
    head,
    message,
)
from tests.native.http2_server import NativeRunning, serve_native, watched, withstands

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

BRIEF = 0.2
"""Seconds, where a limit is one of time."""
OK, UNAVAILABLE = 0, 14


# -- how many ----------------------------------------------------------------------------------------------------------


async def test_connections_over_the_limit_are_closed_at_once(models: Path) -> None:
    async with serve_native(models, ingress={"connections_max": 3}) as server:
        peers = [await Peer.greet(server.data_port) for _ in range(3)]
        for _ in range(5):
            refused = await Peer.connect(server.data_port)
            assert await refused.goodbye() is None
        assert (await watched(server))["connections_refused"] == 5
        for peer in peers:
            await assert_decides(peer)
        await peers.pop().close()
        await until(lambda: server.connections == 2)
        peers.append(await Peer.greet(server.data_port))
        for peer in peers:
            await assert_decides(peer)
            await peer.close()


async def test_the_server_may_open_as_many_files_as_connections(models: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 3_000) if hard != resource.RLIM_INFINITY else 3_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_000, wanted), hard))
    try:
        async with serve_native(models, ingress={"connections_max": wanted}) as server, withstands(server):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- keep-alive --------------------------------------------------------------------------------------------------------


@pytest.fixture
def keepalive() -> Mapping[str, float]:
    """[ingress]"""
    return {"keepalive_seconds": BRIEF, "keepalive_seconds_max": BRIEF}


async def rest_of(peer: Peer) -> bytes:
    """What the server says, unanswered, to the end of the connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await peer._reader.read()


async def test_a_silent_peer_is_pinged_and_then_closed(models: Path, keepalive: Mapping[str, float]) -> None:
    async with serve_native(models, ingress=keepalive) as server:
        peer = await Peer.greet(server.data_port)
        clock = asyncio.get_running_loop().time
        started = clock()
        assert (await rest_of(peer)).count(frame(PING)[3:9]) == 1
        assert clock() - started >= 2 * BRIEF
        await until(lambda: server.connections == 0)
        assert (await watched(server))["connections_stalled"] == 1


async def test_a_peer_that_answers_pings_stays(models: Path, keepalive: Mapping[str, float]) -> None:
    async with serve_native(models, ingress=keepalive) as server:
        peer = await Peer.greet(server.data_port)
        for _ in range(4):
            assert await peer.wait_for(h2.events.PingReceived) is not None
        await assert_decides(peer)
        assert (await watched(server))["connections_stalled"] == 0
        await peer.close()


async def test_a_busy_peer_is_not_pinged(models: Path, keepalive: Mapping[str, float]) -> None:
    async with serve_native(models, ingress=keepalive) as server:
        peer = await Peer.greet(server.data_port)
        clock = asyncio.get_running_loop().time
        called = [clock()]
        while called[-1] - called[0] < 4 * BRIEF:
            await assert_decides(peer)
            called.append(clock())
        pauses = sum(later - earlier > BRIEF / 2 for earlier, later in pairwise(called))  # of a machine that is busy
        assert sum(isinstance(event, h2.events.PingReceived) for event in peer.events) <= pauses
        await peer.close()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        frame(HEADERS, block(head()), 0, 1) + frame(CONTINUATION, b"", 0, 1),
        frame(HEADERS, bytes(1_000), END_HEADERS, 1)[:500],
        frame(DATA, bytes(16_000), 0, 1)[:9],
    ],
    ids=["nothing", "headers that go on", "half a frame", "the head of a frame"],
)
async def test_a_byte_now_and_then_is_no_sign_of_life(
    models: Path, keepalive: Mapping[str, float], begun: bytes
) -> None:
    async with serve_native(models, ingress=keepalive) as server:
        peer = await Peer.greet(server.data_port)
        peer.write(begun)
        hearing = asyncio.create_task(rest_of(peer))
        for byte in frame(0xBE, bytes(16_000)):
            if hearing.done():
                break
            peer.write(bytes([byte]))
            await asyncio.sleep(BRIEF / 10)
        assert hearing.done()
        with suppress(ConnectionError):
            hearing.result()
        assert (await watched(server))["connections_stalled"] == 1


# -- the end of the server ---------------------------------------------------------------------------------------------


async def test_a_drain_answers_what_is_in_flight_then_says_goaway(models: Path) -> None:
    async with serve_native(models) as server:
        peers = [await Peer.greet(server.data_port) for _ in range(3)]
        held = server.hold()
        one = pb.ScoreBatchRequest(transactions=[transaction(Numbers.name())])
        calls = [
            await peers[0].start(head(), message(request(Numbers.name()).SerializeToString())),
            await peers[1].start(head(SCORE_BATCH), message(one.SerializeToString())),
            await peers[2].start(head(SCORE_STREAM), message(request(Numbers.name()).SerializeToString()), end=False),
        ]
        await until(lambda: held.started == 1)
        draining = server.start_drain()
        await until(lambda: server.service.door.closed is not None)
        assert (await peers[0].score(Numbers.name())).code == UNAVAILABLE
        held.let_go()
        ends = [await peer.end_of(call) for peer, call in zip(peers, calls, strict=True)]
        assert ends[0].response.decision
        assert [(ended.code, bool(ended.data)) for ended in ends[1:]] == [(OK, True), (UNAVAILABLE, True)]
        assert [await peer.goodbye() for peer in peers] == [ErrorCodes.NO_ERROR] * 3
        assert await draining == 0


async def test_a_drain_waits_for_nobody_who_keeps_silent(models: Path) -> None:
    """Half a preface, half a message, an open stream, an unread GOAWAY: within the front end's second."""
    async with serve_native(models) as server:
        stuck = await Peer.connect(server.data_port)
        stuck.write(PREFACE[:10])
        silent = await Peer.connect(server.data_port)
        silent.write(PREFACE + frame(SETTINGS))
        halfway = await Peer.greet(server.data_port)
        await halfway.start(head(), b"\0\0\0", end=False)
        await until(lambda: server.connections == 3)
        clock = asyncio.get_running_loop().time
        started = clock()
        assert await server.start_drain() == 0
        assert clock() - started < 5.0
        for peer in (stuck, silent, halfway):
            await rest_of(peer)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Identity:
    return issue("authority")


@pytest.fixture(scope="module")
def files(authority: Identity, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """[tls]"""
    cert, key = issue("server", authority).write(tmp_path_factory.mktemp("tls"), "server")
    return {"cert": cert, "key": key}


@pytest_asyncio.fixture
async def secure(models: Path, files: Mapping[str, str]) -> AsyncIterator[NativeRunning]:
    async with serve_native(models, tls=files, ingress={"handshake_seconds_max": 2 * BRIEF}) as running:
        yield running


def context(authority: Identity, *protocols: str, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    """A client's side of TLS, with these protocols in its ALPN extension."""
    made = ssl.create_default_context(cadata=authority.cert_pem.decode())
    if protocols:
        made.set_alpn_protocols(protocols)
    if client:
        made.load_cert_chain(*client)
    return made


async def test_h2_is_chosen_by_alpn(secure: NativeRunning, authority: Identity) -> None:
    tls = context(authority, "http/1.1", "h2")
    async with withstands(secure, tls=tls) as peer:
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"


async def test_another_protocol_than_h2_is_closed(secure: NativeRunning, authority: Identity) -> None:
    good = context(authority, "h2")
    async with withstands(secure, tls=good, connections_broken=2):
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            await Peer.connect(secure.data_port, context(authority, "http/1.1"))
        unnamed = await Peer.connect(secure.data_port, context(authority))
        unnamed.write(PREFACE + frame(SETTINGS))
        assert await unnamed.goodbye() is None


async def test_a_client_needs_a_certificate_where_client_ca_is_set(
    models: Path, files: Mapping[str, str], authority: Identity, tmp_path: Path
) -> None:
    clients, strangers = issue("clients"), issue("strangers")
    client_ca, _ = clients.write(tmp_path, "clients")
    known = context(authority, "h2", client=issue("client", clients).write(tmp_path, "known"))
    unknown = context(authority, "h2", client=issue("client", strangers).write(tmp_path, "unknown"))
    async with (
        serve_native(models, tls={**files, "client_ca": client_ca}) as server,
        withstands(server, tls=known, connections_broken=2),
    ):
        for tls in (unknown, context(authority, "h2")):
            with suppress(ssl.SSLError, ConnectionError):  # in TLS 1.3 the client learns of it when it reads
                peer = await Peer.connect(server.data_port, tls)
                assert await peer.goodbye() is None


Attack = Callable[[Peer], Awaitable[None]]


async def _stop_halfway(peer: Peer) -> None:
    peer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20))


async def _say_nothing(peer: Peer) -> None:
    pass


@pytest.mark.parametrize("attack", [_say_nothing, _stop_halfway])
async def test_a_tls_handshake_that_stalls_is_closed(
    secure: NativeRunning, authority: Identity, attack: Attack
) -> None:
    async with withstands(secure, tls=context(authority, "h2"), connections_stalled=1):
        peer = await Peer.connect(secure.data_port)
        await attack(peer)
        await rest_of(peer)


async def test_silence_after_the_tls_handshake_is_closed(secure: NativeRunning, authority: Identity) -> None:
    tls = context(authority, "h2")
    async with withstands(secure, tls=tls, connections_stalled=1):
        peer = await Peer.connect(secure.data_port, tls)
        assert await peer.goodbye() is None


@pytest.mark.parametrize("words", [PREFACE + frame(SETTINGS), b"GET / HTTP/1.1\r\n\r\n", bytes(1_000)])
async def test_a_client_in_the_clear_is_closed(secure: NativeRunning, authority: Identity, words: bytes) -> None:
    async with withstands(secure, tls=context(authority, "h2"), connections_broken=1):
        peer = await Peer.connect(secure.data_port)
        peer.write(words)
        with suppress(ConnectionError):
            await rest_of(peer)


async def test_a_client_that_leaves_its_tls_handshake_has_broken_nothing(
    secure: NativeRunning, authority: Identity
) -> None:
    async with withstands(secure, tls=context(authority, "h2")):
        for attack in (_say_nothing, _stop_halfway):
            peer = await Peer.connect(secure.data_port)
            await attack(peer)
            await peer.writer.drain()
            await peer.close()


# -- Unix sockets ------------------------------------------------------------------------------------------------------


async def test_a_unix_socket_serves_and_is_taken_over_from_the_dead(models: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "fraudgate.sock")
    for _ in range(2):
        async with (
            serve_native(models, server={"data_address": f"unix:{path}"}) as server,
            withstands(server, path, connections_broken=1),
        ):
            peer = await Peer.connect(path)
            peer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await peer.goodbye() is None
