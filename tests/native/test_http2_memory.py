"""Messages half sent by many: all peers together are held so many bytes, and the next one is asked to come again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import h2.events
import pytest
import pytest_asyncio

from tests.integration.server import PATIENCE_SECONDS
from tests.native.http2_peer import MIB, Peer, head, message
from tests.native.http2_server import NativeChild, serve_native_child, withstands

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")
pytestmark = pytest.mark.asyncio(loop_scope="module")

HELD_MIB = 128
"""``HELD_BYTES_MAX`` of the crate's server/held.rs."""
PEERS, CALLS = 2, 70
MOST_OF_ONE = message(bytes(MIB - 1_024), length=MIB)
SLACK_MIB = 48
"""Buffers that doubled to hold a message, and the usual growth of the floods."""
RESOURCE_EXHAUSTED = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NativeChild]:
    directory = tmp_path_factory.mktemp("memory")
    async with serve_native_child(directory, models, ingress={"message_seconds_max": 60.0}) as child:
        async with withstands(child):
            pass
        yield child


async def over(calls: list[tuple[Peer, int]], count: int) -> list[tuple[Peer, int]]:
    """The calls that the server has ended, once they are so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(ended := [(peer, call) for peer, call in calls if peer.over(call)]) < count:
            for peer in {peer for peer, _ in calls}:
                peer.h2.ping(b"barrier.")
                await peer.flush()
                await peer.wait_for(h2.events.PingAckReceived)
    return ended


async def test_half_messages_of_all_peers_fit_in_one_bound(server: NativeChild) -> None:
    before = server.resident_bytes
    async with withstands(server):
        peers = [await Peer.greet(server.data_port) for _ in range(PEERS)]
        calls = [(peer, await peer.start(head(), MOST_OF_ONE, end=False)) for peer in peers for _ in range(CALLS)]
        refused = await over(calls, PEERS * CALLS - HELD_MIB)
        ends = Counter([(await peer.end_of(call)).code for peer, call in refused])
        assert ends == {RESOURCE_EXHAUSTED: PEERS * CALLS - HELD_MIB}
        assert (server.resident_bytes - before) / MIB < HELD_MIB + SLACK_MIB
        await asyncio.gather(*(peer.close() for peer in peers))
    async with withstands(server):  # and what was held is given back
        peer = await Peer.greet(server.data_port)
        call = await peer.start(head(), MOST_OF_ONE, end=False)
        assert not peer.over(call)
        await peer.close()
