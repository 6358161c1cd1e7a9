"""The load client against a scoring service that answers as the test says."""

import asyncio
import io
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from fraudgate.demo import data, replay
from fraudgate.demo.replay import Replay, arrival_offsets, closed_loop_rate, raw_call
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.progress import Progress
from fraudgate.v1 import outcomes_pb2, outcomes_pb2_grpc, scoring_pb2, scoring_pb2_grpc

RATE = 4_000.0


class Services(scoring_pb2_grpc.ScoringServiceServicer, outcomes_pb2_grpc.OutcomeServiceServicer):
    """Approves everything after a moment; refuses the first attempts of chosen ids."""

    def __init__(self) -> None:
        self.seconds = 0.002
        self.refuse: dict[str, list[grpc.StatusCode]] = {}
        self.retry_seconds = 0.03
        self.events: list[str] = []  # what arrived, in order
        self.unanswered: defaultdict[str, int] = defaultdict(int)
        self.unanswered_max = 0

    async def Score(  # noqa: N802 - gRPC's name
        self, request: scoring_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> scoring_pb2.ScoreResponse:
        row = request.transaction
        self.events.append(row.transaction_id)
        self.unanswered[row.customer_id] += 1
        self.unanswered_max = max(self.unanswered_max, self.unanswered[row.customer_id])
        await asyncio.sleep(self.seconds)
        self.unanswered[row.customer_id] -= 1
        if codes := self.refuse.get(row.transaction_id):
            await self._refuse(context, codes.pop(0))
        return scoring_pb2.ScoreResponse(transaction_id=row.transaction_id, decision=scoring_pb2.APPROVE)

    async def ReportOutcome(  # noqa: N802 - gRPC's name
        self, request: outcomes_pb2.ReportOutcomeRequest, context: grpc.aio.ServicerContext
    ) -> outcomes_pb2.ReportOutcomeResponse:
        await asyncio.sleep(self.seconds)
        if codes := self.refuse.get(request.transaction_id):
            await self._refuse(context, codes.pop(0))
        self.events.append(request.transaction_id)
        return outcomes_pb2.ReportOutcomeResponse(applied=True)

    async def _refuse(self, context: grpc.aio.ServicerContext, code: grpc.StatusCode) -> None:
        wait = Duration()
        wait.FromNanoseconds(int(self.retry_seconds * SECOND_NS))
        status = Status(code=code.value[0])
        status.details.add().Pack(RetryInfo(retry_delay=wait))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await context.abort(code, "refused by the test")


@pytest.fixture
async def services() -> AsyncIterator[tuple[Services, grpc.aio.Channel]]:
    services, server = Services(), grpc.aio.server()
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(services, server)
    outcomes_pb2_grpc.add_OutcomeServiceServicer_to_server(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield services, channel
    await server.stop(None)


def traffic_of(customers: list[str], frauds_before: int = 0) -> data.Traffic:
    """One row a second for each of ``customers``; fraud i of the week before is due at row i + 1, in its second."""
    rows = len(customers)
    seconds = np.arange(rows) * SECOND_NS + data.REPLAY_START_NS
    week = data.Rows(
        transaction_id=[f"row-{row}" for row in range(rows)],
        event_time_ns=seconds,
        amount_minor=np.ones(rows, np.int64),
        customer_id=customers,
        terminal_id=["t"] * rows,
        is_fraud=np.zeros(rows, np.bool_),
    )
    requests = [
        outcomes_pb2.ReportOutcomeRequest(transaction_id=f"fraud-{each}").SerializeToString()
        for each in range(frauds_before)
    ]
    outcomes = data.Outcomes(seconds[1 : frauds_before + 1], requests)
    nothing = data.Outcomes(seconds[:0], [])
    events = data.pa.table({})
    return data.Traffic("test", events, 0, week, data.score_requests(week), outcomes, nothing)


async def run(
    channel: grpc.aio.Channel, traffic: data.Traffic, offsets_ns: data.Int64 | None = None
) -> replay.ReplayLog:
    if offsets_ns is None:
        offsets_ns = arrival_offsets(len(traffic.week), RATE, poisson=False)
    progress = Progress("replaying", len(traffic.week), stream=io.StringIO())
    calls = raw_call(channel, replay.SCORE), raw_call(channel, replay.REPORT_OUTCOME)
    return await asyncio.wait_for(Replay(*calls, traffic, offsets_ns, progress).run(), 20)


Fixture = tuple[Services, grpc.aio.Channel]


async def test_every_row_is_answered_and_counted_from_its_intended_time(services: Fixture) -> None:
    service, channel = services
    traffic = traffic_of([f"c{row}" for row in range(300)])
    log = await run(channel, traffic)
    assert log.lost == 0
    assert [scoring_pb2.ScoreResponse.FromString(each).transaction_id for each in log.responses] == (
        traffic.week.transaction_id
    )
    assert np.diff(log.intended_ns).tolist() == [int(SECOND_NS / RATE)] * 299
    assert log.latency_ns.min() >= MILLISECOND_NS
    # Calls of different customers: on a machine that stalls, gRPC may begin two that wait in another order.
    assert sorted(service.events) == sorted(traffic.week.transaction_id)


async def test_a_customer_has_one_unanswered_transaction_at_most(services: Fixture) -> None:
    service, channel = services
    service.seconds = 0.005
    traffic = traffic_of([f"c{row % 4}" for row in range(120)])
    log = await run(channel, traffic)
    assert service.unanswered_max == 1
    assert log.lost == 0
    assert log.held > 60
    for customer in range(4):
        own = [name for name in service.events if int(name.removeprefix("row-")) % 4 == customer]
        assert own == traffic.week.transaction_id[customer::4]
    # A row that was held back counts from when it was meant to go out.
    assert log.latency_ns[-1] > 50 * MILLISECOND_NS


async def test_a_refusal_is_sent_again_with_the_same_id_after_the_named_wait(services: Fixture) -> None:
    service, channel = services
    service.refuse = {
        "row-3": [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE],
        "row-7": [grpc.StatusCode.RESOURCE_EXHAUSTED],
    }
    log = await run(channel, traffic_of([f"c{row}" for row in range(20)]))
    assert log.lost == 0
    assert log.refusals == {"RESOURCE_EXHAUSTED": 2, "UNAVAILABLE": 1}
    assert Counter(service.events)["row-3"] == 3
    assert log.latency_ns[3] >= 50 * MILLISECOND_NS
    assert log.latency_ns[7] >= 25 * MILLISECOND_NS


async def test_a_final_status_breaks_the_replay_off(services: Fixture) -> None:
    service, channel = services
    service.refuse = {"row-0": [grpc.StatusCode.INVALID_ARGUMENT]}
    an_hour_later = np.array([0, 3_600 * SECOND_NS])
    with pytest.raises(replay.ReplayFailed, match=r"INVALID_ARGUMENT.*refused by the test"):
        await run(channel, traffic_of(["c0", "c1"]), an_hour_later)
    assert service.events == ["row-0"]


async def test_refusals_without_end_break_the_replay_off(services: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PATIENCE_SECONDS", 0.1)
    service, channel = services
    service.retry_seconds = 0.001
    service.refuse = {"row-5": [grpc.StatusCode.UNAVAILABLE] * 1_000}
    with pytest.raises(replay.ReplayFailed, match="UNAVAILABLE"):
        await run(channel, traffic_of([f"c{row}" for row in range(10)]))


async def test_an_outcome_is_acknowledged_before_the_first_row_that_it_concerns(services: Fixture) -> None:
    service, channel = services
    service.seconds = 0.004  # an outcome takes longer than the rows leave it
    traffic = traffic_of([f"c{row}" for row in range(200)], frauds_before=60)
    log = await run(channel, traffic)
    place = {name: index for index, name in enumerate(service.events)}
    assert log.outcomes_acknowledged == 60
    assert log.outcome_waits > 0
    for fraud in range(60):
        assert place[f"fraud-{fraud}"] < place[f"row-{fraud + 1}"]


async def test_an_outcome_that_is_refused_for_good_breaks_the_replay_off(services: Fixture) -> None:
    service, channel = services
    service.refuse = {"fraud-1": [grpc.StatusCode.NOT_FOUND]}
    with pytest.raises(replay.ReplayFailed, match="NOT_FOUND"):
        await run(channel, traffic_of([f"c{row}" for row in range(10)], frauds_before=3))


async def test_frauds_of_the_week_are_reported_in_order(services: Fixture) -> None:
    service, channel = services
    outcomes = traffic_of(["c"] * 10, frauds_before=5).outcomes
    report = raw_call(channel, replay.REPORT_OUTCOME)
    assert await replay.report_all(report, outcomes, Counter()) == 5
    assert service.events == [f"fraud-{each}" for each in range(5)]


async def test_the_closed_loop_measures_what_is_answered(services: Fixture) -> None:
    service, channel = services
    service.seconds = 0.01
    traffic = traffic_of([f"c{row}" for row in range(5_000)])
    rate = await closed_loop_rate(raw_call(channel, replay.SCORE), traffic.requests, 8, warm_up=0.05, span=0.3)
    assert 0 < rate < 2 * 8 / 0.01
    service.refuse = {"row-0": [grpc.StatusCode.INVALID_ARGUMENT]}
    with pytest.raises(replay.ReplayFailed):
        await closed_loop_rate(raw_call(channel, replay.SCORE), traffic.requests[:1], 8, warm_up=0.05, span=0.3)


def test_arrivals_keep_the_rate_and_repeat() -> None:
    poisson = arrival_offsets(20_000, 2_000.0, poisson=True)
    assert poisson[-1] == pytest.approx(10 * SECOND_NS, rel=0.03)
    assert np.array_equal(poisson, arrival_offsets(20_000, 2_000.0, poisson=True))
    assert np.std(np.diff(poisson)) == pytest.approx(SECOND_NS / 2_000, rel=0.05)
    assert arrival_offsets(3, 1_000.0, poisson=False).tolist() == [1_000_000, 2_000_000, 3_000_000]


def test_a_log_knows_what_was_lost() -> None:
    log = replay.ReplayLog(np.array([10, 20, 30]), np.array([11, 22, 33]), np.array([15, 0, 50]), [b"x", b"", b"x"])
    assert log.lost == 1
    assert log.latency_ns.tolist() == [5, 20]
    assert log.lateness_ns.tolist() == [1, 3]
    assert log.rate == pytest.approx(2 * SECOND_NS / 40)
