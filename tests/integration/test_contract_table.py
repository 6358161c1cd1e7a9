"""The contract's status table, row by row, over the wire: code, details and message, retry, and what the windows count.

``BY_SCORE``, ``BY_BATCH`` and ``BY_STREAM`` send one transaction the three ways there are; a row of the table holds for
all of them where it speaks of a transaction.
"""

import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate.frontend.aio import SERVICE
from fraudgate.frontend.refusals import RETRY_STEPS_NS
from fraudgate.limits import BATCH_ROWS_MAX, MESSAGE_BYTES_MAX, MILLISECOND_NS, STREAM_UNANSWERED_MAX
from fraudgate.v1 import outcomes_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.raw_http2 import RawConnection, RawEnd, grpc_message
from tests.integration.server import (
    HELD_GATE,
    NOW_SECONDS,
    End,
    JumpingClock,
    Running,
    end_of,
    end_of_error,
    end_of_row,
    read_to_end,
    request,
    serve,
    stamp,
    transaction,
    until,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("frontend")]
Way = Callable[[Running, pb.Transaction], Awaitable[End]]
Code = grpc.StatusCode

RETRY_SECONDS = {step_ns / 1e9 for step_ns in RETRY_STEPS_NS}
QUEUE_FULL = "the queue is full; retry with the same transaction_id"
BUDGET_SPENT = "the latency budget is spent on waiting; retry with the same transaction_id"
DEADLINE = "the deadline has passed, or is shorter than the gate plus one batch"
DRAINING = "the server is draining; send the same transaction_id elsewhere or later"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, frontend: str) -> AsyncIterator[Running]:
    """One server for all the rows that leave it as it was."""
    async with serve(models) as running:
        yield running


async def by_score(server: Running, row: pb.Transaction) -> End:
    return await server.score(pb.ScoreRequest(transaction=row))


async def by_batch(server: Running, row: pb.Transaction) -> End:
    """The second of three rows; its neighbours must not notice."""
    before, end, after = await server.score_rows([neighbour(row, 1), row, neighbour(row, 2)])
    assert before.code is after.code is Code.OK
    return end


async def by_stream(server: Running, row: pb.Transaction) -> End:
    """The second of three messages; its neighbours must not notice."""
    messages = [pb.ScoreRequest(transaction=each) for each in (neighbour(row, 1), row, neighbour(row, 2))]
    results, end = await server.stream_all(messages)
    assert end.code is Code.OK
    before, result, after = map(end_of_row, results)
    assert before.code is after.code is Code.OK
    return result


async def codes_of(*calls: Awaitable[list[End]]) -> set[Code]:
    return {end.code for call in calls for end in await call}


def neighbour(row: pb.Transaction, number: int) -> pb.Transaction:
    return transaction(f"{row.transaction_id[:32]}{row.customer_id[:8]}-neighbour-{number}", customer_id="C-neighbours")


WAYS = pytest.mark.parametrize(
    ("way", "prefix"),
    [(by_score, "transaction"), (by_batch, "transactions[1]"), (by_stream, "transaction")],
    ids=["Score", "ScoreBatch", "ScoreStream"],
)


async def one_row(server: Running, row: pb.Transaction) -> End:
    """The only row of a ScoreBatch."""
    (end,) = await server.score_rows([row])
    return end


async def one_message(server: Running, row: pb.Transaction) -> End:
    """The only message of a ScoreStream."""
    results, end = await server.stream_all([pb.ScoreRequest(transaction=row)])
    assert end.code is Code.OK
    return end_of_row(*results)


ALONE = pytest.mark.parametrize("way", [by_score, one_row, one_message], ids=["Score", "ScoreBatch", "ScoreStream"])


# -- a field is missing, out of range, not finite, too long; over 64 attributes; over 512 rows -------------------------

INVALID: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing id": ({"transaction_id": None}, "transaction_id", "is required, 1 to 64 bytes"),
    "missing time": ({"event_time": None}, "event_time", "is required, as a valid google.protobuf.Timestamp"),
    "missing currency": ({"currency": None}, "currency", "is not an ISO 4217 code of three capital letters"),
    "out of range": ({"amount_minor": 10**12 + 1}, "amount_minor", "is not within 0..1,000,000,000,000"),
    "not finite": ({"attributes": {"x": float("inf")}}, "attributes['x']", "has a value that is not finite"),
    "too long": ({"card_id": "c" * 65}, "card_id", "is longer than 64 bytes"),
    "65 attributes": ({"attributes": {str(i): 1.0 for i in range(65)}}, "attributes", "has more than 64 entries"),
}


@WAYS
@pytest.mark.parametrize("name", INVALID)
async def test_a_bad_field_is_invalid_argument_with_its_path(
    server: Running, way: Way, prefix: str, name: str, request: pytest.FixtureRequest
) -> None:
    fields, field, what = INVALID[name]
    sent = f"{name} {way.__name__}"
    end = await way(server, transaction(sent, **fields))
    path = f"{prefix}.{field}"
    assert (end.code, end.path, end.message) == (Code.INVALID_ARGUMENT, path, f"{path} {what}")
    assert await server.count(f"C-{sent}") == 0


async def test_a_request_without_a_transaction_is_invalid_argument(server: Running) -> None:
    end = await server.score(pb.ScoreRequest())
    assert (end.code, end.path, end.message) == (Code.INVALID_ARGUMENT, "transaction", "transaction is required")
    results, ended = await server.stream_all([pb.ScoreRequest()])
    assert ended.code is Code.OK
    assert end_of_row(*results).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("rows", [0, 513])
async def test_a_batch_of_none_or_over_512_is_invalid_argument(server: Running, rows: int) -> None:
    batch = [transaction(f"batch of {rows}, {i}", customer_id=f"C-batch of {rows}") for i in range(rows)]
    end = await server.score_batch(pb.ScoreBatchRequest(transactions=batch))
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, "transactions")
    assert end.message == "transactions needs 1 to 512 entries"
    assert await server.count(f"C-batch of {rows}") == 0


async def test_a_batch_of_512_is_decided_in_order(server: Running) -> None:
    batch = [transaction(f"512, {i}", amount_minor=-1 if i % 10 == 7 else i) for i in range(512)]
    ends = await server.score_rows(batch)
    codes = [Code.INVALID_ARGUMENT if i % 10 == 7 else Code.OK for i in range(512)]
    assert [end.code for end in ends] == codes
    assert [end.response.transaction_id for end in ends if end.code is Code.OK] == [
        row.transaction_id for row, code in zip(batch, codes, strict=True) if code is Code.OK
    ]
    assert ends[507].path == "transactions[507].amount_minor"


# -- bytes that do not decode ------------------------------------------------------------------------------------------

UNDECODABLE = "transaction does not decode: cut, or not UTF-8"


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x0a\x05\x0a"], ids=["nonsense", "cut"])
async def test_bytes_that_do_not_decode_are_invalid_argument(server: Running, body: bytes) -> None:
    results, end_of_stream = await server.stream_all([request("before the bad bytes"), body, request("after them")])
    assert [end_of_row(each).code for each in results] == [Code.OK]
    for end in (await server.score(body), await server.score_batch(body), end_of_stream):
        assert (end.code, end.path, end.message) == (Code.INVALID_ARGUMENT, "transaction", UNDECODABLE)


# -- message over 1 MiB ------------------------------------------------------------------------------------------------


def of_size(id: str, size: int) -> bytes:
    """A request padded to ``size`` bytes with an unknown field."""
    body = request(id).SerializeToString()
    padding = size - len(body) - 4  # a tag and a length of three bytes
    return body + b"\x7a" + bytes([padding & 127 | 128, padding >> 7 & 127 | 128, padding >> 14]) + bytes(padding)


async def test_a_message_over_1_mib_is_resource_exhausted(server: Running) -> None:
    fits, over = of_size("1 MiB", MESSAGE_BYTES_MAX), of_size("over 1 MiB", MESSAGE_BYTES_MAX + 1)
    assert (len(fits), len(over)) == (MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1)
    assert (await server.score(fits)).code is Code.OK
    _, end_of_stream = await server.stream_all([over])
    for end in (await server.score(over), await server.score_batch(over), end_of_stream):
        assert (end.code, end.details) == (Code.RESOURCE_EXHAUSTED, ())
        assert "larger than max" in end.message
    assert await server.count("C-over 1 MiB") == 0


# -- the client's deadline has passed, or is shorter than the time to the gate plus one batch --------------------------


async def test_a_deadline_shorter_than_the_gate_is_refused_at_once(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        end = await server.score(request("short"), timeout=20)
        assert (end.code, end.message, end.details) == (Code.DEADLINE_EXCEEDED, DEADLINE, ())
        ends = await server.score_rows([transaction("short 1"), transaction("short 2")], timeout=20)
        assert [(end.code, end.message) for end in ends] == [(Code.DEADLINE_EXCEEDED, DEADLINE)] * 2
        assert (server.queued, server.refusals("deadline")) == (0, 3)
        # The same ids are free, and nothing was counted.
        ends = await server.score_all([request("short"), *(request(f"short {i}") for i in range(1, 32))])
        assert not any(end.replayed for end in ends)
        assert {end.response.timings.batch_rows for end in ends} == {32}
        assert await server.count("C-short") == 1


async def test_a_deadline_shorter_than_the_gate_plus_one_batch_is_refused(models: Path) -> None:
    async with serve(models, batching={"gate_ns": 1}) as server:
        server.service.door.batch_ns = 25 * 1_000 * MILLISECOND_NS
        end = await server.score(request("short"), timeout=20)
        assert (end.code, end.message) == (Code.DEADLINE_EXCEEDED, DEADLINE)


async def test_an_entry_that_expires_in_the_queue_leaves_no_trace(models: Path, clock: JumpingClock) -> None:
    async with serve(models, batching={"budget_ns": 0}) as server:
        held = server.hold()
        *ahead, patient = await server.fill([transaction("patient")])
        late = server.start_score(request("late"), timeout=25)
        await until(lambda: server.queued == 2)
        clock.ahead_ns = 26 * 1_000 * MILLISECOND_NS
        held.let_go()
        end = await end_of(late)
        assert (end.code, end.message, end.details) == (Code.DEADLINE_EXCEEDED, DEADLINE, ())
        assert await codes_of(*ahead, patient) == {Code.OK}
        assert await server.count("C-late") == 0
        assert server.refusals("deadline") == 1
        again = await server.score(request("late"))
        assert (again.code, again.replayed) == (Code.OK, False)


# -- queue full, or waiting has used or would use up the server's budget -----------------------------------------------


@ALONE
async def test_a_full_queue_is_resource_exhausted_with_retry_info(models: Path, way: Way) -> None:
    async with serve(models, batching={"queue_rows_max": 32}) as server:
        held = server.hold()
        calls = await server.fill([transaction(f"queued {i}") for i in range(32)])
        end = await way(server, transaction("one more"))
        assert (end.code, end.message, end.retry_seconds in RETRY_SECONDS) == (
            Code.RESOURCE_EXHAUSTED,
            QUEUE_FULL,
            True,
        )
        assert server.refusals("queue_full") == 1
        held.let_go()
        assert await codes_of(*calls) == {Code.OK}
        assert await server.count("C-one more") == 0
        again = await way(server, transaction("one more"))
        assert (again.code, again.replayed) == (Code.OK, False)


async def test_the_rows_of_a_batch_that_fit_the_queue_are_decided_and_the_others_refused(models: Path) -> None:
    async with serve(models, batching={"queue_rows_max": 32}) as server:
        held = server.hold()
        *ahead, rows = await server.fill([transaction(f"row {i}") for i in range(40)], queued=32)
        held.let_go()
        ends = await rows
        assert [end.code for end in ends] == [Code.OK] * 32 + [Code.RESOURCE_EXHAUSTED] * 8
        assert {(end.message, end.retry_seconds in RETRY_SECONDS) for end in ends[32:]} == {(QUEUE_FULL, True)}
        assert await codes_of(*ahead) == {Code.OK}


@ALONE
async def test_waiting_that_would_use_up_the_budget_is_resource_exhausted(models: Path, way: Way) -> None:
    async with serve(models, batching={"budget_ns": 50 * MILLISECOND_NS}) as server:
        server.service.door.batch_ns = 50 * MILLISECOND_NS
        end = await way(server, transaction("hurried"))
        # The gate takes 5 ms, so that 55 are predicted, 5 more than there are.
        assert (end.code, end.message, end.retry_seconds) == (Code.RESOURCE_EXHAUSTED, BUDGET_SPENT, 0.005)
        assert (server.queued, server.refusals("budget")) == (0, 1)
        assert await server.count("C-hurried") == 0


@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_a_stall_that_is_over_does_not_keep_the_door_shut(models: Path, timeout: float | None) -> None:
    """What a batch takes is measured on batches: an estimate that refuses everybody must not be the last."""
    async with serve(models, batching={"budget_ns": 1_000 * MILLISECOND_NS}) as server:
        server.service.door.batch_ns = 60_000 * MILLISECOND_NS
        ends = [await server.score(request(f"after the stall {i}"), timeout=timeout) for i in range(40)]
        assert ends[0].code is (Code.RESOURCE_EXHAUSTED if timeout is None else Code.DEADLINE_EXCEEDED)
        assert ends[-1].code is Code.OK


async def test_waiting_that_has_used_up_the_budget_is_resource_exhausted(models: Path, clock: JumpingClock) -> None:
    async with serve(models) as server:
        held = server.hold()
        *ahead, waited = await server.fill([transaction("waited")])
        clock.ahead_ns = server.service.parts.config.batching.budget_ns
        held.let_go()
        (end,) = await waited
        assert (end.code, end.message, end.retry_seconds) == (Code.RESOURCE_EXHAUSTED, BUDGET_SPENT, 0.05)
        # What was being decided already has its decision.
        assert await codes_of(*ahead) == {Code.OK}
        assert (await server.count("C-waited"), await server.count("C-ahead 2-31")) == (0, 1)


# -- same transaction_id, other payload --------------------------------------------------------------------------------


@WAYS
async def test_an_id_with_another_payload_is_already_exists(server: Running, way: Way, prefix: str) -> None:
    sent = f"twice {way.__name__}"
    assert (await server.score(request(sent))).code is Code.OK
    end = await way(server, transaction(sent, amount_minor=1))
    message = "this transaction_id was already used with another payload"
    assert (end.code, end.message) == (Code.ALREADY_EXISTS, message)
    (detail,) = end.details
    assert isinstance(detail, error_details_pb2.ErrorInfo)
    assert (detail.reason, detail.domain) == ("TRANSACTION_ID_REUSED", "fraudgate")
    assert dict(detail.metadata) == {"transaction_id": sent}
    assert await server.count(f"C-{sent}") == 1


# -- no model is live, or the server is draining -----------------------------------------------------------------------


async def test_a_draining_server_is_unavailable(models: Path) -> None:
    async with serve(models) as server:
        held = server.hold()
        admitted = server.start_rows([transaction(f"admitted {i}") for i in range(32)])
        await until(lambda: held.started == 1)
        draining = server.start_drain()
        await until(lambda: server.service.door.closed is not None)
        _, end_of_stream = await server.stream_all([request("late")])
        batch = await server.score_batch(pb.ScoreBatchRequest(transactions=[transaction("late")]))
        for end in (await server.score(request("late")), batch, end_of_stream):
            assert (end.code, end.message, end.details) == (Code.UNAVAILABLE, DRAINING, ())
        assert await server.count("C-late") == 0
        held.let_go()
        assert await codes_of(admitted) == {Code.OK}
        assert await draining == 0


# -- our fault, before the event was applied ---------------------------------------------------------------------------


@ALONE
async def test_a_store_that_fails_is_internal_and_the_id_stays_free(
    models: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(models, ladder={"enabled": False}) as server:
        with monkeypatch.context() as broken:
            broken.setattr(server.service.parts.store, "apply_and_gather", lambda columns, rows: 1 / 0)
            end = await way(server, transaction("unlucky"))
        message = "our fault, before the event was applied; send the same transaction_id again"
        assert (end.code, end.message, end.details) == (Code.INTERNAL, message, ())
        assert await server.count("C-unlucky") == 0
        again = await way(server, transaction("unlucky"))
        assert (again.code, again.replayed) == (Code.OK, False)
        assert await server.count("C-unlucky") == 1


# -- compression other than identity and gzip --------------------------------------------------------------------------


async def test_deflate_is_unimplemented(server: Running) -> None:
    deflate = {"compression": grpc.Compression.Deflate}
    batch = pb.ScoreBatchRequest(transactions=[transaction("deflated")])
    for end in (await server.score(request("deflated"), **deflate), await server.score_batch(batch, **deflate)):
        assert (end.code, end.details) == (Code.UNIMPLEMENTED, ())
    # grpc's own client may report that its next write failed instead of how the call ended.
    connection = await RawConnection.open(server.data_port)
    packed = grpc_message(zlib.compress(request("deflated").SerializeToString()), compressed=True)
    raw_end = await connection.call(f"/{SERVICE}/ScoreStream", packed, {"grpc-encoding": "deflate"})
    await connection.close()
    assert raw_end == RawEnd(str(Code.UNIMPLEMENTED.value[0]))
    assert await server.count("C-deflated") == 0


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_identity_and_gzip_are_taken(server: Running, compression: grpc.Compression) -> None:
    end = await server.score(request(f"packed {compression.name}"), compression=compression)
    assert end.code is Code.OK


# -- caller is not known / may not call this ---------------------------------------------------------------------------

UNAUTHENTICATED = "no known caller has this token, or none was sent"
NOT_ALLOWED = "this caller may not call this method"


async def by_each_rpc(server: Running, sent: str, token: str | None) -> list[End]:
    """What a call of each of the three methods ends with, in the order of the contract."""
    metadata = (("authorization", token),) if token is not None else ()
    batch = pb.ScoreBatchRequest(transactions=[transaction(f"{sent} row", customer_id=f"C-{sent}")])
    streamed = grpc_message(request(f"{sent} message", customer_id=f"C-{sent}").SerializeToString())
    score = await server.score(request(sent, customer_id=f"C-{sent}"), metadata=metadata)
    # grpc's own client may report that its next write failed instead of how the call ended.
    connection = await RawConnection.open(server.data_port)
    end_of_stream = await connection.call(f"/{SERVICE}/ScoreStream", streamed, dict(metadata))
    await connection.close()
    assert end_of_stream.details == b""
    return [
        score,
        await server.score_batch(batch, metadata=metadata),
        End(next(code for code in Code if str(code.value[0]) == end_of_stream.status)),
    ]


def caller(name: str, **fields: Any) -> dict[str, Any]:
    """One of [[callers]], whose token is its name."""
    return {"name": name, "token_sha256": hashlib.sha256(name.encode()).hexdigest(), **fields}


@pytest.mark.parametrize("required", [False, True])
async def test_an_unknown_caller_is_unauthenticated(models: Path, required: bool) -> None:
    async with serve(models, callers=[caller("shop")], admission={"callers_required": required}) as server:
        for i, token in enumerate(("Bearer shop", "bearer shop")):
            assert {end.code for end in await by_each_rpc(server, f"known {i}", token)} == {Code.OK}
        unknown = ["Bearer shops", "Bearer ", "Basic shop", "shop"]
        for i, token in enumerate([*unknown, None] if required else unknown):
            for end in await by_each_rpc(server, f"unknown {i}", token):
                assert (end.code, end.details) == (Code.UNAUTHENTICATED, ())
                assert end.message in (UNAUTHENTICATED, "")
            assert await server.count(f"C-unknown {i}") == 0
        assert server.refusals("unauthenticated") == 3 * (len(unknown) + required)
        if not required:
            assert {end.code for end in await by_each_rpc(server, "nobody", None)} == {Code.OK}
        # Whether the server lives is everybody's to ask.
        assert (await HealthStub(server.channel).Check(HealthCheckRequest())).status == HealthCheckResponse.SERVING


async def test_a_caller_may_call_what_it_may(models: Path) -> None:
    methods = ("Score", "ScoreBatch", "ScoreStream")
    async with serve(models, callers=[caller(name, may=[name]) for name in methods]) as server:
        for place, name in enumerate(methods):
            ends = await by_each_rpc(server, f"may {name}", f"Bearer {name}")
            assert ends.pop(place).code is Code.OK
            assert {(end.code, end.details) for end in ends} == {(Code.PERMISSION_DENIED, ())}
            assert {end.message for end in ends} <= {NOT_ALLOWED, ""}
            assert await server.count(f"C-may {name}") == 1
        assert server.refusals("not_allowed") == 6


async def test_without_callers_the_header_is_somebody_elses(server: Running) -> None:
    assert {end.code for end in await by_each_rpc(server, "proxied", "Basic cHJveHk6")} == {Code.OK}


# -- outcome for an id that is not known -------------------------------------------------------------------------------


async def test_an_outcome_of_an_unknown_id_is_not_found(server: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await server.outcomes.ReportOutcome(outcomes_pb2.ReportOutcomeRequest(transaction_id="whose?", is_fraud=True))
    end = end_of_error(raised.value)
    assert (end.code, end.message) == (
        Code.NOT_FOUND,
        "transaction 'whose?' is not among the recent decisions: send its event_time and terminal_id with the outcome",
    )


# -- and what is not an error ------------------------------------------------------------------------------------------


@WAYS
async def test_a_good_transaction_gets_a_whole_decision(server: Running, way: Way, prefix: str) -> None:
    sent = f"good {way.__name__}"
    response = (await way(server, transaction(sent, event_time=stamp(NOW_SECONDS, 5)))).response
    info = server.service.parts.engine.info
    assert response.transaction_id == sent
    assert response.decision in (pb.APPROVE, pb.REVIEW, pb.DECLINE)
    assert response.HasField("score")
    assert 0 <= response.score <= 1
    assert response.fallback == pb.FALLBACK_STALE_FEATURES  # a cold store says so
    assert (response.model.name, response.model.version) == (info.name, info.version)
    assert (response.model.engine_digest, response.model.precision) == (info.engine_digest, "int8")
    assert response.ruleset_version == server.service.parts.rules.version
    assert 1 <= len(response.decision_id) <= 64
    timings = response.timings
    stages = (timings.queue_ns, timings.features_ns, timings.inference_ns, timings.guardrails_ns)
    assert sum(stages) == timings.total_ns
    assert min(stages) >= 0
    assert timings.batch_rows >= 1
    assert await server.count(f"C-{sent}") == 1


async def test_a_stream_is_answered_in_order(server: Running) -> None:
    messages = [request(f"streamed {i}", currency="EUR" if i % 5 else "???") for i in range(600)]
    results, end = await server.stream_all(messages)
    assert end.code is Code.OK
    assert [each.transaction_id for each in results] == [each.transaction.transaction_id for each in messages]
    assert [each.WhichOneof("result") for each in results] == ["response" if i % 5 else "error" for i in range(600)]


async def test_a_stream_is_not_read_while_256_messages_are_unanswered(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        held, shell = server.hold(), server.service.door.shell
        messages = 19 * BATCH_ROWS_MAX
        call = server.score_stream([request(f"streamed {i}").SerializeToString() for i in range(messages)])
        await until(lambda: shell.batches_in_flight * BATCH_ROWS_MAX + server.queued == STREAM_UNANSWERED_MAX)
        for i in range(20):  # many rounds of the loop, in each of which the server could have read on
            await server.count(f"C-{i}")
        assert shell.batches_in_flight * BATCH_ROWS_MAX + server.queued == STREAM_UNANSWERED_MAX
        held.let_go()
        results, end = await read_to_end(call)
        assert (len(results), end.code) == (messages, Code.OK)
