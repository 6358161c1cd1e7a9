"""gRPC calls written by hand, frame by frame, for what no gRPC client would send: a message that is cut, a connection
that is dropped, a deadline that has passed, an encoding that nobody knows, thousands of calls in one write. RFC 9113.
"""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from hpack import Decoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW_MAX = 2**31 - 1
WINDOW_DEFAULT = 65_535
"""Bytes that a call may send before the server has said that it takes more."""
_FRAME_MAX = 16_384
PATIENCE_SECONDS = 30


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class RawEnd(NamedTuple):
    """How the server ended a call."""

    status: str
    """grpc-status, or "reset", or "closed" with the connection."""
    details: bytes = b""
    """An encoded google.rpc.Status, where there is one."""


def grpc_message(body: bytes, length: int | None = None, compressed: bool = False) -> bytes:
    """A length-prefixed message; ``length`` may lie."""
    return bytes([compressed]) + (len(body) if length is None else length).to_bytes(4) + body


class RawConnection:
    """A connection that a test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._decoder = Decoder()

    @classmethod
    async def open(cls, port: int) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = cls(reader, writer)
        writer.write(_PREFACE)
        connection.write(SETTINGS, 0, 0, b"")
        connection.write(WINDOW_UPDATE, 0, 0, (_WINDOW_MAX - WINDOW_DEFAULT).to_bytes(4))
        return connection

    def write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.writer.write(len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload)

    def start_call(self, path: str, headers: Mapping[str, str] | None = None, stream: int = 1) -> None:
        """HEADERS of a call; its messages follow."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **(headers or {}),
        }
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())
        self.write(HEADERS, END_HEADERS, stream, block)

    async def read_frame(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        try:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(head[3], head[4], int.from_bytes(head[5:9]), payload)

    async def ends_of_calls(self, streams: Sequence[int]) -> list[RawEnd]:
        """Wait for these calls: how each of them ended."""
        ends: dict[int, RawEnd] = {}
        wanted = set(streams)
        while wanted and (frame := await self.read_frame()) is not None:
            if frame.kind in (SETTINGS, PING) and not frame.flags & ACK:
                self.write(frame.kind, ACK, 0, frame.payload if frame.kind == PING else b"")
            elif frame.kind == HEADERS:
                assert frame.flags & END_HEADERS
                headers = dict(self._decoder.decode(frame.payload))
                if frame.flags & END_STREAM:
                    ends[frame.stream] = RawEnd(headers["grpc-status"], _unpadded(headers))
            elif frame.kind == RST_STREAM:
                ends.setdefault(frame.stream, RawEnd("reset"))
            wanted.discard(frame.stream if frame.stream in ends else 0)
        return [ends.get(stream, RawEnd("closed")) for stream in streams]

    async def call(self, path: str, data: bytes, headers: Mapping[str, str] | None = None) -> RawEnd:
        """One call with these bytes after its headers, half-closed: how it ended."""
        self.start_call(path, headers)
        for start in range(0, len(data), _FRAME_MAX):
            self.write(DATA, 0, 1, data[start : start + _FRAME_MAX])
        self.write(DATA, END_STREAM, 1, b"")
        async with asyncio.timeout(PATIENCE_SECONDS):
            (end,) = await self.ends_of_calls([1])
        return end

    async def call_at_once(self, path: str, bodies: Sequence[bytes]) -> list[RawEnd]:
        """One call for each body, all sent before the first end is read: how each of them ended."""
        streams = range(1, 2 * len(bodies), 2)
        for stream, body in zip(streams, bodies, strict=True):
            self.start_call(path, stream=stream)
            self.write(DATA, END_STREAM, stream, grpc_message(body))
        return await self.ends_of_calls(streams)

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    def vanish(self) -> None:
        """Drop the connection without a word."""
        self.writer.transport.abort()


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data


def _unpadded(headers: Mapping[str, str]) -> bytes:
    """The bytes of grpc-status-details-bin, whose base64 need not be padded."""
    text = headers.get("grpc-status-details-bin", "")
    return base64.b64decode(text + "=" * (-len(text) % 4))
