"""A client of ScoringService, blocking or for asyncio: a deadline by default, and retries that count no payment twice.

    with Client("127.0.0.1:50051") as client:
        payment = transaction("tx-1", event_time=now, amount_minor=1250, currency="EUR", customer_id="C-7")
        reply = client.score(payment)
        reply.response.decision, reply.replayed

A call is repeated as ``fraudgate.retry`` says, with the same transaction_id, within its deadline. A refusal is a
``Refused`` and never looks like a decision: ``score`` raises it, a batch or a stream puts it in its row's place.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, repeat
from operator import index
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate.limits import SECOND_NS
from fraudgate.retry import Patience, Refused, Reply, Result, Retry, result_of
from fraudgate.v1 import scoring_pb2 as pb
from fraudgate.v1.scoring_pb2_grpc import ScoringServiceStub

__all__ = ["AsyncClient", "Client", "Refused", "Reply", "Result", "Retry", "transaction"]

DEADLINE_S = 0.5  # for a call with all its retries
# A lost connection is tried again within a call's deadline; grpc would wait a second.
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 1_000))
Answer = TypeVar("Answer")


def transaction(
    transaction_id: str,
    *,
    event_time: datetime | int,
    amount_minor: int,
    currency: str,
    customer_id: str = "",
    terminal_id: str = "",
    card_id: str = "",
    merchant_id: str = "",
    device_id: str = "",
    ip_address: str = "",
    attributes: Mapping[str, float] | None = None,
) -> pb.Transaction:
    """A Transaction from Python's types; an empty id is unknown.

    event_time: aware, or nanoseconds since 1970; amount_minor: an integer, such as cents. TypeError for anything else.
    """
    if isinstance(amount_minor, bool):
        raise TypeError("amount_minor is an integer number of minor units (cents), not a bool")
    return pb.Transaction(
        transaction_id=transaction_id,
        event_time=_timestamp(event_time),
        amount_minor=index(amount_minor),
        currency=currency,
        customer_id=customer_id,
        terminal_id=terminal_id,
        card_id=card_id,
        merchant_id=merchant_id,
        device_id=device_id,
        ip_address=ip_address,
        attributes=attributes,
    )


def _timestamp(instant: datetime | int) -> Timestamp:
    if not isinstance(instant, datetime):
        seconds, nanos = divmod(index(instant), SECOND_NS)
        return Timestamp(seconds=seconds, nanos=nanos)
    if instant.tzinfo is None:
        raise TypeError(f"event_time {instant} has no time zone: which instant is it?")
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


class _Client:
    """Both clients, less their IO."""

    _grpc: Any  # the module that makes channels
    _send: Callable[[Any, float], Coroutine[Any, Any, tuple[Any, Any]]]  # one attempt: the response, header metadata
    _pause: Callable[[float], Coroutine[Any, Any, None]]

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float = DEADLINE_S,
        credentials: grpc.ChannelCredentials | None = None,
        retry: Retry | None = None,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        """``credentials``: of grpc.ssl_channel_credentials(), for TLS and mTLS; None = plain text."""
        if credentials is None:
            self._channel = self._grpc.insecure_channel(target, _OPTIONS)
        else:
            self._channel = self._grpc.secure_channel(target, credentials, _OPTIONS)
        stub = ScoringServiceStub(self._channel)
        check = HealthStub(self._channel).Check
        self._calls = {pb.ScoreRequest: stub.Score, pb.ScoreBatchRequest: stub.ScoreBatch, HealthCheckRequest: check}
        self._stream = stub.ScoreStream
        self._deadline_s, self._retry, self._sleep = deadline_s, retry or Retry(), sleep

    async def _ask(self, request: Any, deadline_s: float | None = None) -> tuple[Any, Any]:
        """As ``_send``, again and again. Raises Refused."""
        patience = Patience(self._retry, self._deadline_s if deadline_s is None else deadline_s)
        while True:
            try:
                return await self._send(request, patience.begin_attempt())
            except grpc.RpcError as error:
                refused = Refused.of_call(error)
                wait_s = patience.wait_s(refused)
                if wait_s is None:
                    raise refused from error
            await self._pause(wait_s)

    async def _score(self, payment: pb.Transaction, deadline_s: float | None) -> Reply:
        response, metadata = await self._ask(pb.ScoreRequest(transaction=payment), deadline_s)
        result = result_of(pb.ScoreResult(response=response), payment.transaction_id)
        if isinstance(result, Refused):
            raise result
        return Reply(result, dict(metadata).get("idempotent-replay") == "1")

    async def _score_batch(self, payments: Sequence[pb.Transaction], deadline_s: float | None) -> list[Result]:
        response, _ = await self._ask(pb.ScoreBatchRequest(transactions=payments), deadline_s)
        results = chain(response.results, repeat(pb.ScoreResult()))  # a row that the server forgot has no decision
        return [result_of(result, each.transaction_id) for each, result in zip(payments, results, strict=False)]

    async def _health(self) -> bool:
        try:
            answer, _ = await self._ask(HealthCheckRequest(service="fraudgate.v1.ScoringService"))
        except Refused as refused:
            if refused.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return False
            raise
        return bool(answer.status == HealthCheckResponse.SERVING)


class Client(_Client):
    """Blocking; threads may share it."""

    _grpc = grpc

    def score(self, payment: pb.Transaction, deadline_s: float | None = None) -> Reply:
        """Decide one transaction. Raises Refused."""
        return _finish(self._score(payment, deadline_s))

    def score_batch(self, payments: Sequence[pb.Transaction], deadline_s: float | None = None) -> list[Result]:
        """Decide 1..512 transactions, a result for each; a refused row is not repeated. Raises Refused for the call."""
        return _finish(self._score_batch(payments, deadline_s))

    def score_stream(self, payments: Iterable[pb.Transaction], deadline_s: float | None = None) -> Iterator[Result]:
        """Decide a stream, in order, each on the server's budget; nothing is repeated. Raises Refused at a break."""
        sent: deque[str] = deque()
        call = self._stream((_note(sent, each) for each in payments), timeout=deadline_s)
        try:
            for result in call:
                yield result_of(result, sent.popleft())
        except grpc.RpcError as error:
            raise Refused.of_call(error) from error
        finally:
            call.cancel()

    def health(self) -> bool:
        """True when the server says SERVING; False when it says otherwise or does not answer."""
        return _finish(self._health())

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _send(self, request: Any, timeout_s: float) -> tuple[Any, Any]:
        response, call = self._calls[type(request)].with_call(request, timeout=timeout_s)
        return response, call.initial_metadata()

    async def _pause(self, seconds: float) -> None:
        (self._sleep or time.sleep)(seconds)


def _finish(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine of the blocking client: all it awaits is done at once, so it ends at its first step."""
    try:
        work.send(None)
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer
    raise AssertionError("the blocking client has awaited something")


def _note(sent: deque[str], payment: pb.Transaction) -> pb.ScoreRequest:
    sent.append(payment.transaction_id)
    return pb.ScoreRequest(transaction=payment)


class AsyncClient(_Client):
    """For asyncio; to be made in the loop that uses it. Methods as those of ``Client``."""

    _grpc = grpc.aio

    async def score(self, payment: pb.Transaction, deadline_s: float | None = None) -> Reply:
        return await self._score(payment, deadline_s)

    async def score_batch(self, payments: Sequence[pb.Transaction], deadline_s: float | None = None) -> list[Result]:
        return await self._score_batch(payments, deadline_s)

    async def score_stream(
        self, payments: AsyncIterable[pb.Transaction], deadline_s: float | None = None
    ) -> AsyncIterator[Result]:
        sent: deque[str] = deque()
        call = self._stream((_note(sent, each) async for each in payments), timeout=deadline_s)
        try:
            async for result in call:
                yield result_of(result, sent.popleft())
        except grpc.RpcError as error:
            raise Refused.of_call(error) from error
        finally:
            call.cancel()

    async def health(self) -> bool:
        return await self._health()

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, request: Any, timeout_s: float) -> tuple[Any, Any]:
        call = self._calls[type(request)](request, timeout=timeout_s)
        return await call, await call.initial_metadata()

    async def _pause(self, seconds: float) -> None:
        await (self._sleep or asyncio.sleep)(seconds)
