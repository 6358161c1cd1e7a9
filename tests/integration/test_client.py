"""The client against the real service: decisions, replays, refusals, a lost answer, TLS and mTLS."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from fraudgate.client import AsyncClient, Client, Refused, Retry, transaction
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import NOW, Running, serve
from tests.integration.test_tls import issue

pytestmark = pytest.mark.usefixtures("frontend")
PATIENCE_S = 30.0
"""For a machine that is busy with other tests."""
PATIENT = Retry(attempt_s=PATIENCE_S)


def payment(id: str, amount_minor: int = 1_250) -> pb.Transaction:
    return transaction(
        id,
        event_time=datetime.fromisoformat(NOW),
        amount_minor=amount_minor,
        currency="EUR",
        customer_id=f"C-{id}",
        terminal_id="T-1",
    )


@pytest.fixture
async def service(models: Path) -> AsyncIterator[Running]:
    async with serve(models) as running:
        yield running


def target(service: Running) -> str:
    return f"127.0.0.1:{service.service.data_port}"


def client_of(service: Running, credentials: grpc.ChannelCredentials | None = None) -> AsyncClient:
    return AsyncClient(target(service), deadline_s=PATIENCE_S, retry=PATIENT, credentials=credentials)


@pytest.fixture
async def client(service: Running) -> AsyncIterator[AsyncClient]:
    async with client_of(service) as client:
        yield client


async def test_a_decision_and_its_replay(client: AsyncClient) -> None:
    first = await client.score(payment("a"))
    assert first.response.transaction_id == "a"
    assert first.response.decision in (pb.APPROVE, pb.REVIEW, pb.DECLINE)
    assert not first.replayed
    again = await client.score(payment("a"))
    assert again.replayed
    assert again.response == first.response


async def test_refusals(client: AsyncClient) -> None:
    with pytest.raises(Refused, match="INVALID_ARGUMENT") as refused:
        await client.score(payment("a", amount_minor=-1))
    assert list(refused.value.field_violations) == ["transaction.amount_minor"]
    await client.score(payment("a"))
    with pytest.raises(Refused, match="ALREADY_EXISTS"):
        await client.score(payment("a", amount_minor=1))


async def test_a_batch(client: AsyncClient) -> None:
    good, bad, other = await client.score_batch([payment("a"), payment("b", -1), payment("c")])
    assert isinstance(good, pb.ScoreResponse)
    assert isinstance(other, pb.ScoreResponse)
    assert isinstance(bad, Refused)
    assert list(bad.field_violations) == ["transactions[1].amount_minor"]
    with pytest.raises(Refused, match="transactions needs 1 to 512 entries"):
        await client.score_batch([])


async def test_a_stream(client: AsyncClient) -> None:
    async def payments() -> AsyncIterator[pb.Transaction]:
        for number in range(70):
            yield payment(str(number), -1 if number == 40 else number)

    results = [each async for each in client.score_stream(payments())]
    refused = [number for number, each in enumerate(results) if isinstance(each, Refused)]
    assert refused == [40]
    ids = [each.transaction_id for each in results if isinstance(each, pb.ScoreResponse)]
    assert ids == [str(number) for number in range(70) if number != 40]


async def test_a_lost_answer_is_asked_for_again_and_counts_once(service: Running) -> None:
    """The first attempt ends at its timeout, after its event was applied; the second takes that attempt's decision."""
    engine = service.hold()

    async def sleep(seconds: float) -> None:
        assert engine.started == 1
        engine.let_go()

    retry = Retry(attempt_s=1.0)
    async with AsyncClient(target(service), deadline_s=PATIENCE_S, retry=retry, sleep=sleep) as client:
        reply = await client.score(payment("a"))
    assert reply.replayed
    assert reply.response.decision
    assert await service.count("C-a") == 1


async def test_health_follows_the_service(service: Running, client: AsyncClient) -> None:
    assert await client.health()
    await service.start_drain()
    assert not await client.health()


async def test_the_blocking_client(service: Running) -> None:
    def work() -> tuple[bool, bool]:
        with Client(target(service), deadline_s=PATIENCE_S, retry=PATIENT) as client:
            reply = client.score(payment("a"))
            (replay,) = client.score_stream([payment("a")])
            (row,) = client.score_batch([payment("a")])
            assert replay == row == reply.response
            return client.health(), client.score(payment("a")).replayed

    assert await asyncio.to_thread(work) == (True, True)


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_tls(models: Path, tmp_path: Path) -> None:
    authority = issue("authority")
    cert, key = issue("server", authority).write(tmp_path, "server")
    async with serve(models, tls={"cert": cert, "key": key}) as running:
        async with client_of(running, grpc.ssl_channel_credentials(authority.cert_pem)) as client:
            assert (await client.score(payment("a"))).response.decision
        async with client_of(running) as plain:
            with pytest.raises(Refused, match="UNAVAILABLE"):
                await plain.score(payment("b"))


async def test_mtls(models: Path, tmp_path: Path) -> None:
    authority = issue("authority")
    caller = issue("caller", authority)
    cert, key = issue("server", authority).write(tmp_path, "server")
    client_ca, _ = authority.write(tmp_path, "authority")
    known = grpc.ssl_channel_credentials(authority.cert_pem, caller.key_pem, caller.cert_pem)
    async with serve(models, tls={"cert": cert, "key": key, "client_ca": client_ca}) as running:
        async with client_of(running, known) as client:
            assert (await client.score(payment("a"))).response.decision
        async with client_of(running, grpc.ssl_channel_credentials(authority.cert_pem)) as stranger:
            with pytest.raises(Refused, match="UNAVAILABLE"):
                await stranger.score(payment("b"))
