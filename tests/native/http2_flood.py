"""Bytes poured into the native front end as fast as a socket takes them, and what it says to that."""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from threading import Thread
from typing import NamedTuple

from h2.errors import ErrorCodes

from tests.integration.server import PATIENCE_SECONDS
from tests.native.http2_peer import GOAWAY, PING, PREFACE, RST_STREAM, SETTINGS, frame


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
    answered a last PING or closed the connection. Without ``read`` nothing is read before it has closed it.
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
