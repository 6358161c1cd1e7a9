"""A peer of the native front end that speaks HTTP/2 through hyper-h2, which nobody here wrote, and writes whatever
bytes a test likes beside it; and what every server must still do after such a peer.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, NamedTuple, Self

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.connection import ConnectionInputs as Input
from h2.connection import ConnectionState as State
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder

from fraudgate.frontend.aio import SERVICE
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, request

SCORE, SCORE_BATCH, SCORE_STREAM = (f"/{SERVICE}/{name}" for name in ("Score", "ScoreBatch", "ScoreStream"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0x0, 0x1, 0x3, 0x4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0x6, 0x7, 0x8, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4
WINDOW_MAX = 2**31 - 1
RETRY_SECONDS = 0.05
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
        self.acknowledges = True
        """It opens the connection's window again by what it has read."""

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
        peer.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={SettingCodes(key): value for key, value in (settings or {}).items()}
        )
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

    async def wait_for(
        self, kind: type[h2.events.Event] | UnionType, stream: int | None = None
    ) -> h2.events.Event | None:
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
        goaway: Any = await self.wait_for(h2.events.ConnectionTerminated)
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
                if self.acknowledges:
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
    """A good call is decided; where the queue is full of others' calls, on a retry, as the contract asks."""
    name = Numbers.name()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (ended := await peer.score(name)).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]:
            await asyncio.sleep(RETRY_SECONDS)
    assert ended.response.decision in (pb.APPROVE, pb.REVIEW, pb.DECLINE)
