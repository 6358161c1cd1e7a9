"""A client of ScoringService: a deadline by default, and retries that cannot count a payment twice.

    with Client("127.0.0.1:50051") as client:
        reply = client.score(transaction("tx-1", event_time=now, amount_minor=1250, currency="EUR", customer_id="C-7"))
        reply.response.decision, reply.replayed

What is sent again, always with the same transaction_id, within the overall deadline:

    UNAVAILABLE, INTERNAL                   after a pause that doubles
    RESOURCE_EXHAUSTED with RetryInfo       after what RetryInfo advises
    DEADLINE_EXCEEDED                       once
    everything else                         never; RESOURCE_EXHAUSTED without RetryInfo is a message too large

A decision comes back as a value, a refusal as ``Refused``: raised by ``score``, in its row's place elsewhere.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import index
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate.errors import FraudgateError
from fraudgate.limits import SECOND_NS
from fraudgate.v1.scoring_pb2 import (
    ScoreBatchRequest,
    ScoreBatchResponse,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
    Transaction,
)
from fraudgate.v1.scoring_pb2_grpc import ScoringServiceStub

DEADLINE_S = 0.5
"""For a call with all its retries."""
ATTEMPT_S = 0.2
"""For one attempt: four times the server's budget; who has not answered by then is asked again."""
ATTEMPTS_MAX = 4
BACKOFF_S, BACKOFF_S_MAX = 0.01, 0.2
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SERVICE = "fraudgate.v1.ScoringService"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A lost connection is tried again within a call's deadline; grpc would wait a second.
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 1_000))


class Refused(FraudgateError):  # noqa: N818 - the field says "refused"
    """There is no decision. ``field_violations``: what is wrong, by field path; ``retry_delay``: seconds, as advised."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        field_violations: Mapping[str, str] | None = None,
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code, self.message, self.retry_delay = code, message, retry_delay
        self.field_violations = dict(field_violations or {})

    @property
    def retryable(self) -> bool:
        """True where the same transaction_id may be sent again."""
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_delay is not None
        return self.code.name in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Reply:
    """A decision."""

    response: ScoreResponse
    replayed: bool
    """True for the stored answer of an earlier attempt."""


Result: TypeAlias = ScoreResponse | Refused
"""What became of one row of a batch or a stream."""


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
) -> Transaction:
    """A Transaction from Python's types. ``event_time``: aware, or nanoseconds since 1970. Money is an int: TypeError."""
    if isinstance(amount_minor, bool):
        raise TypeError("amount_minor is a number of minor units (cents), not a bool")
    return Transaction(
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
        raise TypeError(f"event_time {instant} has no time zone: say which instant it is")
    seconds, rest = divmod(instant - _EPOCH, timedelta(seconds=1))
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1_000)


def _refused(status: status_pb2.Status) -> Refused:
    violations, delay = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    advised = [detail.Unpack(delay) for detail in status.details]
    for detail in status.details:
        detail.Unpack(violations)
    return Refused(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        status.message,
        {violation.field: violation.description for violation in violations.field_violations},
        delay.retry_delay.ToNanoseconds() / SECOND_NS if any(advised) else None,
    )


def _refused_call(error: Any) -> Refused:
    """Of a grpc.RpcError, sync or aio."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return _refused(status_pb2.Status.FromString(value))
    return Refused(error.code(), error.details() or "")


def _decision(response: ScoreResponse, transaction_id: str) -> ScoreResponse:
    """``response``, if it decides this transaction. Raises Refused for whatever else called itself OK."""
    if not response.decision or response.transaction_id != transaction_id:
        raise Refused(grpc.StatusCode.UNKNOWN, f"the answer is no decision of {transaction_id!r}")
    return response


def _row(result: ScoreResult, transaction_id: str) -> Result:
    if result.HasField("error"):
        return _refused(result.error)
    try:
        return _decision(result.response, transaction_id)
    except Refused as refused:
        return refused


@dataclass(frozen=True, slots=True)
class Retry:
    """How a call is repeated."""

    attempt_s: float = ATTEMPT_S
    attempts_max: int = ATTEMPTS_MAX
    jitter: Callable[[], float] = random.random
    """Draws from [0, 1)."""
    clock: Callable[[], float] = time.monotonic


class _Call:
    """One call: how long its next attempt may take, and how long to wait before it."""

    def __init__(self, retry: Retry, deadline_s: float) -> None:
        self._retry = retry
        self._ends = retry.clock() + deadline_s
        self._attempts = 0
        self._was_late = False

    def begin_attempt(self) -> float:
        """The seconds that it may take."""
        self._attempts += 1
        return min(self._retry.attempt_s, self._ends - self._retry.clock())

    def may_repeat(self, result: object) -> bool:
        if not isinstance(result, Refused) or (self._was_late and result.code is grpc.StatusCode.DEADLINE_EXCEEDED):
            return False
        return result.retryable

    def wait_s(self, refusals: Sequence[Refused]) -> float | None:
        """Seconds to wait before all of these are sent again; None = there is nothing to send, or no time left."""
        if not refusals or self._attempts >= self._retry.attempts_max:
            return None
        backoff_s = min(BACKOFF_S * 2 ** (self._attempts - 1), BACKOFF_S_MAX)
        least_s = max(backoff_s if each.retry_delay is None else each.retry_delay for each in refusals)
        # Jitter only adds: nobody comes back before the server asked to.
        wait_s = least_s * (1 + self._retry.jitter() / 2)
        self._was_late |= any(each.code is grpc.StatusCode.DEADLINE_EXCEEDED for each in refusals)
        return wait_s if self._retry.clock() + wait_s < self._ends else None


_Steps: TypeAlias = Generator[Any, Any, Answer]
"""A call without its IO: yields (request, timeout_s) to be sent, which gives (response, replayed) or Refused, or seconds
to be slept; returns the answer or raises Refused."""


def _score(call: _Call, transaction: Transaction) -> _Steps[Reply]:
    while True:
        done = yield ScoreRequest(transaction=transaction), call.begin_attempt()
        if not isinstance(done, Refused):
            response, replayed = done
            return Reply(_decision(response, transaction.transaction_id), replayed)
        wait_s = call.wait_s([done] if call.may_repeat(done) else [])
        if wait_s is None:
            raise done
        yield wait_s


def _score_batch(call: _Call, transactions: Sequence[Transaction]) -> _Steps[list[Result]]:
    results: list[Any] = [None] * len(transactions)
    open_rows = list(range(len(transactions)))
    while True:
        sent = [transactions[row] for row in open_rows]
        done = yield ScoreBatchRequest(transactions=sent), call.begin_attempt()
        answers = repeat(done) if isinstance(done, Refused) else chain(done[0].results, repeat(ScoreResult()))
        for row, answer in zip(open_rows, answers, strict=False):
            results[row] = done if answer is done else _row(answer, transactions[row].transaction_id)
        open_rows = [row for row in open_rows if call.may_repeat(results[row])]
        wait_s = call.wait_s([results[row] for row in open_rows])
        if wait_s is None:
            break
        yield wait_s
    if isinstance(done, Refused) and all(result is done for result in results):
        raise done
    return results


def _health(call: _Call) -> _Steps[bool]:
    done = yield HealthCheckRequest(service=_SERVICE), call.begin_attempt()
    if isinstance(done, Refused):
        if done.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return False
        raise done
    return bool(done[0].status == HealthCheckResponse.SERVING)


class _Client:
    """What both clients share. ``_grpc``: the module that makes channels."""

    _grpc: Any

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float = DEADLINE_S,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        retry: Retry | None = None,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        """``credentials``: grpc.ssl_channel_credentials(...) for TLS and mTLS, None = plain text."""
        options = [*_OPTIONS, *options]
        if credentials is None:
            self._channel = self._grpc.insecure_channel(target, options)
        else:
            self._channel = self._grpc.secure_channel(target, credentials, options)
        stub = ScoringServiceStub(self._channel)  # type: ignore[no-untyped-call]
        check = HealthStub(self._channel).Check
        self._methods = {ScoreRequest: stub.Score, ScoreBatchRequest: stub.ScoreBatch, HealthCheckRequest: check}
        self._stream = stub.ScoreStream
        self._deadline_s, self._retry = deadline_s, retry or Retry()
        self._sleep = sleep or self._default_sleep

    def _begin(self, deadline_s: float | None) -> _Call:
        return _Call(self._retry, self._deadline_s if deadline_s is None else deadline_s)
