"""The reference front end's handlers: ScoringService on grpc.aio. They take raw bytes and decode themselves, so that
bytes which do not decode get the contract's status instead of UNKNOWN.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from fraudgate.batching.admission import ANONYMOUS
from fraudgate.clock import Clock
from fraudgate.frontend import refusals
from fraudgate.frontend.callers import Callers
from fraudgate.frontend.codec import delimited
from fraudgate.frontend.door import Door, Reply
from fraudgate.frontend.refusals import Refusal
from fraudgate.latency.calls import CODE_NAMES, Calls
from fraudgate.latency.recorder import Counters
from fraudgate.limits import MESSAGE_BYTES_MAX, SCORE_BATCH_ROWS_MAX, SECOND_NS, STREAM_UNANSWERED_MAX
from fraudgate.ops.traceparent import Parent, parent_of
from fraudgate.v1 import scoring_pb2

SERVICE = "fraudgate.v1.ScoringService"
REPLAY_METADATA = (("idempotent-replay", "1"),)
_INT_MAX = 2**31 - 1
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_T = TypeVar("_T")
_Unanswered: TypeAlias = tuple[str, "asyncio.Future[Reply | Refusal]"]


def server_options(streams_max: int) -> list[tuple[str, int]]:
    """Channel arguments of the data plane.

    grpc's own limits on pending requests, by number and by age (30 s), answer CANCELLED without a handler ever running,
    so they are off; memory is bounded by the streams of a connection. Compression: identity and gzip, others are
    UNIMPLEMENTED.
    """
    identity_and_gzip = 1 << 0 | 1 << 2
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", streams_max),
        ("grpc.server.max_pending_requests", _INT_MAX),
        ("grpc.server.max_pending_requests_hard_limit", _INT_MAX),
        ("grpc.server_max_unrequested_time_in_server", _INT_MAX),
        ("grpc.compression_enabled_algorithms_bitset", identity_and_gzip),
        ("grpc.so_reuseport", 0),
    ]


class ScoringHandlers:
    """Score, ScoreBatch and ScoreStream over one door."""

    def __init__(self, door: Door, counters: Counters, clock: Clock, callers: Callers) -> None:
        self._door = door
        self._counters = counters
        self._clock = clock
        self.calls = Calls()
        self._callers = callers
        self._readers: set[asyncio.Task[Refusal | None]] = set()

    def end_streams(self) -> None:
        """Read no stream any further: each finishes what was read and ends with the door's refusal."""
        for reader in self._readers:
            reader.cancel()

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """What ``grpc.aio.Server.add_generic_rpc_handlers`` takes: bytes in, bytes out."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Score": grpc.unary_unary_rpc_method_handler(self._counted("Score", self.score)),
                "ScoreBatch": grpc.unary_unary_rpc_method_handler(self._counted("ScoreBatch", self.score_batch)),
                "ScoreStream": grpc.stream_stream_rpc_method_handler(self._counted("ScoreStream", self.score_stream)),
            },
        )

    def _counted(self, method: str, handle: Callable[[Any, Context], Awaitable[_T]]) -> Callable[..., Awaitable[_T]]:
        """The handler of a method, with each call counted when it begins and when it ends."""

        async def counted(request: Any, context: Context) -> _T:
            started_ns, code = self._clock(), "Unknown"
            self.calls.start(method)
            try:
                answer = await handle(request, context)
                code = "OK"
                return answer
            except asyncio.CancelledError:
                code = "Canceled"
                raise
            except grpc.aio.AbortError:
                code = CODE_NAMES[context.code().value[0]]
                raise
            finally:
                self.calls.end(method, code, self._clock() - started_ns)

        return counted

    async def score(self, body: bytes, context: Context) -> bytes:
        """Decide one transaction."""
        arrival_ns = self._clock()
        caller = await self._identify(context, "Score")
        try:
            request = scoring_pb2.ScoreRequest.FromString(body)
        except DecodeError:
            await self._abort(context, refusals.UNDECODABLE)
        if not request.HasField("transaction"):
            await self._abort(context, refusals.MISSING)
        deadline_ns, parent = _deadline_ns(context, arrival_ns), self._parent(context)
        result = await self._door.admit(request.transaction, arrival_ns, deadline_ns, caller=caller, parent=parent)
        if isinstance(result, Refusal):
            await abort(context, result)
        if result.replayed:
            await context.send_initial_metadata(REPLAY_METADATA)
        return result.body

    async def score_batch(self, body: bytes, context: Context) -> bytes:
        """Decide up to 512 transactions; each row ends with a result of its own."""
        arrival_ns = self._clock()
        caller = await self._identify(context, "ScoreBatch")
        try:
            request = scoring_pb2.ScoreBatchRequest.FromString(body)
        except DecodeError:
            await self._abort(context, refusals.UNDECODABLE)
        transactions = request.transactions
        if not 1 <= len(transactions) <= SCORE_BATCH_ROWS_MAX:
            await self._abort(context, refusals.ROWS)
        deadline_ns, parent = _deadline_ns(context, arrival_ns), self._parent(context)
        futures = [
            self._door.admit(transaction, arrival_ns, deadline_ns, f"transactions[{i}]", caller, parent)
            for i, transaction in enumerate(transactions)
        ]
        try:
            results = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
        if self._door.closed is not None and all(result is self._door.closed for result in results):
            await abort(context, self._door.closed)
        ids = [transaction.transaction_id for transaction in transactions]
        return b"".join(delimited(1, _result(*pair)) for pair in zip(ids, results, strict=True))

    async def score_stream(self, bodies: AsyncIterator[bytes], context: Context) -> None:
        """Decide a stream, in order; reads no further while 256 messages are unanswered."""
        caller = await self._identify(context, "ScoreStream")
        unanswered: asyncio.Queue[_Unanswered | None] = asyncio.Queue()  # ``room`` bounds it
        room = asyncio.Semaphore(STREAM_UNANSWERED_MAX)
        reader = asyncio.create_task(self._read_stream(bodies, room, unanswered, caller, self._parent(context)))
        self._readers.add(reader)
        try:
            while (item := await unanswered.get()) is not None:
                transaction_id, future = item
                await context.write(_result(transaction_id, await future))
                room.release()
            await asyncio.wait((reader,))
            refusal = self._door.closed if reader.cancelled() else reader.result()
            if refusal is not None:
                await abort(context, refusal)
        finally:
            reader.cancel()
            self._readers.discard(reader)
            while not unanswered.empty():
                item = unanswered.get_nowait()
                if item is not None:
                    item[1].cancel()

    async def _read_stream(
        self,
        bodies: AsyncIterator[bytes],
        room: asyncio.Semaphore,
        unanswered: "asyncio.Queue[_Unanswered | None]",
        caller: int,
        parent: Parent | None,
    ) -> Refusal | None:
        """Admit each message; ends with the refusal that ends the stream, if any."""
        try:
            while True:
                await room.acquire()
                body = await anext(bodies, None)
                if body is None:
                    return None
                if self._door.closed is not None:
                    return self._door.closed
                transaction = scoring_pb2.ScoreRequest.FromString(body).transaction
                future = self._door.admit(transaction, self._clock(), caller=caller, parent=parent)
                unanswered.put_nowait((transaction.transaction_id, future))
        except DecodeError:
            self._counters.count_refusal("undecodable")
            return refusals.UNDECODABLE
        finally:
            unanswered.put_nowait(None)

    def _parent(self, context: Context) -> Parent | None:
        """The caller's span, where anybody wants to know."""
        return None if self._door.tracer is None else parent_of(context.invocation_metadata() or ())

    async def _identify(self, context: Context, rpc: str) -> int:
        """The caller's number; a call that shows no right to be here ends."""
        if self._callers.alike:
            return ANONYMOUS  # grpcio takes 10 us to make the metadata
        metadata = context.invocation_metadata() or ()
        authorization = next((value for name, value in metadata if name == "authorization"), None)
        caller = self._callers.identify(authorization, rpc)
        if isinstance(caller, Refusal):
            self._counters.count_refusal("unauthenticated" if caller is refusals.UNAUTHENTICATED else "not_allowed")
            await abort(context, caller)
        return caller

    async def _abort(self, context: Context, refusal: Refusal) -> NoReturn:
        """Refuse before the door: bytes or shapes that never became a transaction."""
        self._counters.count_refusal("undecodable" if refusal is refusals.UNDECODABLE else "invalid")
        await abort(context, refusal)


def _deadline_ns(context: Context, now_ns: int) -> int:
    remaining = context.time_remaining()
    return 0 if remaining is None else now_ns + int(remaining * SECOND_NS)


async def abort(context: Context, refusal: Refusal) -> NoReturn:
    """End a call with a refusal: status, message and, in the trailing metadata, its google.rpc details."""
    details = (("grpc-status-details-bin", refusal.to_status().SerializeToString()),) if refusal.details else ()
    await context.abort(_CODES[refusal.status], refusal.message, details)
    raise AssertionError("abort() raises")


def _result(transaction_id: str, result: Reply | Refusal) -> bytes:
    """An encoded ScoreResult."""
    if isinstance(result, Reply):
        return scoring_pb2.ScoreResult(transaction_id=transaction_id).SerializeToString() + delimited(2, result.body)
    return scoring_pb2.ScoreResult(transaction_id=transaction_id, error=result.to_status()).SerializeToString()
