"""Messages half sent by many: all peers together are held so many bytes, and the next one is asked to come again. And
messages that are mostly something else than a transaction: they do not wait with it, and no Python reads them.
"""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import h2.events
import pytest
import pytest_asyncio

from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, request, transaction
from tests.native.http2_flood import pour
from tests.native.http2_peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MIB,
    SCORE,
    SCORE_BATCH,
    SCORE_STREAM,
    WINDOW_MAX,
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

HELD_MIB = 128
"""``HELD_BYTES_MAX`` of the crate's server/held.rs."""
PEERS, CALLS_OF_ONE = 2, 70
MOST_OF_ONE = message(bytes(MIB - 1_024), length=MIB)
SLACK_MIB = 48
"""Buffers that doubled to hold a message, and the usual growth of the floods."""
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 0, 3, 8


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
        calls = [
            (peer, await peer.start(head(), MOST_OF_ONE, end=False)) for peer in peers for _ in range(CALLS_OF_ONE)
        ]
        refused = await over(calls, PEERS * CALLS_OF_ONE - HELD_MIB)
        ends = Counter([(await peer.end_of(call)).code for peer, call in refused])
        assert ends == {RESOURCE_EXHAUSTED: PEERS * CALLS_OF_ONE - HELD_MIB}
        assert (server.resident_bytes - before) / MIB < HELD_MIB + SLACK_MIB
        await asyncio.gather(*(peer.close() for peer in peers))
    async with withstands(server):  # and what was held is given back
        peer = await Peer.greet(server.data_port)
        call = await peer.start(head(), MOST_OF_ONE, end=False)
        assert not peer.over(call)
        await peer.close()


NEARLY_MIB = MIB - 4_096
UNPACKED = {
    "a long id": transaction("x" * NEARLY_MIB, customer_id="C"),
    "long ids": transaction("short", customer_id="é" * (NEARLY_MIB // 4), card_id="é" * (NEARLY_MIB // 4)),
    "attributes": transaction("many", attributes={f"{number:05}": 1.0 for number in range(40_000)}),
    "a long key": transaction("key", attributes={"k" * NEARLY_MIB: 1.0}),
}
REFUSED = {
    "a long id": "transaction.transaction_id is longer than 64 bytes",
    "long ids": "transaction.customer_id is longer than 64 bytes",
    "attributes": "transaction.attributes has more than 64 entries",
    "a long key": "transaction.attributes has a key that is empty, longer than 64 bytes or has a control character",
}
CALLS = {SCORE: (600, 1), SCORE_BATCH: (600, 1), SCORE_STREAM: (15, 40)}
"""By path: so many calls of so many messages."""


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("name", ["a long id", "long ids", "a long key"])
async def test_what_a_kilobyte_unpacks_to_does_not_wait_with_its_row(server: NativeChild, name: str, path: str) -> None:
    """Neither in the queue, nor in Python, nor in answers that nobody reads."""
    calls, messages = CALLS[path]
    row, opened = UNPACKED[name], block(head(path, grpc_encoding="gzip"))
    body = pb.ScoreBatchRequest(transactions=[row]) if path == SCORE_BATCH else pb.ScoreRequest(transaction=row)
    packed = message(gzip.compress(body.SerializeToString()), compressed=1)
    data = [packed] * (messages - 1)
    sent = (
        frame(HEADERS, opened, END_HEADERS, stream)
        + b"".join(frame(DATA, each, 0, stream) for each in data)
        + frame(DATA, packed, END_STREAM, stream)
        for stream in range(1, 2 * calls, 2)
    )
    before = server.resident_bytes
    async with withstands(server):
        assert not (await pour(server.data_port, sent, setting(INITIAL_WINDOW_SIZE, WINDOW_MAX))).closed
        assert (server.resident_bytes - before) / MIB < SLACK_MIB


async def test_a_large_message_is_answered_as_a_small_one(server: NativeChild) -> None:
    """What nobody knows in it does no harm; what is too long or too many is refused for that, on its own row."""
    peer = await Peer.greet(server.data_port)
    unknown = b"\x7a\x80\x80\x20" + bytes(1 << 19)
    good = request(Numbers.name(), attributes={f"{number:064}": 1.0 for number in range(64)})
    assert (await peer.call(head(), message(good.SerializeToString() + unknown))).response.decision
    again = await peer.call(head(), message(good.SerializeToString()))
    assert again.response.transaction_id == good.transaction.transaction_id  # a replay: the payloads are equal
    for name, text in REFUSED.items():
        ended = await peer.call(head(), message(pb.ScoreRequest(transaction=UNPACKED[name]).SerializeToString()))
        assert (ended.code, ended.text) == (INVALID_ARGUMENT, text)
    rows = [transaction(Numbers.name()), UNPACKED["long ids"], transaction(Numbers.name())]
    ended = await peer.call(head(SCORE_BATCH), message(pb.ScoreBatchRequest(transactions=rows).SerializeToString()))
    results = pb.ScoreBatchResponse.FromString(ended.data[5:]).results
    assert [result.error.code for result in results] == [OK, INVALID_ARGUMENT, OK]
    assert [result.transaction_id for result in results] == [row.transaction_id for row in rows]
    await peer.close()
