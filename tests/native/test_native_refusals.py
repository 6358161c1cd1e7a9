"""The native front end without a service behind it: calls that end without a decision leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from fraudgate import config, sections
from fraudgate.frontend import native
from fraudgate.latency.histogram import CELLS
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import ANSWER_DTYPE
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, request
from tests.native.http2_peer import MIB, Numbers, Peer, head, message

crate = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

INTERNAL: int = grpc.StatusCode.INTERNAL.value[0]
RESOURCE_EXHAUSTED: int = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
LONG = message(pb.ScoreRequest(transaction=pb.Transaction(transaction_id="x" * 15_000)).SerializeToString())
"""It fits in one frame."""


@asynccontextmanager
async def bare() -> AsyncIterator[Any]:
    """A front end that queues one batch, and whose batches nobody takes but the test."""
    batching = sections.Batching(queue_rows_max=BATCH_ROWS_MAX, budget_ns=0)
    server = sections.Server(data_address="127.0.0.1:0")
    settings = native.settings(msgspec.structs.replace(config.Config(), server=server, batching=batching))
    recorded = native.recorded(lambda _: np.zeros(CELLS, np.int64))
    ingress = crate.Ingress(settings, native.refusal_table(), recorded)
    ingress.start()
    try:
        yield ingress
    finally:
        ingress.stop(0.0)


async def wait_for_rows(ingress: Any, rows: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while ingress.rows < rows:
            await asyncio.sleep(0.001)


async def start(peer: Peer) -> int:
    return await peer.start(head(), message(request(Numbers.name()).SerializeToString()))


async def test_answers_of_another_number_leave_the_batch_to_fail() -> None:
    def tail(edition: int, bits: int) -> tuple[str, bytes]:
        return "run", b""

    async with bare() as ingress:
        peer = await Peer.greet(ingress.port)
        streams = [await start(peer) for _ in range(BATCH_ROWS_MAX)]
        await wait_for_rows(ingress, BATCH_ROWS_MAX)
        batch = ingress.take(True)
        for rows in (0, BATCH_ROWS_MAX - 1, BATCH_ROWS_MAX + 1):
            with pytest.raises(ValueError, match=f"{rows} answers for {BATCH_ROWS_MAX} rows"):
                ingress.answer(batch, np.zeros(rows, ANSWER_DTYPE).tobytes(), [], tail)
        ingress.fail(batch)
        assert {(await peer.end_of(stream)).code for stream in streams} == {INTERNAL}
        with pytest.raises(ValueError, match="answered before"):
            ingress.fail(batch)
        await peer.close()


async def test_refused_messages_give_the_connections_window_back() -> None:
    async with bare() as ingress:
        peer = await Peer.greet(ingress.port)
        for _ in range(BATCH_ROWS_MAX):
            await start(peer)
        await wait_for_rows(ingress, BATCH_ROWS_MAX)
        for _ in range(3 * MIB // len(LONG)):
            ended = await peer.call(head(), LONG)
            assert (ended.code, ended.reset) == (RESOURCE_EXHAUSTED, None)
        assert ingress.counts()["queue_full"] == 3 * MIB // len(LONG)
        await peer.close()
