"""TLS and mutual TLS on the data plane, and what may be served without."""

import asyncio
import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fraudgate.demo.server import Server, free_ports, serve_command, to_toml
from fraudgate.errors import ConfigError
from fraudgate.frontend.aio import SERVICE
from fraudgate.v1 import features_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, Running, Sections, end_of, request, sections_of, serve, unary

pytestmark = pytest.mark.usefixtures("frontend")
Code = grpc.StatusCode
DAY = timedelta(days=1)


class Identity(NamedTuple):
    """A certificate and its key, PEM and as objects."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    cert_pem: bytes
    key_pem: bytes

    def write(self, directory: Path, name: str) -> tuple[str, str]:
        """The paths of the certificate and of the key."""
        cert, key = directory / f"{name}.crt", directory / f"{name}.key"
        cert.write_bytes(self.cert_pem)
        key.write_bytes(self.key_pem)
        return str(cert), str(key)


def issue(name: str, issuer: Identity | None = None) -> Identity:
    """A certificate of "localhost" and 127.0.0.1, signed by ``issuer``; without one, an authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(certificate, key, certificate.public_bytes(pem), key_pem)


@pytest.fixture(scope="module")
def authority() -> Identity:
    return issue("authority")


@pytest.fixture(scope="module")
def stranger() -> Identity:
    """An authority that nobody trusts."""
    return issue("stranger")


@pytest.fixture
def tls(authority: Identity, tmp_path: Path) -> dict[str, str]:
    """[tls] with a server's certificate."""
    cert, key = issue("server", authority).write(tmp_path, "server")
    return {"cert": cert, "key": key}


async def score(server: Running, credentials: grpc.ChannelCredentials | None, name: str) -> Code:
    """What one Score() over a new connection ends with."""
    target = f"localhost:{server.data_port}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options)
    async with channel:
        call = unary(channel, f"/{SERVICE}/Score")(request(name).SerializeToString())
        return (await end_of(call)).code


async def test_tls_proves_the_server(
    models: Path, tls: dict[str, str], authority: Identity, stranger: Identity
) -> None:
    async with serve(models, tls=tls) as server:
        assert await score(server, grpc.ssl_channel_credentials(authority.cert_pem), "trusted") is Code.OK
        assert await score(server, grpc.ssl_channel_credentials(stranger.cert_pem), "not trusted") is Code.UNAVAILABLE
        assert await score(server, None, "in the clear") is Code.UNAVAILABLE
        # The control plane, loopback only, stays without.
        wanted = features_pb2.GetFeaturesRequest(entity="customer_id", id="C-trusted")
        assert (await server.features.GetFeatures(wanted)).buckets == 1


async def test_mutual_tls_proves_the_client_too(
    models: Path, tls: dict[str, str], authority: Identity, stranger: Identity, tmp_path: Path
) -> None:
    clients = issue("clients")
    client_ca, _ = clients.write(tmp_path, "clients")

    def credentials(issuer: Identity) -> grpc.ChannelCredentials:
        client = issue("client", issuer)
        return grpc.ssl_channel_credentials(authority.cert_pem, client.key_pem, client.cert_pem)

    async with serve(models, tls={**tls, "client_ca": client_ca}) as server:
        assert await score(server, credentials(clients), "known") is Code.OK
        assert await score(server, credentials(stranger), "unknown") is Code.UNAVAILABLE
        assert await score(server, credentials(authority), "of another authority") is Code.UNAVAILABLE
        anonymous = grpc.ssl_channel_credentials(authority.cert_pem)
        assert await score(server, anonymous, "anonymous") is Code.UNAVAILABLE
        for name in ("unknown", "of another authority", "anonymous"):
            assert await server.count(f"C-{name}") == 0


async def test_files_that_are_not_there_are_refused_by_name(models: Path, tls: dict[str, str]) -> None:
    for key in ("cert", "key", "client_ca"):
        with pytest.raises(ConfigError, match=r"\[tls\]: /nowhere/x\.pem: No such file"):
            async with serve(models, tls={**tls, key: "/nowhere/x.pem"}):
                pass


async def test_files_that_do_not_fit_are_refused(
    models: Path, tls: dict[str, str], authority: Identity, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense", "utf-8")
    other_cert, other_key = issue("other", authority).write(tmp_path, "other")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(encrypted_pem(Path(tls["key"]).read_bytes()))
    wrong = {
        "cert": [str(nonsense), other_cert, tls["key"]],
        "key": [str(nonsense), other_key, tls["cert"], str(encrypted)],
        "client_ca": [str(nonsense), tls["key"]],
    }
    for key, paths in wrong.items():
        for path in paths:
            with pytest.raises(ConfigError, match=r"\[tls\]: cert, key and client_ca must be PEM"):
                async with serve(models, tls={**tls, key: path}):
                    pass


def encrypted_pem(key_pem: bytes) -> bytes:
    """The same key behind a password."""
    key = serialization.load_pem_private_key(key_pem, None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


# -- other addresses than loopback -------------------------------------------------------------------------------------

OPEN = "0.0.0.0"


async def exit_of(directory: Path, form: Sections, frontend: str) -> tuple[int, str]:
    """The exit status and output of a ``fraudgate serve`` that ends by itself."""
    path = directory / "open.toml"
    path.write_text(to_toml(form), "utf-8")
    lines: list[str] = []
    with Server("test", serve_command(path, frontend), free_ports(), lines.append) as process:
        status = await asyncio.to_thread(process._process.wait, PATIENCE_SECONDS)
        await asyncio.to_thread(process._reader.join)
    return status, "\n".join(lines)


async def test_another_address_than_loopback_without_tls_is_refused(
    models: Path, tmp_path: Path, frontend: str
) -> None:
    form = sections_of(models, {"server": {"data_address": f"{OPEN}:0"}})
    status, output = await exit_of(tmp_path, form, frontend)
    assert status == 2
    assert output == (
        f"fraudgate serve: server.data_address = '{OPEN}:0' is not loopback: set tls.cert and tls.key, or "
        "server.insecure = true (--insecure) if something else encrypts"
    )


async def test_insecure_opens_it(models: Path, tmp_path: Path, frontend: str) -> None:
    ports = free_ports()
    addresses = {"data_address": f"{OPEN}:{ports.data}", "control_address": f"{OPEN}:{ports.control}"}
    path = tmp_path / "open.toml"
    path.write_text(to_toml(sections_of(models, {"server": addresses})), "utf-8")
    lines: list[str] = []
    with Server("test", [*serve_command(path, frontend), "--insecure"], ports, lines.append) as process:
        await process.serving()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.data}") as channel:
            end = await end_of(unary(channel, f"/{SERVICE}/Score")(request("open").SerializeToString()))
    assert end.response.decision in (pb.APPROVE, pb.REVIEW, pb.DECLINE)


async def test_another_address_with_tls_is_served(models: Path, tls: dict[str, str], authority: Identity) -> None:
    async with serve(models, server={"data_address": f"{OPEN}:0"}, tls=tls) as server:
        assert await score(server, grpc.ssl_channel_credentials(authority.cert_pem), "from outside") is Code.OK
