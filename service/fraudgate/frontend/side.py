"""Health and reflection behind the native front end: the same servicers as under grpc.aio, fed message by message."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from fraudgate.frontend.native_door import wire
from fraudgate.frontend.refusals import Refusal

_log = logging.getLogger(__name__)

Send = Callable[[bytes], None]


class _AbortError(Exception):
    """A servicer ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.refusal = Refusal(code.value[0], details)


class _Context:
    """What the servicers use of a gRPC context."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def write(self, message: Message) -> None:
        self._send(message.SerializeToString())

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise _AbortError(code, details)


@dataclass(slots=True)
class _Call:
    """One open call: what answers its messages, and the task that does, while one does."""

    answer: Callable[[bytes, Send], Awaitable[None]]
    """Raises _AbortError, or DecodeError."""
    streams: bool
    """It takes any number of messages; else it ends when its first is answered."""
    task: "asyncio.Task[None] | None" = None


class SideDoor:
    """Answers the calls that the native front end leaves to Python."""

    def __init__(self, native: Any, health_servicer: health.aio.HealthServicer, services: list[str]) -> None:
        self._native = native
        self._health = health_servicer
        self._reflection = reflection.ReflectionServicer(services)
        self._calls: dict[int, _Call] = {}
        self._methods = {
            "/grpc.health.v1.Health/Check": (self._check, False),
            "/grpc.health.v1.Health/Watch": (self._watch, False),
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (self._reflect, True),
        }

    def hear(self) -> None:
        """Take in what has happened since the last time."""
        for number, what, payload in self._native.side_events():
            if what == "open":
                self._open(number, payload)
            elif (call := self._calls.get(number)) is None:
                continue
            elif what == "message":
                call.task = asyncio.create_task(self._answer(number, call, payload))
            elif what == "half_close" and call.task is None:
                self._end(number, None)
            elif what == "gone":
                self._forget(number)

    def _open(self, number: int, path: str) -> None:
        method = self._methods.get(path)
        if method is None:
            self._native.side_end(number, wire(Refusal(grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!")))
        else:
            self._calls[number] = _Call(*method)

    def _end(self, number: int, refusal: Refusal | None) -> None:
        self._native.side_end(number, None if refusal is None else wire(refusal))
        self._calls.pop(number, None)

    def _forget(self, number: int) -> None:
        call = self._calls.pop(number)
        if call.task is not None:
            call.task.cancel()

    async def _answer(self, number: int, call: _Call, body: bytes) -> None:
        refusal = None
        try:
            await call.answer(body, lambda message: self._native.side_send(number, message))
        except _AbortError as aborted:
            refusal = aborted.refusal
        except DecodeError:
            refusal = Refusal(grpc.StatusCode.INTERNAL.value[0], "Exception deserializing request!")
        except Exception:  # a broken answer must end its call, not the loop
            _log.exception("a health or reflection call failed")
            refusal = Refusal(grpc.StatusCode.INTERNAL.value[0], "our fault")
        call.task = None
        if refusal is not None or not call.streams:
            self._end(number, refusal)

    async def _check(self, body: bytes, send: Send) -> None:
        request = health_pb2.HealthCheckRequest.FromString(body)
        answer: Any = await self._health.Check(request, _Context(send))
        send(answer.SerializeToString())

    async def _watch(self, body: bytes, send: Send) -> None:
        await self._health.Watch(health_pb2.HealthCheckRequest.FromString(body), _Context(send))

    async def _reflect(self, body: bytes, send: Send) -> None:
        request = reflection_pb2.ServerReflectionRequest.FromString(body)
        for answer in self._reflection.ServerReflectionInfo(iter([request]), None):
            send(answer.SerializeToString())
