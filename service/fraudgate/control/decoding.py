"""Control-plane requests that do not decode: the contract's status, where grpc would say UNKNOWN and a class name."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from fraudgate.frontend import refusals
from fraudgate.frontend.aio import abort

_UNDECODABLE = refusals.invalid("request", "does not decode: cut, or not UTF-8")


class Decoding(grpc.aio.ServerInterceptor):
    """Decodes within the call, where a refusal can still be sent."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or (handler.response_streaming and not handler.request_streaming):
            return handler  # nobody's, or the health service's Watch
        wrapped = {name: wrap(handler) for name, wrap in _WRAPS.items() if getattr(handler, name) is not None}
        return handler._replace(request_deserializer=None, **wrapped)


def _unary_unary(handler: Any) -> Any:
    async def answer(body: bytes, context: Any) -> Any:
        return await handler.unary_unary(await _decode(handler, body, context), context)

    return answer


def _stream_unary(handler: Any) -> Any:
    async def answer(bodies: AsyncIterator[bytes], context: Any) -> Any:
        return await handler.stream_unary(_requests(handler, bodies, context), context)

    return answer


def _stream_stream(handler: Any) -> Any:
    async def answer(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        async for response in handler.stream_stream(_requests(handler, bodies, context), context):
            yield response

    return answer


_WRAPS = {"unary_unary": _unary_unary, "stream_unary": _stream_unary, "stream_stream": _stream_stream}


async def _requests(handler: Any, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
    async for body in bodies:
        yield await _decode(handler, body, context)


async def _decode(handler: Any, body: bytes, context: Any) -> Any:
    try:
        return handler.request_deserializer(body)
    except DecodeError:
        await abort(context, _UNDECODABLE)
