"""A peer of the native front end that speaks HTTP/2 through hyper-h2, which nobody here wrote, and writes whatever
bytes a test likes beside it; and what every server must still do after such a peer.
"""

import asyncio
import re
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.connection import ConnectionInputs as Input
from h2.connection import ConnectionState as State
from h2.errors import ErrorCodes
from hpack import Encoder

from fraudgate.demo.server import Server, free_ports, serve_command, to_toml
from fraudgate.frontend.aio import SERVICE
from fraudgate.latency.recorder import TOTALS
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, Child, Running, request, sections_of, serve

SCORE, SCORE_BATCH, SCORE_STREAM = (f"/{SERVICE}/{name}" for name in ("Score", "ScoreBatch", "ScoreStream"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0x0, 0x1, 0x3, 0x4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0x6, 0x7, 0x8, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4
WINDOW_MAX = 2**31 - 1
MIB = 1 << 20

Headers = Iterable[tuple[str, str]]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def setting(key: int, value: int) -> bytes:
    return key.to_bytes(2) + value.to_bytes(4)


def message(body: bytes, length: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix, which may lie."""
    return bytes([compressed]) + (len(body) if length is None else length).to_bytes(4) + body


def head(path: str = SCORE, **others: str) -> list[tuple[str, str]]:
    """The headers of a call; an empty value leaves one out."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in others.items() if name != "method"},
    }
    fields[":method"] = others.get("method", "POST")
    return [(name, value) for name, value in fields.items() if value]


def block(headers: Headers) -> bytes:
    """Headers as a peer with an empty table spells them, and without a change to the server's."""
    return Encoder().encode([(name, value, True) for name, value in headers])


class Ended(NamedTuple):
    """How a call ended."""

    status: int | None = None
    """HTTP status."""
    code: int | None = None
    """grpc-status."""
    text: str = ""
    """grpc-message."""
    data: bytes = b""
    reset: int | None = None
    closed: bool = False
    """The connection went before the call's end."""

    @property
    def response(self) -> pb.ScoreResponse:
        assert self.code == 0, self
        return pb.ScoreResponse.FromString(self.data[5:])


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        # A server that drains says GOAWAY twice with a PING between (RFC 9113, 6.8); hyper-h2 hears nothing after one.
        machine = self.h2.state_machine
        machine._transitions = {**machine._transitions, (State.CLOSED, Input.RECV_PING): (None, State.CLOSED)}
        self.events: list[h2.events.Event] = []
        """What the server has said and nobody has looked for."""
        self.initiated = False
        """hyper-h2 has a part in this: else what the server says is not looked at."""
        self.ended = False

    @classmethod
    async def connect(cls, address: int | str, tls: ssl.SSLContext | None = None) -> Self:
        """A connection to a port, or to the path of a Unix socket, on which nothing has been said."""
        if isinstance(address, str):
            return cls(*await asyncio.open_unix_connection(address))
        return cls(*await asyncio.open_connection("127.0.0.1", address, ssl=tls))

    @classmethod
    async def greet(
        cls, address: int | str, settings: Mapping[int, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> Self:
        """A connection past both sides' SETTINGS."""
        peer = await cls.connect(address, tls)
        peer.h2.local_settings = h2.settings.Settings(client=True, initial_values=dict(settings or {}))
        await peer.initiate()
        await peer.wait_for(h2.events.SettingsAcknowledged)
        return peer

    async def initiate(self) -> None:
        """Send the preface and SETTINGS."""
        self.initiated = True
        self.h2.initiate_connection()
        await self.flush()

    def write(self, data: bytes) -> None:
        """Bytes that hyper-h2 knows nothing of."""
        self.writer.write(data)

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        with suppress(ConnectionError):
            await self.writer.drain()

    async def hear(self) -> None:
        """Take in what comes next, and answer SETTINGS and PINGs."""
        try:
            data = await self._reader.read(1 << 16)
        except ConnectionError:
            data = b""
        self.ended = not data
        if self.initiated:
            self.events += self.h2.receive_data(data) if data else []
            await self.flush()

    async def wait_for(self, kind: type[h2.events.Event], stream: int | None = None) -> h2.events.Event | None:
        """The next event of a kind; None when the connection ends without. Events before it stay."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                        self.events.remove(event)
                        return event
                if self.ended:
                    return None
                await self.hear()

    async def goodbye(self) -> ErrorCodes | None:
        """Wait for the end of the connection: the code of its GOAWAY, if one came."""
        goaway = await self.wait_for(h2.events.ConnectionTerminated)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.ended:
                with suppress(h2.exceptions.ProtocolError):
                    await self.hear()
        return None if goaway is None else ErrorCodes(goaway.error_code)

    async def start(self, headers: Headers, data: bytes | None = None, end: bool = True) -> int:
        """Open a call; its number. ``data`` is all of its body, or its first part if not ``end``."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end and data is None)
        if data is not None:
            await self.send(stream, data, end)
        await self.flush()
        return stream

    async def send(self, stream: int, data: bytes, end: bool = True) -> None:
        """DATA, as fast as the server's windows let it, until the server has ended the call."""
        with suppress(h2.exceptions.StreamClosedError):
            while data:
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data))
                if room:
                    self.h2.send_data(stream, data[:room])
                    data = data[room:]
                    await self.flush()
                elif self.over(stream):
                    return
                else:
                    await self.hear()
            if end:
                self.h2.end_stream(stream)
        await self.flush()

    def over(self, stream: int) -> bool:
        """The server has ended a call, or its connection."""
        ends = h2.events.StreamEnded | h2.events.StreamReset
        return self.ended or any(isinstance(event, ends) and event.stream_id == stream for event in self.events)

    async def end_of(self, stream: int) -> Ended:
        """Wait for a call to end, and take its data."""
        seen: dict[str, str] = {}
        data, reset = b"", None
        while (event := await self.wait_for(h2.events.Event, stream)) is not None:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                seen |= {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                data += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamReset):
                reset = event.error_code
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                break
        await self.flush()
        status, code = seen.get(":status"), seen.get("grpc-status")
        return Ended(
            status=int(status) if status else None,
            code=int(code) if code else None,
            text=seen.get("grpc-message", ""),
            data=data,
            reset=reset,
            closed=event is None,
        )

    async def call(self, headers: Headers, data: bytes | None = None) -> Ended:
        return await self.end_of(await self.start(headers, data))

    async def score(self, name: str) -> Ended:
        """A good call."""
        return await self.call(head(), message(request(name).SerializeToString()))

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


class Numbers:
    """Names for good calls: a transaction id is used once."""

    last = 0

    @classmethod
    def name(cls) -> str:
        cls.last += 1
        return f"good {cls.last}"


async def assert_decides(peer: Peer) -> None:
    ended = await peer.score(Numbers.name())
    assert ended.response.decision in (pb.APPROVE, pb.REVIEW, pb.DECLINE)


class Native(Protocol):
    """A server with the native front end, here or in a child."""

    data_port: int

    async def totals(self) -> Mapping[str, int]:
        """Its named totals."""


async def watched(server: Native) -> dict[str, int]:
    """The totals that strangers move, by their short names; and panics."""
    totals = await server.totals()
    names = [name for name in TOTALS if name.startswith(("fraudgate_connections_", "fraudgate_answers_"))]
    short = {name.removeprefix("fraudgate_").removesuffix("_total"): totals[name] for name in names}
    del short["connections"]
    return short | {"panics": totals["fraudgate_native_panics_total"]}


@asynccontextmanager
async def bystander(address: int | str, tls: ssl.SSLContext | None) -> AsyncIterator[Peer]:
    """A connection that is decided for, call after call, all the while."""
    peer = await Peer.greet(address, tls=tls)

    async def call() -> None:
        while True:
            await assert_decides(peer)
            await asyncio.sleep(0)

    await assert_decides(peer)
    calling = asyncio.create_task(call())
    yield peer
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    await peer.close()


@asynccontextmanager
async def withstands(
    server: Native, address: int | str | None = None, tls: ssl.SSLContext | None = None, **moved: int | range
) -> AsyncIterator[Peer]:
    """An attack stands within. All the while calls on one connection are decided, and after it those on one from before
    and on a new one; the totals in ``moved`` moved by so much, the others not at all, and nothing panicked. Yields the
    connection from before.
    """
    address = address or server.data_port
    before = await watched(server)
    assert moved.keys() <= before.keys()
    wanted = {name: by if isinstance(by := moved.get(name, 0), range) else range(by, by + 1) for name in before}
    neighbour = await Peer.greet(address, tls=tls)
    await assert_decides(neighbour)
    async with bystander(address, tls):
        yield neighbour
    await assert_decides(neighbour)
    newcomer = await Peer.greet(address, tls=tls)
    await assert_decides(newcomer)
    for _ in range(200):  # an end is counted just after the peer has seen it
        after = await watched(server)
        wrong = {name: by for name in wanted if (by := after[name] - before[name]) not in wanted[name]}
        if not wrong:
            break
        await asyncio.sleep(0.01)
    assert not wrong, f"moved by {wrong}"
    await neighbour.close()
    await newcomer.close()


class NativeRunning(Running):
    """A service in this process with the native front end."""

    async def totals(self) -> Mapping[str, int]:
        return self.service.parts.counters.copy().totals


@asynccontextmanager
async def serve_native(models: Path, **sections: Mapping[str, object]) -> AsyncIterator[NativeRunning]:
    """A service in this process with the native front end; drained at the end."""
    server = {"frontend": "native", **sections.pop("server", {})}
    async with serve(models, server=server, **sections) as running:
        running.__class__ = NativeRunning
        yield running


class NativeChild(Child):
    """A service in a child process with the native front end."""

    ops_port: int

    async def totals(self) -> Mapping[str, int]:
        """What ``/metrics`` says."""
        text = await asyncio.to_thread(self._metrics)
        counts = {name: float(count) for name, count in re.findall(r"^(fraudgate_\w+) (\S+)$", text, re.MULTILINE)}
        return {name: int(counts[name]) for name in TOTALS}

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
            return text


@asynccontextmanager
async def serve_native_child(
    directory: Path, models: Path, **sections: Mapping[str, Any]
) -> AsyncIterator[NativeChild]:
    """A child that is SERVING, and stopped at the end."""
    ports = free_ports()
    addresses = {f"{plane}_address": f"127.0.0.1:{getattr(ports, plane)}" for plane in ("data", "control", "ops")}
    form = sections_of(models, {**sections, "server": {**addresses, **sections.get("server", {})}})
    path = directory / "native.toml"
    path.write_text(to_toml(form), "utf-8")
    lines: list[str] = []
    with Server("native", serve_command(path, "native"), ports, lines.append) as process:
        await process.serving()
        child = NativeChild(process, lines)
        child.ops_port = ports.ops
        try:
            yield child
        finally:
            await child.close()


# -- as fast as a socket takes it --------------------------------------------------------------------------------------


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Poured(NamedTuple):
    """What a server said to a flood."""

    frames: list[Frame]
    closed: bool

    @property
    def goaway(self) -> ErrorCodes | None:
        codes = [int.from_bytes(each.payload[4:8]) for each in self.frames if each.kind == GOAWAY]
        return ErrorCodes(codes[-1]) if codes else None

    def resets(self, code: ErrorCodes) -> int:
        return sum(each.kind == RST_STREAM and int.from_bytes(each.payload) == code for each in self.frames)


LAST_WORD = b"the last"
"""The payload of the PING after which a flood that is read has been answered."""


async def pour(port: int, chunks: Iterable[bytes], settings: bytes = b"", read: bool = True) -> Poured:
    """Send a preface, SETTINGS and these bytes as fast as the server takes them; read what it says until it has
    answered a last PING or closed the connection. Without ``read`` nothing is read before it stops to take more.
    """
    return await asyncio.to_thread(_pour, port, b"".join([PREFACE, frame(SETTINGS, settings), *chunks]), read)


def _pour(port: int, data: bytes, read: bool) -> Poured:
    with socket.socket() as flood:
        if not read:
            flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        flood.connect(("127.0.0.1", port))
        flood.settimeout(PATIENCE_SECONDS)
        heard: list[bytes] = []
        receiving = Thread(target=_receive, args=(flood, heard)) if read else None
        if receiving:
            receiving.start()
        with suppress(ConnectionError):
            flood.sendall(data + frame(PING, LAST_WORD))
        if receiving:
            receiving.join()
        else:
            _receive(flood, heard)
        return _frames(b"".join(heard))


def _receive(flood: socket.socket, heard: list[bytes]) -> None:
    with suppress(ConnectionError):
        while chunk := flood.recv(1 << 16):
            heard.append(chunk)
            if LAST_WORD in b"".join(heard[-2:])[-len(chunk) - len(LAST_WORD) :]:
                return
        heard.append(b"")


def _frames(heard: bytes) -> Poured:
    frames, at = [], 0
    while len(heard) >= at + 9:
        end = at + 9 + int.from_bytes(heard[at : at + 3])
        frames.append(Frame(heard[at + 3], heard[at + 4], int.from_bytes(heard[at + 5 : at + 9]), heard[at + 9 : end]))
        at = end
    return Poured(frames, closed=not any(each.payload == LAST_WORD for each in frames))
