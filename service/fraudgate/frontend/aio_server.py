"""The reference front end: a grpc.aio server around the door and the handlers. It runs wherever pip works."""

import ssl
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fraudgate.batching.admission import Admission
from fraudgate.batching.batcher import Batcher
from fraudgate.clock import monotonic_ns
from fraudgate.config import Config
from fraudgate.editions import Editions
from fraudgate.errors import ConfigError, address_taken
from fraudgate.frontend import aio, callers
from fraudgate.frontend.callers import Callers
from fraudgate.frontend.door import Door, Entry
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.pipeline import Pipeline
from fraudgate.sections import Tls


class AioFrontend:
    """The data plane in Python."""

    name = "grpc.aio"

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        editions: Editions,
        recorder: Recorder,
        counters: Counters,
        health_servicer: health.aio.HealthServicer,
        services: list[str],
    ) -> None:
        """Bind the address. Raises ConfigError."""
        batching = config.batching
        batcher: Batcher[Entry] = Batcher(
            gate_ns=batching.gate_ns, queue_rows_max=batching.queue_rows_max, policy=batching.policy
        )
        known = callers.known(config)
        admission = Admission(callers.bounds(config, known), batcher)
        self.door = Door(pipeline, batcher, editions, recorder, counters, monotonic_ns, admission)
        counters.levels = lambda: {"fraudgate_queue_rows": batcher.rows}
        told_apart = Callers(known, config.admission.callers_required)
        self._handlers = aio.ScoringHandlers(self.door, counters, monotonic_ns, told_apart)
        self.calls = self._handlers.calls
        self._server = grpc.aio.server(options=aio.server_options(config.server.streams_max))
        self._server.add_generic_rpc_handlers((self._handlers.generic_handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, self._server)
        reflection.enable_server_reflection(services, self._server)
        self._port = listen(self._server, config.server.data_address, credentials(config.tls))

    async def start(self) -> int:
        """Start to accept. Returns the port."""
        await self._server.start()
        return self._port

    def end_streams(self) -> None:
        """Read no stream any further: each finishes what was read and ends UNAVAILABLE."""
        self._handlers.end_streams()

    async def stop(self, patience_seconds: float) -> None:
        """Close the port, give open calls that long and end."""
        await self._server.stop(patience_seconds)


def credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """The TLS of a server, None without a certificate. The files have been checked."""
    if not tls.cert:
        return None
    key, cert = Path(tls.key).read_bytes(), Path(tls.cert).read_bytes()
    client_ca = Path(tls.client_ca).read_bytes() if tls.client_ca else None
    return grpc.ssl_server_credentials([(key, cert)], client_ca, require_client_auth=client_ca is not None)


def check_certificates(tls: Tls) -> None:
    """Raise ConfigError for files that a TLS library would refuse without saying why."""
    if not tls.cert:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        for file in filter(None, (tls.cert, tls.key, tls.client_ca)):
            Path(file).read_bytes()  # ssl's own error would not name the file
        context.load_cert_chain(tls.cert, tls.key, password=lambda: "")  # an encrypted key is refused, not asked about
        if tls.client_ca:
            context.load_verify_locations(tls.client_ca)
    except ssl.SSLError as error:
        raise ConfigError(
            f"[tls]: cert, key and client_ca must be PEM, and the key the certificate's: {error}"
        ) from error
    except OSError as error:
        raise ConfigError(f"[tls]: {error.filename}: {error.strerror}") from error


def listen(server: grpc.aio.Server, address: str, secrets: grpc.ServerCredentials | None) -> int:
    """Bind a server to an address. Returns the port. Raises ConfigError when it cannot be had."""
    try:
        if secrets is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, secrets)
    except RuntimeError as error:
        raise address_taken(address, error) from error
