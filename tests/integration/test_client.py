"""The client against the real service: decisions, replays, refusals, a lost answer, TLS and mTLS."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fraudgate.client import AsyncClient, Client, Refused, Retry, transaction
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import NOW, Running, serve

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


Issuer: TypeAlias = tuple[x509.Name, ec.EllipticCurvePrivateKey]


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, PEM."""

    cert: bytes
    key: bytes


def issue(name: str, issuer: Issuer | None = None) -> tuple[Identity, Issuer]:
    """A certificate for 127.0.0.1 by ``issuer`` (None: by itself), and what it takes to issue more in its name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(cert.public_bytes(serialization.Encoding.PEM), private), (subject, key)


def write(directory: Path, **files: bytes) -> dict[str, str]:
    for name, body in files.items():
        (directory / name).write_bytes(body)
    return {name: str(directory / name) for name in files}


async def test_tls(models: Path, tmp_path: Path) -> None:
    authority, issuer = issue("authority")
    server, _ = issue("server", issuer)
    files = write(tmp_path, cert=server.cert, key=server.key)
    async with serve(models, tls=files) as running:
        async with client_of(running, grpc.ssl_channel_credentials(authority.cert)) as client:
            assert (await client.score(payment("a"))).response.decision
        async with client_of(running) as plain:
            with pytest.raises(Refused, match="UNAVAILABLE"):
                await plain.score(payment("b"))


async def test_mtls(models: Path, tmp_path: Path) -> None:
    authority, issuer = issue("authority")
    server, _ = issue("server", issuer)
    caller, _ = issue("caller", issuer)
    files = write(tmp_path, cert=server.cert, key=server.key, client_ca=authority.cert)
    async with serve(models, tls=files) as running:
        async with client_of(running, grpc.ssl_channel_credentials(authority.cert, caller.key, caller.cert)) as client:
            assert (await client.score(payment("a"))).response.decision
        async with client_of(running, grpc.ssl_channel_credentials(authority.cert)) as stranger:
            with pytest.raises(Refused, match="UNAVAILABLE"):
                await stranger.score(payment("b"))
