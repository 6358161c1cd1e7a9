"""Connections are dealt to several IO threads, and payments notice nothing: batches, replays and order are the same."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import grpc
import pytest

from fraudgate.latency.scheduler import threads_named
from fraudgate.latency.witness import FRONT_END
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import request
from tests.native.http2_peer import SCORE_BATCH, SCORE_STREAM, Numbers, Peer, head, message
from tests.native.http2_server import IO_THREADS, serve_native

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

INVALID_ARGUMENT: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
CONNECTIONS, CALLS, SEED = 2 * IO_THREADS + 1, 40, 11


def spoilt() -> pb.ScoreRequest:
    """A call that is admitted, and refused in its batch."""
    bad = request(Numbers.name())
    bad.transaction.amount_minor = -1
    return bad


async def test_there_are_as_many_threads_as_were_asked_for(models: Path) -> None:
    before = len(threads_named(FRONT_END))
    async with serve_native(models):
        assert len(threads_named(FRONT_END)) == before + IO_THREADS
    assert len(threads_named(FRONT_END)) == before


async def test_calls_of_all_threads_share_batches_and_each_gets_its_own_answer(models: Path) -> None:
    draw = random.Random(SEED)
    async with serve_native(models) as server:
        peers = [await Peer.greet(server.data_port) for _ in range(CONNECTIONS)]

        async def calls(peer: Peer) -> dict[str, pb.ScoreResponse]:
            names = [Numbers.name() for _ in range(CALLS)]
            good, bad = {}, []
            for place, name in enumerate(names):
                good[name] = await peer.start(head(), message(request(name).SerializeToString()))
                if place % 4 == 0:
                    bad.append(await peer.start(head(), message(spoilt().SerializeToString())))
            for stream in bad:
                assert (await peer.end_of(stream)).code == INVALID_ARGUMENT, "and not a neighbour's answer"
            return {name: (await peer.end_of(stream)).response for name, stream in good.items()}

        answers = await asyncio.gather(*(calls(peer) for peer in peers))
        for mine in answers:
            assert all(answer.transaction_id == name for name, answer in mine.items())
        sizes = Counter(answer.timings.batch_rows for mine in answers for answer in mine.values())
        assert max(sizes) > CALLS // 4, f"rows of one thread alone: {sizes}"
        for name, answer in draw.sample([pair for mine in answers for pair in mine.items()], 30):
            again = (await draw.choice(peers).score(name)).response
            assert again.SerializeToString() == answer.SerializeToString(), "a replay, whichever thread reads it"
        for peer in peers:
            await peer.close()


async def test_calls_of_many_rows_beside_each_other(models: Path) -> None:
    async with serve_native(models) as server:
        peers = [await Peer.greet(server.data_port) for _ in range(CONNECTIONS)]

        async def rows(peer: Peer) -> None:
            names = [Numbers.name() for _ in range(50)]
            batch = pb.ScoreBatchRequest(transactions=[request(name).transaction for name in names])
            ended = await peer.call(head(SCORE_BATCH), message(batch.SerializeToString()))
            results = pb.ScoreBatchResponse.FromString(ended.data[5:]).results
            assert [each.transaction_id for each in results] == names
            stream = await peer.start(head(SCORE_STREAM), end=False)
            for name in names:
                await peer.send(stream, message(request(name).SerializeToString()), end=name == names[-1])
            assert (await peer.end_of(stream)).code == 0

        await asyncio.gather(*(rows(peer) for peer in peers))
        for peer in peers:
            await peer.close()
