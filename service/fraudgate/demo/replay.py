"""The load client: replays transactions in event order, open loop, and loses none.

* A row is sent at its intended time, whether or not earlier rows are answered; its latency counts from that time.
* Never two unanswered transactions of one customer: the later one is held back, and its wait counts.
* Each outcome is acknowledged before the replay clock (the event_time of the next row) reaches the time it is due.
* A refusal that the contract calls retryable is sent again with the same id, after the wait that the server names.

Requests are serialised before and responses parsed after: while it runs, only bytes pass.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

from fraudgate.clock import monotonic_ns
from fraudgate.demo.data import Outcomes, Traffic
from fraudgate.errors import FraudgateError
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.progress import Progress
from fraudgate.transaction import Int64

SCORE = "/fraudgate.v1.ScoringService/Score"
REPORT_OUTCOME = "/fraudgate.v1.OutcomeService/ReportOutcome"
LATENCY_REPORT = "/fraudgate.v1.LatencyService/GetLatencyReport"
TICK_SECONDS = 0.001  # the event loop's timers have whole milliseconds
CALL_SECONDS_MAX = 10.0  # only so that nothing waits for ever: latency is judged, not cut
PATIENCE_SECONDS = 20.0  # a row that is refused for so long is lost
RETRY_SECONDS = 0.02
OUTCOME_LEAD_ROWS = 1_000  # an outcome is sent this many rows before it is due
RETRYABLE = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    )
)

Call = Callable[[bytes], Awaitable[bytes]]
"""One unary call: request bytes to response bytes; raises grpc.aio.AioRpcError."""


class ReplayFailed(FraudgateError):  # noqa: N818 - it says what happened
    """A row or an outcome got no answer."""


@dataclass
class ReplayLog:
    """What happened to each row; stamps are monotonic nanoseconds, arrays [n]."""

    intended_ns: Int64
    sent_ns: Int64  # the first attempt
    answered_ns: Int64  # 0 = no answer
    responses: list[bytes]  # ScoreResponse, b"" = no answer
    held: int = 0  # rows held back behind the same customer's unanswered row
    outcome_waits: int = 0  # times the replay stood still for an outcome's acknowledgement
    outcomes_acknowledged: int = 0
    refusals: Counter[str] = field(default_factory=Counter)  # retried attempts, by status

    @property
    def lost(self) -> int:
        return int((self.answered_ns == 0).sum())

    @property
    def latency_ns(self) -> Int64:
        """From intended send to answer, of the answered rows."""
        answered = self.answered_ns > 0
        return self.answered_ns[answered] - self.intended_ns[answered]

    @property
    def lateness_ns(self) -> Int64:
        """From intended to first send, of the answered rows: the client's own lateness, held rows included."""
        answered = self.answered_ns > 0
        return self.sent_ns[answered] - self.intended_ns[answered]

    @property
    def rate(self) -> float:
        """Answers a second, from the first intended send to the last answer."""
        answered = self.answered_ns > 0
        return float(answered.sum() * SECOND_NS / (self.answered_ns.max() - self.intended_ns[0]))


def raw_call(channel: grpc.aio.Channel, method: str) -> Call:
    """A unary call without serialisers, with the demo's long-stop deadline."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

    def send(request: bytes) -> Awaitable[bytes]:
        return call(request, timeout=CALL_SECONDS_MAX)

    return send


def arrival_offsets(rows: int, rate: float, poisson: bool, seed: int = 1) -> Int64:
    """Intended send times of ``rows`` rows, nanoseconds from the start, at ``rate`` rows a second on average."""
    gaps = np.random.default_rng(seed).exponential(1.0, rows) if poisson else np.ones(rows)
    return np.asarray(np.cumsum(gaps) * (SECOND_NS / rate), np.int64)


async def with_retries(call: Call, request: bytes, refusals: Counter[str]) -> bytes:
    """Send until it is answered. Raises ReplayFailed when the status is final or the patience at an end."""
    first_ns = monotonic_ns()
    while True:
        try:
            return await call(request)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            waited = (monotonic_ns() - first_ns) / SECOND_NS
            if error.code() not in RETRYABLE or waited > PATIENCE_SECONDS:
                raise ReplayFailed(f"no answer after {waited:.1f} s: {status}: {error.details()}") from error
            refusals[status] += 1
            await asyncio.sleep(retry_seconds(error))


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """The wait that the server's RetryInfo names; RETRY_SECONDS where it names none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if isinstance(details, bytes):
        info = RetryInfo()
        for detail in RpcStatus.FromString(details).details:
            if detail.Unpack(info):
                return float(info.retry_delay.ToTimedelta().total_seconds())
    return RETRY_SECONDS


class OutcomeFeed:
    """Sends outcomes one after another, ahead of the row that needs them."""

    def __init__(self, report: Call, outcomes: Outcomes, refusals: Counter[str]) -> None:
        self._report, self._outcomes, self._refusals = report, outcomes, refusals
        self._wanted = 0
        self._moved = asyncio.Event()
        self.acknowledged = 0

    def want(self, count: int) -> None:
        """Let the first ``count`` outcomes be sent now."""
        if count > self._wanted:
            self._wanted = count
            self._moved.set()

    async def reach(self, count: int) -> None:
        """Return when the first ``count`` outcomes are acknowledged."""
        while self.acknowledged < count:
            await asyncio.sleep(TICK_SECONDS)

    async def run(self) -> None:
        """Send what is wanted, until cancelled or until the last outcome is acknowledged."""
        while self.acknowledged < len(self._outcomes):
            while self.acknowledged < self._wanted:
                await with_retries(self._report, self._outcomes.requests[self.acknowledged], self._refusals)
                self.acknowledged += 1
            self._moved.clear()
            if self.acknowledged < len(self._outcomes):
                await self._moved.wait()


class Replay:
    """One replay of ``traffic`` at ``offsets_ns`` [n] from its start; use ``run`` once."""

    def __init__(self, score: Call, report: Call, traffic: Traffic, offsets_ns: Int64, progress: Progress) -> None:
        rows = len(traffic.week)
        self._score, self._traffic, self._offsets_ns, self._progress = score, traffic, offsets_ns, progress
        self._customer: Sequence[int] = traffic.customers.tolist()
        self._unanswered: dict[int, deque[int]] = {}  # customer -> the rows held behind the one that is out
        self._answered = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        intended_ns, sent_ns, answered_ns = np.zeros((3, rows), np.int64)
        self.log = ReplayLog(intended_ns, sent_ns, answered_ns, [b""] * rows)
        self._feed = OutcomeFeed(report, traffic.outcomes, self.log.refusals)

    async def run(self) -> ReplayLog:
        """Replay every row. Raises ReplayFailed as soon as a row or an outcome can have no answer."""
        work = [asyncio.create_task(self._feed.run()), asyncio.create_task(self._send_all())]
        for task in work:
            task.add_done_callback(self._check)
        try:
            await self._done
        finally:
            for task in (*work, *self._tasks):
                task.cancel()
            await asyncio.gather(*work, *self._tasks, return_exceptions=True)
            self.log.outcomes_acknowledged = self._feed.acknowledged
        return self.log

    async def _send_all(self) -> None:
        needed = np.searchsorted(self._traffic.outcomes.due_ns, self._traffic.week.event_time_ns, side="right").tolist()
        last = len(needed) - 1
        self._feed.want(needed[min(OUTCOME_LEAD_ROWS, last)])
        await self._feed.reach(needed[0])  # before the clock starts
        start_ns = monotonic_ns() + MILLISECOND_NS
        self.log.intended_ns[:] = start_ns + self._offsets_ns
        now_ns = 0
        for row, intended_ns in enumerate(self.log.intended_ns.tolist()):
            while now_ns < intended_ns:
                now_ns = monotonic_ns()
                if now_ns < intended_ns:
                    self._progress.reach(self._answered)
                    await asyncio.sleep(max(TICK_SECONDS, (intended_ns - now_ns) / SECOND_NS))
            self._feed.want(needed[min(row + OUTCOME_LEAD_ROWS, last)])
            if self._feed.acknowledged < needed[row]:
                self.log.outcome_waits += 1
                await self._feed.reach(needed[row])
            self._offer(row)

    def _offer(self, row: int) -> None:
        held = self._unanswered.get(self._customer[row])
        if held is None:
            self._unanswered[self._customer[row]] = deque()
            self._start(row)
        else:
            held.append(row)
            self.log.held += 1

    def _start(self, row: int) -> None:
        task = asyncio.create_task(self._ask(row))
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    async def _ask(self, row: int) -> None:
        self.log.sent_ns[row] = monotonic_ns()
        response = await with_retries(self._score, self._traffic.requests[row], self.log.refusals)
        self.log.answered_ns[row] = monotonic_ns()
        self.log.responses[row] = response
        self._answered += 1
        held = self._unanswered[self._customer[row]]
        if held:
            self._start(held.popleft())
        else:
            del self._unanswered[self._customer[row]]
        if self._answered == len(self._traffic.week) and not self._done.done():
            self._done.set_result(None)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._check(task)

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._done.done():
            self._done.set_exception(error)


async def report_all(report: Call, outcomes: Outcomes, refusals: Counter[str]) -> int:
    """Report every outcome in order; the number acknowledged."""
    for request in outcomes.requests:
        await with_retries(report, request, refusals)
    return len(outcomes)


async def closed_loop_rate(
    score: Call, requests: Sequence[bytes], in_flight: int, warm_up: float, span: float
) -> float:
    """Answers a second with ``in_flight`` requests always out, over ``span`` seconds after ``warm_up`` seconds."""
    answered = 0
    pending = iter(requests)

    async def worker() -> None:
        nonlocal answered
        for request in pending:
            await with_retries(score, request, Counter())
            answered += 1

    workers = [asyncio.create_task(worker()) for _ in range(in_flight)]
    try:
        await asyncio.sleep(warm_up)
        before, start_ns = answered, monotonic_ns()
        await asyncio.wait(workers, timeout=span, return_when=asyncio.ALL_COMPLETED)
        return (answered - before) * SECOND_NS / (monotonic_ns() - start_ns)
    finally:
        for task in workers:
            task.cancel()
        failures = await asyncio.gather(*workers, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, FraudgateError):
                raise failure
