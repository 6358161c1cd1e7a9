"""A connection on which too much is refused is not read for a while, is counted, and is served again; others are not
kept waiting.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import h2.events
import pytest
import pytest_asyncio

from tests.integration.server import request
from tests.native.http2_peer import SCORE, SCORE_BATCH, SCORE_STREAM, Numbers, Peer, head, message
from tests.native.http2_server import NativeRunning, serve_native

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")
pytestmark = pytest.mark.asyncio(loop_scope="module")

PER_SECOND = 50
INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12
PAUSED = "fraudgate_connections_paused_total"
BAD = message(b"\xff\xff")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path) -> AsyncIterator[NativeRunning]:
    async with serve_native(models, admission={"refusals_per_second_max": PER_SECOND}) as running:
        yield running


async def flood(peer: Peer, calls: int, path: str) -> float:
    """Bad calls one after the other, each of which must be answered; the seconds that took."""
    started = monotonic()
    for _ in range(calls):
        assert (await peer.call(head(path), BAD)).code == INVALID_ARGUMENT
    return monotonic() - started


@pytest.mark.parametrize("path", [SCORE, SCORE_BATCH, SCORE_STREAM])
async def test_a_flood_of_refusals_is_slowed_down(server: NativeRunning, path: str) -> None:
    before = (await server.totals())[PAUSED]
    peer, other = await Peer.greet(server.data_port), await Peer.greet(server.data_port)
    calls = 2 * PER_SECOND
    flooding = asyncio.create_task(flood(peer, calls, path))
    for _ in range(20):
        assert (await asyncio.wait_for(other.score(Numbers.name()), 5)).code == 0
    # The first tenth of a second's worth is free, and what the rate allows comes back while it waits.
    assert await flooding >= (calls - PER_SECOND / 10) / PER_SECOND / 2
    assert (await server.totals())[PAUSED] >= before + 5
    assert (await peer.score(Numbers.name())).code == 0
    await peer.close()
    await other.close()


async def test_a_paused_connection_still_gets_its_answers(server: NativeRunning) -> None:
    peer = await Peer.greet(server.data_port)
    good = await peer.start(head(), message(b""), end=False)
    for _ in range(30):
        await peer.start(head("/nowhere"), BAD)
    assert (await peer.end_of(good)).code == INVALID_ARGUMENT  # no transaction in it
    assert (await peer.call(head("/nowhere"), BAD)).code == UNIMPLEMENTED
    await peer.close()


async def test_few_refusals_pause_nobody(server: NativeRunning) -> None:
    before = (await server.totals())[PAUSED]
    peer = await Peer.greet(server.data_port)
    await flood(peer, PER_SECOND // 10, SCORE)
    assert (await server.totals())[PAUSED] == before
    await peer.close()


async def test_rows_refused_on_one_stream_pause_its_connection(server: NativeRunning) -> None:
    """They are no new calls, and are charged all the same."""
    before = (await server.totals())[PAUSED]
    peer = await Peer.greet(server.data_port)
    stream = await peer.start(head(SCORE_STREAM), end=False)
    await peer.wait_for(h2.events.ResponseReceived, stream)
    batch_ns = server.service.door.batch_ns
    server.service.door.batch_ns = 1 << 60  # no row can be answered in time
    rows = b"".join(message(request(Numbers.name()).SerializeToString()) for _ in range(PER_SECOND // 2))
    await peer.send(stream, rows)
    ended = await peer.end_of(stream)
    assert (ended.code, ended.data.count(b"retry with")) == (0, PER_SECOND // 2)
    assert (await server.totals())[PAUSED] > before
    server.service.door.batch_ns = batch_ns
    await peer.close()
