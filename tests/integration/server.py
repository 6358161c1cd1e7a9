"""A whole service for tests, in this process or in a child, with a small model of its own, and a client that keeps what
a call ended with.
"""

import asyncio
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate import config
from fraudgate.app import Service
from fraudgate.assembly import assemble
from fraudgate.demo.server import Server, free_ports, serve_command, to_toml
from fraudgate.errors import EngineFailed
from fraudgate.features.schema import FeatureSchema
from fraudgate.frontend.aio import SERVICE
from fraudgate.frontend.door import Door
from fraudgate.pipeline import Inference
from fraudgate.transaction import Float32
from fraudgate.v1 import features_pb2, features_pb2_grpc, latency_pb2_grpc, models_pb2_grpc, outcomes_pb2_grpc
from fraudgate.v1 import scoring_pb2 as pb
from tests.unit.onnx_graphs import int8_graph, publish_graph

try:
    import fraudgate_ingress
except ImportError:
    fraudgate_ingress = None

NOW = "2026-03-01T12:00:00+00:00"
"""What the server takes for the wall clock."""
NOW_SECONDS = int(datetime.fromisoformat(NOW).timestamp())
MODEL = "small"
COUNT = "CUSTOMER_ID_NB_TX_30DAY_WINDOW"
PATIENCE_SECONDS = 20.0
"""A test that waits longer than this hangs, and fails."""
MINUTE_NS = 60 * 10**9
HELD_GATE = {"gate_ns": MINUTE_NS, "budget_ns": 0}
"""[batching]: only a full batch closes, so that a test chooses what shares one."""

Sections = Mapping[str, Mapping[str, Any]]

frontend = "aio"
"""What servers get that do not say: see the fixture of this name."""


def publish_small_model(root: Path, schema: FeatureSchema | None = None) -> Path:
    """Publish a seeded INT8 model for ``schema`` (default: handbook) under ``root``; returns ``root``."""
    schema = schema or FeatureSchema.named("handbook")
    graph = int8_graph(features=len(schema.names))
    publish_graph(root, graph, name=MODEL, schema_fingerprint=schema.fingerprint)
    return root


IDEMPOTENCY_ENTRIES_MAX = 200_000
"""More than any test sends. The default's 200 MB would be cleared anew for every server of this process."""


def sections_of(models: Path, sections: Sections) -> dict[str, dict[str, Any]]:
    """A configuration on loopback ports of the system's choice, with a budget that a busy machine does not spend."""
    form: dict[str, dict[str, Any]] = {
        "server": {"frontend": frontend, **{f"{plane}_address": "127.0.0.1:0" for plane in ("data", "control", "ops")}},
        "batching": {"budget_ns": MINUTE_NS},
        "model": {"repository": str(models), "name": MODEL},
        "event_time": {"now": NOW},
        "idempotency": {"entries_max": IDEMPOTENCY_ENTRIES_MAX},
    }
    for name, values in sections.items():
        form[name] = {**form.get(name, {}), **values} if isinstance(values, Mapping) else values
    return form


# -- requests and what they end with -----------------------------------------------------------------------------------


def stamp(seconds: int = NOW_SECONDS, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


def transaction(id: str, **fields: Any) -> pb.Transaction:
    """A good transaction of customer ``C-<id>``; a field that is None is left out."""
    good = {
        "transaction_id": id,
        "event_time": stamp(),
        "amount_minor": 1_250,
        "currency": "EUR",
        "customer_id": f"C-{id}",
        "terminal_id": "T-1",
    }
    return pb.Transaction(**{name: value for name, value in {**good, **fields}.items() if value is not None})


def request(id: str, **fields: Any) -> pb.ScoreRequest:
    return pb.ScoreRequest(transaction=transaction(id, **fields))


@dataclass(frozen=True)
class End:
    """What one transaction, or one call, ended with."""

    code: grpc.StatusCode
    message: str = ""
    details: tuple[Message, ...] = ()
    body: bytes = b""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    """The header metadata."""

    @property
    def response(self) -> pb.ScoreResponse:
        assert self.code is grpc.StatusCode.OK, f"{self.code.name}: {self.message}"
        return pb.ScoreResponse.FromString(self.body)

    @property
    def replayed(self) -> bool:
        return self.metadata.get("idempotent-replay") == "1"

    @property
    def path(self) -> str:
        """The path of the one field that was refused."""
        (detail,) = self.details
        assert isinstance(detail, error_details_pb2.BadRequest)
        (violation,) = detail.field_violations
        assert self.message == f"{violation.field} {violation.description}"
        return str(violation.field)

    @property
    def retry_seconds(self) -> float:
        """What RetryInfo, the only detail, advises."""
        (detail,) = self.details
        assert isinstance(detail, error_details_pb2.RetryInfo)
        return float(detail.retry_delay.ToNanoseconds() / 1e9)


_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS: Sequence[type[Message]] = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.RetryInfo,
)


def _unpacked(status: status_pb2.Status) -> tuple[Message, ...]:
    found = []
    for packed in status.details:
        detail = next(kind() for kind in _DETAILS if packed.Is(kind.DESCRIPTOR))
        packed.Unpack(detail)
        found.append(detail)
    return tuple(found)


def end_of_row(result: pb.ScoreResult) -> End:
    """What one row of ScoreBatch or ScoreStream ended with."""
    if result.HasField("response"):
        return End(grpc.StatusCode.OK, body=result.response.SerializeToString())
    return End(_CODES[result.error.code], result.error.message, _unpacked(result.error))


def end_of_error(error: grpc.aio.AioRpcError) -> End:
    """What a call ended with that has no answer; its details must say the same as its status line."""
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    if status.details:
        assert (status.code, status.message) == (error.code().value[0], error.details())
    return End(error.code(), error.details() or "", _unpacked(status))


async def end_of(call: "grpc.aio.UnaryUnaryCall[Any, bytes]") -> End:
    """Wait for a call and keep what it ended with."""
    try:
        body = await asyncio.wait_for(call, PATIENCE_SECONDS)
    except grpc.aio.AioRpcError as error:
        return end_of_error(error)
    return End(grpc.StatusCode.OK, body=body, metadata=dict(await call.initial_metadata() or ()))


def unary(channel: grpc.aio.Channel, path: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    """A method that takes and gives bytes."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return method


class Client:
    """Speaks to both planes of a server; bodies go as bytes, so that a test may send what no stub would."""

    def __init__(self, data_target: str, control_target: str) -> None:
        self.data_port = int(data_target.rpartition(":")[2])
        # A pool of its own: channels to one target would share a connection, and a connection bounds its streams.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(data_target, options)
        self.control = grpc.aio.insecure_channel(control_target, options)
        self.features = features_pb2_grpc.FeatureServiceStub(self.control)
        self.outcomes = outcomes_pb2_grpc.OutcomeServiceStub(self.control)
        self.latency = latency_pb2_grpc.LatencyServiceStub(self.control)
        self.models = models_pb2_grpc.ModelServiceStub(self.control)
        self._score = unary(self.channel, f"/{SERVICE}/Score")
        self._score_batch = unary(self.channel, f"/{SERVICE}/ScoreBatch")
        self.score_stream: Any = self.channel.stream_stream(f"/{SERVICE}/ScoreStream")

    async def close(self) -> None:
        await self.channel.close()
        await self.control.close()

    def start_score(self, body: Message | bytes, **options: Any) -> "grpc.aio.UnaryUnaryCall[Any, bytes]":
        """Send a Score() and do not wait for it."""
        return self._score(_bytes(body), **options)

    async def score(self, body: Message | bytes, **options: Any) -> End:
        return await end_of(self.start_score(body, **options))

    async def score_all(self, bodies: Sequence[Message | bytes]) -> list[End]:
        """Score() each of them, all at once."""
        return await asyncio.gather(*map(self.score, bodies))

    def start_score_batch(self, body: Message | bytes, **options: Any) -> "grpc.aio.UnaryUnaryCall[Any, bytes]":
        """Send a ScoreBatch() and do not wait for it."""
        return self._score_batch(_bytes(body), **options)

    async def score_batch(self, body: Message | bytes, **options: Any) -> End:
        return await end_of(self.start_score_batch(body, **options))

    async def score_rows(self, rows: Sequence[pb.Transaction], **options: Any) -> list[End]:
        """ScoreBatch() of these rows: what each of them ended with. Ids must come back in order."""
        end = await self.score_batch(pb.ScoreBatchRequest(transactions=rows), **options)
        assert end.code is grpc.StatusCode.OK, end.message
        results = pb.ScoreBatchResponse.FromString(end.body).results
        assert [each.transaction_id for each in results] == [row.transaction_id for row in rows]
        return [end_of_row(each) for each in results]

    def start_rows(self, rows: Sequence[pb.Transaction], **options: Any) -> "asyncio.Task[list[End]]":
        """``score_rows`` that is not waited for. A server admits the rows of one call in one go."""
        return asyncio.create_task(self.score_rows(rows, **options))

    async def stream_all(self, bodies: Sequence[Message | bytes]) -> tuple[list[pb.ScoreResult], End]:
        """Send these messages down one ScoreStream and half-close: the results, and what the call ended with."""
        call = self.score_stream(_bytes(body) for body in bodies)
        return await read_to_end(call)

    async def count(self, customer_id: str) -> int:
        """Payments of this customer that its windows hold."""
        wanted = features_pb2.GetFeaturesRequest(entity="customer_id", id=customer_id)
        return int((await self.features.GetFeatures(wanted)).values[COUNT])


async def read_to_end(call: "grpc.aio.StreamStreamCall[Any, bytes]") -> tuple[list[pb.ScoreResult], End]:
    """Every result of a stream, and what the call ended with."""
    results: list[pb.ScoreResult] = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for body in call:
                results.append(pb.ScoreResult.FromString(body))
    except grpc.aio.AioRpcError as error:
        return results, end_of_error(error)
    return results, End(await call.code())


def _bytes(body: Message | bytes) -> bytes:
    return body if isinstance(body, bytes) else body.SerializeToString()


async def until(holds: Callable[[], bool]) -> None:
    """Give the loop away until ``holds()``."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.001)


# -- engines that do as the test says ----------------------------------------------------------------------------------


class HeldEngine:
    """An ``Inference`` that starts, says so, and waits to be let go."""

    def __init__(self, inner: Inference) -> None:
        self._inner = inner
        self._go = asyncio.Event()
        self.started = 0

    async def infer(self, slot: int) -> Float32:
        self.started += 1
        await self._go.wait()
        return await self._inner.infer(slot)

    def let_go(self) -> None:
        self._go.set()


class FailingEngine:
    """An ``Inference`` that raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error or EngineFailed("the device is gone")

    async def infer(self, slot: int) -> Float32:
        raise self._error


class FixedEngine:
    """An ``Inference`` with ready scores, float32[32]."""

    def __init__(self, scores: Float32) -> None:
        self._scores = scores

    async def infer(self, slot: int) -> Float32:
        return self._scores


class JumpingClock:
    """A clock of module ``time``, which a test can put forward; the native front end's goes with the monotonic one."""

    def __init__(self, name: str = "monotonic_ns") -> None:
        self._ahead_ns = 0
        self._clock: Callable[[], int] = getattr(time, name)
        self._native = fraudgate_ingress if name == "monotonic_ns" else None

    @classmethod
    @contextmanager
    def everywhere(cls) -> "Iterator[JumpingClock]":
        """The monotonic clock of every service made meanwhile."""
        clock = cls()
        with pytest.MonkeyPatch.context() as patch:
            for module in ("app", "assembly", "frontend.aio_server", "frontend.native"):
                patch.setattr(f"fraudgate.{module}.monotonic_ns", clock)
            yield clock
        clock.ahead_ns = 0

    @property
    def ahead_ns(self) -> int:
        return self._ahead_ns

    @ahead_ns.setter
    def ahead_ns(self, ahead_ns: int) -> None:
        self._ahead_ns = ahead_ns
        if self._native is not None:
            self._native.set_clock_ahead_ns(ahead_ns)

    def __call__(self) -> int:
        return self._clock() + self._ahead_ns


# -- in this process ---------------------------------------------------------------------------------------------------


class Running(Client):
    """A service in this process, and a client of it."""

    def __init__(self, service: Service, lines: list[str]) -> None:
        super().__init__(f"127.0.0.1:{service.data_port}", f"127.0.0.1:{service.control_port}")
        self.service = service
        self.lines = lines
        """What the service said."""
        self._draining: asyncio.Task[int] | None = None

    def use(self, inference: Inference) -> None:
        """Let this decide from the next batch on."""
        pipeline = self.service.parts.pipeline
        pipeline.live = dataclasses.replace(pipeline.live, inference=inference)

    def hold(self) -> HeldEngine:
        """Hold every batch in the engine from now on."""
        held = HeldEngine(self.service.parts.pipeline.live.inference)
        self.use(held)
        return held

    async def fill_in_flight(self) -> "list[asyncio.Task[list[End]]]":
        """Behind a held engine: two full batches, as many as may be in flight. The two calls."""
        calls: list[asyncio.Task[list[End]]] = []
        for batch in (1, 2):
            calls.append(self.start_rows([transaction(f"ahead {batch}-{i}") for i in range(32)]))
            await until(lambda: self.service.door.shell.batches_in_flight == len(calls))
        return calls

    async def fill(self, rows: Sequence[pb.Transaction], queued: int = -1) -> "list[asyncio.Task[list[End]]]":
        """``fill_in_flight``, then ``rows`` behind them, of which ``queued`` (all) are queued. The three calls."""
        calls = [*await self.fill_in_flight(), self.start_rows(rows)]
        await until(lambda: self.queued == (len(rows) if queued < 0 else queued))
        return calls

    @property
    def queued(self) -> int:
        """Transactions in the batcher."""
        return self.service.door.shell.batcher.rows

    async def abandoned(self, rows: int, connections: int = 1) -> None:
        """Wait until the door knows that the callers of so many rows of the open batch are gone.

        ``connections``: those that are still open then, this client's among them.
        """
        door: Any = self.service.door
        if isinstance(door, Door):
            entries = door.shell.batcher._open
            await until(lambda: sum(entry.future.cancelled() for entry in entries) == rows)
        else:
            # A connection is read in order: when a call sent later is answered, the resets before it have been seen.
            await HealthStub(self.channel).Check(HealthCheckRequest())
            await until(lambda: door._native.connections == connections)

    def refusals(self, reason: str) -> int:
        return self.service.parts.counters.copy().refusals.get(reason, 0)

    def total(self, name: str) -> int:
        return self.service.parts.counters.copy().totals[name]

    def start_drain(self) -> "asyncio.Task[int]":
        """Drain, once; the task's result is the exit status."""
        if self._draining is None:
            self._draining = asyncio.create_task(self.service.drain())
        return self._draining


@asynccontextmanager
async def serve(models: Path, **sections: Any) -> AsyncIterator[Running]:
    """A service with these sections over the defaults of ``sections_of``; drained at the end."""
    settings = msgspec.convert(sections_of(models, sections), config.Config)
    settings.check()
    lines: list[str] = []
    service = Service(assemble(settings, lines.append), lines.append)
    await service.start()
    running = Running(service, lines)
    try:
        yield running
    finally:
        await running.close()
        await running.start_drain()


# -- in a child --------------------------------------------------------------------------------------------------------


class Child(Client):
    """``python -m fraudgate serve`` in a child process, and a client of it."""

    def __init__(self, process: Server, lines: list[str]) -> None:
        super().__init__(process.target, process.control)
        self.process = process
        self.lines = lines
        """What the child printed, both streams."""

    def send(self, number: signal.Signals) -> None:
        self.process._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process: its exit status, negative for a signal."""
        status: int = await asyncio.wait_for(asyncio.to_thread(self.process._process.wait), PATIENCE_SECONDS)
        await asyncio.to_thread(self.process._reader.join)
        return status

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    @property
    def resident_bytes(self) -> int:
        return self.process.resident_bytes() or 0


@contextmanager
def serve_command_of(directory: Path, models: Path, sections: Sections) -> Iterator[tuple[Server, list[str]]]:
    """The child process alone, started and not waited for; its files lie in ``directory``."""
    ports = free_ports()
    addresses = {
        "data_address": f"127.0.0.1:{ports.data}",
        "control_address": f"127.0.0.1:{ports.control}",
        "ops_address": f"127.0.0.1:{ports.ops}",
    }
    form = sections_of(models, {**sections, "server": {**addresses, **sections.get("server", {})}})
    path = directory / "fraudgate.toml"
    path.write_text(to_toml(form), "utf-8")
    lines: list[str] = []
    with Server("test", serve_command(path, frontend), ports, lines.append) as process:
        yield process, lines


@asynccontextmanager
async def serve_child(directory: Path, models: Path, **sections: Mapping[str, Any]) -> AsyncIterator[Child]:
    """A child that is SERVING. It is stopped at the end, if it still runs."""
    with serve_command_of(directory, models, sections) as (process, lines):
        await process.serving()
        child = Child(process, lines)
        try:
            yield child
        finally:
            await child.close()
