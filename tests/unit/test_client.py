"""The client against a server that ends each call as a script says: what is sent again, when, and what never is."""

import inspect
import random
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from fraudgate.client import AsyncClient, Client, Refused, Retry, transaction
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.transaction import Status
from fraudgate.v1 import scoring_pb2 as pb

NOW = datetime(2018, 8, 8, 12, tzinfo=UTC)
PATIENT_SECONDS = 60.0
"""Longer than any real call of a test takes; the seconds of the clients are fake."""
CODES = {code.value[0]: code for code in grpc.StatusCode}
TOO_LARGE = Refusal(Status.RESOURCE_EXHAUSTED, "message larger than 1 MiB")


def payment(id: str = "tx-1") -> pb.Transaction:
    return transaction(id, event_time=NOW, amount_minor=1_250, currency="EUR", customer_id="C-1", attributes={"x": 0.5})


def decided(id: str = "tx-1") -> pb.ScoreResponse:
    return pb.ScoreResponse(transaction_id=id, decision=pb.APPROVE, score=0.25)


class Scripted:
    """Ends each call with the next of ``steps``: a Refusal, or a message to answer with. Keeps what it was asked."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.requests: list[bytes] = []
        self.seconds_left: list[float] = []
        self.replays: set[int] = set()

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        self.seconds_left.append(context.time_remaining() or 0.0)
        step = self.steps.pop(0)
        if isinstance(step, Refusal):
            refuse(step, context)
        if len(self.requests) in self.replays:
            context.send_initial_metadata((("idempotent-replay", "1"),))
        body: bytes = step.SerializeToString()
        return body

    def answer_stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            self.requests.append(request)
            step = self.steps.pop(0)
            if isinstance(step, Refusal):
                refuse(step, context)
            yield step.SerializeToString()


def refuse(refusal: Refusal, context: grpc.ServicerContext) -> None:
    if refusal.details:
        context.set_trailing_metadata((("grpc-status-details-bin", refusal.to_status().SerializeToString()),))
    context.abort(CODES[refusal.status], refusal.message)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def target(scripted: Scripted) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    unary: Any = grpc.unary_unary_rpc_method_handler(scripted.answer)
    stream: Any = grpc.stream_stream_rpc_method_handler(scripted.answer_stream)
    handlers = {"Score": unary, "ScoreBatch": unary, "ScoreStream": stream}
    health = {"Check": unary}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("fraudgate.v1.ScoringService", handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


Make = Callable[..., Any]


@pytest.fixture(params=[Client, AsyncClient])
async def make(request: pytest.FixtureRequest, target: str, time: FakeTime) -> AsyncIterator[Make]:
    """Makes a client of either kind on fake time; ``retry`` settings go to its ``Retry``."""
    made = []

    def make_client(deadline_s: float = PATIENT_SECONDS, target: str = target, **retry: Any) -> Any:
        sleep = time.sleep_async if request.param is AsyncClient else time.sleep
        policy = Retry(**{"attempt_s": PATIENT_SECONDS, "jitter": lambda: 0.0, "clock": time.clock, **retry})
        made.append(request.param(target, deadline_s=deadline_s, retry=policy, sleep=sleep))
        return made[-1]

    yield make_client
    for client in made:
        await settled(client.close())


async def settled(result: Any) -> Any:
    """What either client gives."""
    return await result if inspect.isawaitable(result) else result


async def gathered(results: Any) -> list[Any]:
    """A stream of either client, to its end."""
    return [each async for each in results] if hasattr(results, "__aiter__") else list(results)


def streamed(client: Any, payments: list[pb.Transaction]) -> Any:
    async def one_by_one() -> AsyncIterator[pb.Transaction]:
        for each in payments:
            yield each

    return client.score_stream(one_by_one() if isinstance(client, AsyncClient) else payments)


# -- the status table --------------------------------------------------------------------------------------------------

QUEUE_FULL, BUDGET_SPENT = (refusals.delayed(reason, refusals.RETRY_NS) for reason in ("queue_full", "budget"))
TABLE = [
    (refusals.invalid("transaction.currency", "is unknown"), False),
    (refusals.UNDECODABLE, False),
    (TOO_LARGE, False),
    (refusals.DEADLINE, True),
    (QUEUE_FULL, True),
    (BUDGET_SPENT, True),
    (refusals.conflict("tx-1"), False),
    (refusals.DRAINING, True),
    (refusals.INTERNAL, True),
    (Refusal(grpc.StatusCode.UNIMPLEMENTED.value[0], "no such compression"), False),
    (Refusal(grpc.StatusCode.UNAUTHENTICATED.value[0], "who are you"), False),
    (Refusal(grpc.StatusCode.PERMISSION_DENIED.value[0], "not you"), False),
    (Refusal(grpc.StatusCode.UNKNOWN.value[0], "not ours"), False),
]


@pytest.mark.parametrize(("refusal", "again"), TABLE)
async def test_a_score_is_sent_again_where_the_table_says_so(
    make: Make, scripted: Scripted, time: FakeTime, refusal: Refusal, again: bool
) -> None:
    scripted.steps = [refusal, decided()]
    client = make()
    if again:
        reply = await settled(client.score(payment()))
        assert reply.response == decided()
        assert not reply.replayed
        assert len(time.slept) == 1
    else:
        with pytest.raises(Refused) as refused:
            await settled(client.score(payment()))
        assert (refused.value.code, refused.value.message) == (CODES[refusal.status], refusal.message)
        assert not refused.value.retryable
        assert time.slept == []
    sent = pb.ScoreRequest(transaction=payment()).SerializeToString(deterministic=True)
    assert scripted.requests == [sent] * (1 + again), "the same payment under the same id"


async def test_a_refusal_says_which_field_is_wrong(make: Make, scripted: Scripted) -> None:
    scripted.steps = [refusals.invalid("transaction.amount_minor", "is negative")]
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: transaction\.amount_minor is negative") as refused:
        await settled(make().score(payment()))
    assert refused.value.field_violations == {"transaction.amount_minor": "is negative"}
    assert refused.value.retry_delay is None


async def test_a_late_answer_is_asked_for_once_more(make: Make, scripted: Scripted) -> None:
    scripted.steps = [refusals.DEADLINE, refusals.DRAINING, refusals.DEADLINE, decided()]
    with pytest.raises(Refused, match="DEADLINE_EXCEEDED"):
        await settled(make().score(payment()))
    assert len(scripted.requests) == 3


async def test_attempts_are_bounded(make: Make, scripted: Scripted) -> None:
    scripted.steps = [refusals.INTERNAL] * 5
    with pytest.raises(Refused, match="INTERNAL"):
        await settled(make(attempts_max=3).score(payment()))
    assert len(scripted.requests) == 3


async def test_it_waits_at_least_what_the_server_advises(make: Make, scripted: Scripted, time: FakeTime) -> None:
    scripted.steps = [QUEUE_FULL, QUEUE_FULL, decided()]
    await settled(make(jitter=random.Random(7).random).score(payment()))
    expected = random.Random(7)
    assert time.slept == [0.05 * (1 + expected.random() / 2) for _ in range(2)]
    assert min(time.slept) >= refusals.RETRY_NS / 1e9


async def test_without_advice_the_pause_doubles_up_to_a_bound(make: Make, scripted: Scripted, time: FakeTime) -> None:
    scripted.steps = [refusals.DRAINING] * 6 + [decided()]
    await settled(make(attempts_max=10).score(payment()))
    assert time.slept == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.2])


IN_4_SECONDS = Refusal(
    Status.RESOURCE_EXHAUSTED, "come back", (error_details_pb2.RetryInfo(retry_delay=Duration(seconds=4)),)
)
COARSE_SECONDS = 1.0
"""More than grpc rounds a timeout up by."""


@pytest.mark.parametrize(("deadline_s", "waits"), [(8.0, 1), (8.01, 2), (12.0, 2)])
async def test_the_deadline_bounds_all_attempts(
    make: Make, scripted: Scripted, time: FakeTime, deadline_s: float, waits: int
) -> None:
    """A pause that would end at the deadline or after it is not begun."""
    scripted.steps = [IN_4_SECONDS] * 4
    with pytest.raises(Refused, match="RESOURCE_EXHAUSTED: come back") as refused:
        await settled(make().score(payment(), deadline_s=deadline_s))
    assert refused.value.retry_delay == 4.0
    assert time.slept == [4.0] * waits
    for attempt, seconds_left in enumerate(scripted.seconds_left):
        assert seconds_left <= deadline_s - 4 * attempt + COARSE_SECONDS, "an attempt has what is left of the deadline"
    assert len(scripted.requests) == waits + 1


async def test_one_attempt_does_not_take_the_whole_deadline(make: Make, scripted: Scripted) -> None:
    scripted.steps = [decided()]
    await settled(make(attempt_s=20.0).score(payment()))
    assert scripted.seconds_left[0] <= 20 + COARSE_SECONDS


async def test_a_server_that_is_not_there_is_asked_again(
    make: Make, target: str, scripted: Scripted, time: FakeTime
) -> None:
    client = make(target="127.0.0.1:1")
    with pytest.raises(Refused, match="UNAVAILABLE") as refused:
        await settled(client.score(payment()))
    assert refused.value.retryable
    assert len(time.slept) == 3
    assert not await settled(client.health())


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_a_stored_answer_says_so(make: Make, scripted: Scripted) -> None:
    scripted.steps = [decided(), decided()]
    scripted.replays = {2}
    client = make()
    assert not (await settled(client.score(payment()))).replayed
    assert (await settled(client.score(payment()))).replayed


@pytest.mark.parametrize("odd", [pb.ScoreResponse(), decided("tx-2"), pb.ScoreResponse(transaction_id="tx-1", score=0)])
async def test_what_is_no_decision_of_this_payment_is_refused(
    make: Make, scripted: Scripted, odd: pb.ScoreResponse
) -> None:
    scripted.steps = [odd]
    with pytest.raises(Refused, match="UNKNOWN: the server's answer is no decision of 'tx-1'"):
        await settled(make().score(payment()))


def row(id: str, refusal: Refusal | None = None) -> pb.ScoreResult:
    if refusal is None:
        return pb.ScoreResult(transaction_id=id, response=decided(id))
    return pb.ScoreResult(transaction_id=id, error=refusal.to_status())


async def test_a_batch_has_a_result_for_each_row(make: Make, scripted: Scripted) -> None:
    results = [row("a"), row("b", QUEUE_FULL), row("c", refusals.conflict("c"))]
    scripted.steps = [refusals.INTERNAL, pb.ScoreBatchResponse(results=results)]
    got = await settled(make().score_batch([payment(name) for name in "abcd"]))
    assert got[0] == decided("a")
    assert [(each.code.name, each.retryable) for each in got[1:]] == [
        ("RESOURCE_EXHAUSTED", True),
        ("ALREADY_EXISTS", False),
        ("UNKNOWN", False),  # the server forgot it
    ]
    assert got[1].retry_delay == 0.05
    assert len(scripted.requests) == 2, "the call was repeated, the rows were not"


async def test_a_batch_that_is_refused_as_a_whole_raises(make: Make, scripted: Scripted) -> None:
    scripted.steps = [refusals.invalid("transactions", "needs 1 to 512 entries")]
    with pytest.raises(Refused, match="INVALID_ARGUMENT"):
        await settled(make().score_batch([]))


async def test_a_stream_gives_results_in_order_and_raises_at_its_break(make: Make, scripted: Scripted) -> None:
    scripted.steps = [row("a"), row("b", BUDGET_SPENT), row("c"), refusals.DRAINING]
    results = streamed(make(), [payment(name) for name in "abcd"])
    seen: list[Any] = []

    async def read() -> None:
        if hasattr(results, "__aiter__"):
            async for each in results:
                seen.append(each)
        else:
            for each in results:
                seen.append(each)

    with pytest.raises(Refused, match="UNAVAILABLE"):
        await read()
    assert [seen[0], seen[2]] == [decided("a"), decided("c")]
    assert seen[1].retryable
    assert [pb.ScoreRequest.FromString(each).transaction.transaction_id for each in scripted.requests] == [*"abcd"]


async def test_a_stream_that_is_whole_ends(make: Make, scripted: Scripted) -> None:
    scripted.steps = [row("a"), row("b")]
    assert await gathered(streamed(make(), [payment("a"), payment("b")])) == [decided("a"), decided("b")]


async def test_health(make: Make, scripted: Scripted) -> None:
    status = health_pb2.HealthCheckResponse
    scripted.steps = [
        status(status=status.SERVING),
        status(status=status.NOT_SERVING),
        Refusal(grpc.StatusCode.UNAUTHENTICATED.value[0], "who are you"),
    ]
    client = make()
    assert await settled(client.health())
    assert not await settled(client.health())
    with pytest.raises(Refused, match="UNAUTHENTICATED"):
        await settled(client.health())
    wanted = health_pb2.HealthCheckRequest(service="fraudgate.v1.ScoringService")
    assert scripted.requests == [wanted.SerializeToString()] * 3


# -- transaction() -----------------------------------------------------------------------------------------------------


def test_a_transaction_from_python_types() -> None:
    made = transaction(
        "tx-1",
        event_time=datetime(2018, 8, 8, 14, 0, 0, 250, tzinfo=timezone(timedelta(hours=2))),
        amount_minor=1_250,
        currency="EUR",
        terminal_id="T-1",
        attributes={"velocity": 1},
    )
    assert (made.event_time.seconds, made.event_time.nanos) == (int(NOW.timestamp()), 250_000)
    assert (made.amount_minor, made.terminal_id, made.customer_id) == (1_250, "T-1", "")
    assert dict(made.attributes) == {"velocity": 1.0}


@pytest.mark.parametrize("nanoseconds", [1_533_729_600_000_000_007, np.int64(1_533_729_600_000_000_007)])
def test_event_time_may_be_nanoseconds(nanoseconds: Any) -> None:
    made = transaction("tx-1", event_time=nanoseconds, amount_minor=np.int64(5), currency="EUR")  # type: ignore[arg-type]
    assert made.event_time.ToNanoseconds() == 1_533_729_600_000_000_007
    assert made.amount_minor == 5


@pytest.mark.parametrize("money", [12.5, 12.0, np.float64(12), Decimal("12"), "12", True, None])
def test_money_is_an_integer(money: Any) -> None:
    with pytest.raises(TypeError):
        transaction("tx-1", event_time=NOW, amount_minor=money, currency="EUR")


@pytest.mark.parametrize("instant", [datetime(2018, 8, 8), 1.5e18, "2018-08-08T00:00:00Z", None])
def test_event_time_is_an_instant(instant: Any) -> None:
    with pytest.raises(TypeError):
        transaction("tx-1", event_time=instant, amount_minor=1, currency="EUR")
