"""Bad input over the wire: each gets the contract's status, none disturbs its neighbours, none reaches the engine or a
window, and the server still answers.
"""

import asyncio
import gzip
import math
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from fraudgate.audit.log_file import read_log
from fraudgate.frontend.aio import SERVICE
from fraudgate.limits import BATCH_ROWS_MAX, MILLISECOND_NS
from fraudgate.transaction import ENTITIES, Status
from fraudgate.v1 import latency_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.raw_http2 import DATA, WINDOW_DEFAULT, RawConnection, RawEnd, grpc_message
from tests.integration.server import (
    HELD_GATE,
    NOW_SECONDS,
    Child,
    Running,
    end_of,
    request,
    serve,
    serve_child,
    stamp,
    transaction,
    unary,
    until,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("frontend")]
Code = grpc.StatusCode
SCORE = f"/{SERVICE}/Score"
MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, frontend: str) -> AsyncIterator[Running]:
    """One server for the whole of it. A batch closes when it is full, so that a test knows what shares one."""
    async with serve(models, batching=HELD_GATE) as running:
        yield running


# -- fields ------------------------------------------------------------------------------------------------------------

FUTURE = NOW_SECONDS + 3_600
CONTROL = {"NUL": "\0", "C0": "\x1f", "newline": "\n", "DEL": "\x7f", "C1": "\x80", "last C1": "\x9f"}
ID_FIELDS = ("transaction_id", *ENTITIES)

BAD_FIELDS: dict[str, tuple[Mapping[str, Any], str]] = {
    "empty transaction_id": ({"transaction_id": ""}, "transaction_id"),
    **{f"65-byte {field}": ({field: "x" * 65}, field) for field in ID_FIELDS},
    **{f"{field} of 64 characters, 65 bytes": ({field: "x" * 63 + "é"}, field) for field in ID_FIELDS},
    **{
        f"{field} with {name}": ({field: f"a{char}b"}, field)
        for field in ID_FIELDS
        for name, char in CONTROL.items()
        if field in ("transaction_id", "customer_id") or name == "C1"
    },
    "amount -1": ({"amount_minor": -1}, "amount_minor"),
    "smallest amount": ({"amount_minor": -(2**63)}, "amount_minor"),
    "amount over 10^12": ({"amount_minor": 10**12 + 1}, "amount_minor"),
    "largest amount": ({"amount_minor": 2**63 - 1}, "amount_minor"),
    "no currency": ({"currency": ""}, "currency"),
    "unknown currency": ({"currency": "XYZ"}, "currency"),
    "small letters": ({"currency": "eur"}, "currency"),
    "number of a currency": ({"currency": "978"}, "currency"),
    "currency and more": ({"currency": "EUR "}, "currency"),
    "event_time absent": ({"event_time": None}, "event_time"),
    "event_time in 1900": ({"event_time": stamp(-2_208_988_800)}, "event_time"),
    "event_time in 1970": ({"event_time": stamp(0)}, "event_time"),
    "event_time before 2000": ({"event_time": stamp(946_684_799, 999_999_999)}, "event_time"),
    "event_time too far ahead": ({"event_time": stamp(FUTURE, 1)}, "event_time"),
    "event_time in 9999": ({"event_time": stamp(253_402_300_799)}, "event_time"),
    "largest event_time": ({"event_time": stamp(2**63 - 1)}, "event_time"),
    "smallest event_time": ({"event_time": stamp(-(2**63))}, "event_time"),
    "negative nanos": ({"event_time": stamp(NOW_SECONDS, -1)}, "event_time"),
    "a second of nanos": ({"event_time": stamp(NOW_SECONDS, 10**9)}, "event_time"),
    "NaN": ({"attributes": {"good": 1.0, "bad": math.nan}}, "attributes['bad']"),
    "infinity": ({"attributes": {"bad": math.inf}}, "attributes['bad']"),
    "minus infinity": ({"attributes": {"bad": -math.inf}}, "attributes['bad']"),
    "65 attributes": ({"attributes": {f"a{i}": 0.0 for i in range(65)}}, "attributes"),
    "10,000 attributes": ({"attributes": {f"a{i}": 0.0 for i in range(10_000)}}, "attributes"),
    "65 attributes, one not finite": ({"attributes": {f"a{i}": math.inf for i in range(65)}}, "attributes"),
    "empty key": ({"attributes": {"": 1.0}}, "attributes['']"),
    "65-byte key": ({"attributes": {"k" * 65: 1.0}}, "attributes"),
    "key with a control character": ({"attributes": {"a\tb": 1.0}}, "attributes['a\\tb']"),
}
GOOD_FIELDS: dict[str, Mapping[str, Any]] = {
    **{f"64-byte {field}": {field: f"{field:x<64}"} for field in ID_FIELDS},
    "64 bytes in 16 characters": {"customer_id": "\N{OLD ITALIC LETTER A}" * 16},
    **{f"no {field}": {field: None} for field in ENTITIES},
    "spaces, quotes and a non-breaking space": {"customer_id": " '\"\N{NO-BREAK SPACE}\\ "},
    "amount 0": {"amount_minor": 0},
    "amount 10^12": {"amount_minor": 10**12},
    "a currency without minor units": {"currency": "JPY"},
    "first event_time": {"event_time": stamp(946_684_800)},
    "last event_time": {"event_time": stamp(FUTURE)},
    "last nanosecond": {"event_time": stamp(NOW_SECONDS, 999_999_999)},
    "64 attributes": {"attributes": {f"{i:x<64}": 1e308 for i in range(64)}},
}


def named(name: str, fields: Mapping[str, Any]) -> pb.Transaction:
    return transaction(**{"id": name[:64], "customer_id": f"C-{name}"[:64], **fields})


@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_a_bad_field_ends_its_own_row_and_no_other(server: Running, name: str) -> None:
    fields, field = BAD_FIELDS[name]
    neighbours = [request(f"{name[:48]}, neighbour {i}", customer_id=f"N-{name}"[:64]) for i in range(31)]
    bad = pb.ScoreRequest(transaction=named(name, fields))
    *ends, end = await server.score_all([*neighbours, bad])
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, f"transaction.{field}")
    assert [each.response.timings.batch_rows for each in ends] == [31] * 31
    assert await server.count(f"N-{name}"[:64]) == 31
    if field != "customer_id":
        assert await server.count(bad.transaction.customer_id) == 0


async def test_what_is_just_within_its_range_is_decided(server: Running) -> None:
    rows = [named(name, fields) for name, fields in GOOD_FIELDS.items()]
    rows += [transaction(f"filling {i}") for i in range(-len(rows) % BATCH_ROWS_MAX)]
    ends = await server.score_rows(rows)
    assert {end.code for end in ends} == {Code.OK}


async def test_an_amount_that_overflows_on_the_wire_is_out_of_range(server: Running) -> None:
    """2^64 - 1 as a varint: ten bytes, which an int64 field reads as -1."""
    good = transaction("overflow", amount_minor=None).SerializeToString()
    row = pb.Transaction.FromString(good + b"\x18" + b"\xff" * 9 + b"\x01")
    assert row.amount_minor == -1
    *ends, end = await server.score_rows([*(transaction(f"by the overflow {i}") for i in range(31)), row])
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, "transactions[31].amount_minor")
    assert {each.code for each in ends} == {Code.OK}


async def test_the_batch_log_shows_that_no_bad_row_reached_the_engine(models: Path, tmp_path: Path) -> None:
    """All of the above in batches with good rows between them, and what the log says of each row."""
    bad = [(name, named(name, fields)) for name, (fields, _) in BAD_FIELDS.items()]
    rows = [each for name, row in bad for each in (row, transaction(f"after {name}"[:64]))]
    rows += [transaction(f"filling {i}") for i in range(-len(rows) % BATCH_ROWS_MAX)]
    async with serve(models, batching=HELD_GATE, log={"dir": str(tmp_path)}) as server:
        ends = await server.score_rows(rows)
        refused = [end.code is not Code.OK for end in ends]
        assert refused == [i % 2 == 0 and i < 2 * len(bad) for i in range(len(rows))]
        good = await server.score_rows([transaction(f"good {i}") for i in range(32)])
        assert {end.response.timings.batch_rows for end in good} == {32}
        await server.start_drain()
    batches = list(read_log(tmp_path))
    assert [batch.request.num_rows for batch in batches] == [32] * (len(rows) // 32 + 1)
    features = np.concatenate([batch.features for batch in batches])
    statuses = np.concatenate([batch.answers["status"].to_numpy() for batch in batches])
    ids = [each for batch in batches for each in batch.request["transaction_id"].to_pylist()]
    assert ids[: len(rows)] == [row.transaction_id for row in rows]
    assert np.isnan(features[: len(rows)]).all(axis=1).tolist() == refused
    assert not np.isnan(features[len(rows) :]).any()
    assert statuses[: len(rows)].tolist() == [Status.INVALID_ARGUMENT if bad else Status.OK for bad in refused]


# -- bytes -------------------------------------------------------------------------------------------------------------

WHOLE = request("whole", attributes={"key": 1.0}).SerializeToString()


def with_bytes(marker: str, replacement: bytes) -> bytes:
    """A request in which ``marker`` stands as these bytes."""
    body = request("first", customer_id="second", attributes={"third": 1.0}).SerializeToString()
    assert (len(replacement), body.count(marker.encode())) == (len(marker), 1)
    return body.replace(marker.encode(), replacement)


UNDECODABLE = {
    "a lone byte": b"\x00",
    "an endless varint": b"\x0a" + b"\xff" * 11,
    "length beyond the end": b"\x0a\x7f" + WHOLE[2:],
    "invalid UTF-8 in an id": with_bytes("first", b"\xff\xfe\xfd\xfc\xfb"),
    "a surrogate in an id": with_bytes("second", b"sec\xed\xa0\x80"),
    "an overlong slash in an id": with_bytes("first", b"fir\xc0\xaf"),
    "invalid UTF-8 in a key": with_bytes("third", b"thi\xffd"),
    **{f"cut after {size} bytes": WHOLE[:size] for size in range(1, len(WHOLE))},
}


async def test_bytes_that_do_not_decode_end_their_own_call_and_no_other(server: Running) -> None:
    neighbours = [request(f"beside bytes {i}", customer_id="C-beside bytes") for i in range(32)]
    ends = await server.score_all([*UNDECODABLE.values(), *neighbours])
    bad, good = ends[: len(UNDECODABLE)], ends[len(UNDECODABLE) :]
    wrong = {
        name: end.code for name, end in zip(UNDECODABLE, bad, strict=True) if end.code is not Code.INVALID_ARGUMENT
    }
    assert wrong == {}
    assert {end.path for end in bad} == {"transaction"}
    assert {end.response.timings.batch_rows for end in good} == {32}
    assert await server.count("C-beside bytes") == 32
    assert await server.count("C-whole") == 0


async def test_a_message_of_64_mb_is_refused_and_not_kept(models: Path, tmp_path: Path) -> None:
    """Also when gzip makes 60 kB of it."""
    body = pb.ScoreRequest(transaction=transaction("huge", customer_id="x" * (64 * MIB))).SerializeToString()
    packed = grpc_message(gzip.compress(body[: 60 * MIB]), compressed=True)
    assert len(packed) < WINDOW_DEFAULT
    async with serve_child(tmp_path, models) as server:
        await server.score(request("first"))
        before = server.resident_bytes
        connection = await RawConnection.open(server.data_port)
        ends = await asyncio.gather(
            server.score(body),
            connection.call(SCORE, packed, {"grpc-encoding": "gzip"}),
            server.score_all([request(f"beside 64 MB {i}") for i in range(32)]),
        )
        await connection.close()
        plain, unpacked, good = ends
        assert (plain.code, plain.details) == (Code.RESOURCE_EXHAUSTED, ())
        assert unpacked == RawEnd(str(Code.RESOURCE_EXHAUSTED.value[0]))
        assert {end.code for end in good} == {Code.OK}
        assert server.resident_bytes - before < 32 * MIB


async def test_gzip_is_unpacked(server: Running) -> None:
    ends = await asyncio.gather(
        *(server.score(request(f"gzip {i}"), compression=grpc.Compression.Gzip) for i in range(32))
    )
    assert {end.response.timings.batch_rows for end in ends} == {32}


# -- frames: what only a broken client sends ---------------------------------------------------------------------------


async def raw_call(server: Running, data: bytes, headers: Mapping[str, str] | None = None) -> RawEnd:
    connection = await RawConnection.open(server.data_port)
    end = await connection.call(SCORE, data, headers)
    await connection.close()
    return end


async def answers_32(server: Running, name: str) -> None:
    """The server decides a full batch of good rows, and nothing but them."""
    ends = await server.score_all([request(f"{name} {i}"[:64], customer_id=f"C-{name}"[:64]) for i in range(32)])
    assert {end.response.timings.batch_rows for end in ends} == {32}
    assert await server.count(f"C-{name}"[:64]) == 32


@pytest.mark.parametrize("timeout", ["1n", "0n", "1u"])
async def test_a_deadline_that_has_passed_is_deadline_exceeded(server: Running, timeout: str) -> None:
    body = request(f"too late {timeout}").SerializeToString()
    end = await raw_call(server, grpc_message(body), {"grpc-timeout": timeout})
    assert end == RawEnd(str(Code.DEADLINE_EXCEEDED.value[0]))
    await answers_32(server, f"after {timeout}")
    assert await server.count(f"C-too late {timeout}") == 0


UNPACKABLE = {Code.INTERNAL, Code.INVALID_ARGUMENT}
"""What cannot be unpacked: the native front end says what the contract says of bytes that do not decode; grpc refuses
them itself before a handler runs, and INTERNAL is its word for it.
"""


async def ended(server: Running, data: bytes, headers: Mapping[str, str]) -> RawEnd:
    """How a call ended. grpcio now and then leaves one unanswered whose message broke before a handler had it."""
    for _ in range(2):
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                return await raw_call(server, data, headers)
    return await raw_call(server, data, headers)


@pytest.mark.parametrize(
    ("data", "headers", "codes"),
    [
        (grpc_message(WHOLE, compressed=True), {"grpc-encoding": "deflate"}, {Code.UNIMPLEMENTED}),
        (grpc_message(WHOLE, compressed=True), {"grpc-encoding": "snappy"}, {Code.INTERNAL, Code.UNIMPLEMENTED}),
        (grpc_message(WHOLE, compressed=True), {"grpc-encoding": "gzip"}, UNPACKABLE),
        (grpc_message(gzip.compress(WHOLE)[:-9], compressed=True), {"grpc-encoding": "gzip"}, UNPACKABLE),
        (grpc_message(WHOLE, compressed=True), {}, {Code.INTERNAL}),
        (b"\x07" + grpc_message(WHOLE)[1:], {}, {Code.INTERNAL, Code.INVALID_ARGUMENT}),
        (grpc_message(WHOLE, length=2**32 - 1), {}, {Code.RESOURCE_EXHAUSTED}),
    ],
    ids=["deflate", "snappy", "gzip that is none", "cut gzip", "packed with nothing", "unknown flag", "4 GB announced"],
)
async def test_a_message_that_cannot_be_unpacked_is_refused(
    server: Running, data: bytes, headers: Mapping[str, str], codes: set[Code], request: pytest.FixtureRequest
) -> None:
    end = await ended(server, data, headers)
    assert end.status in {str(code.value[0]) for code in codes}
    await answers_32(server, f"after {request.node.callspec.id}")
    assert await server.count("C-whole") == 0


@pytest.mark.parametrize("size", [0, 3, 5, 20])
async def test_a_call_that_is_cut_within_its_frames_leaves_no_trace(server: Running, size: int) -> None:
    """grpc never shows such a call to a handler; it ends by its own deadline, or INTERNAL. The contract's status for
    bytes that are cut is INVALID_ARGUMENT, which the native front end gives at once.
    """
    end = await raw_call(server, grpc_message(WHOLE)[:size], {"grpc-timeout": "50m"})
    assert end.status in {str(code.value[0]) for code in (Code.DEADLINE_EXCEEDED, *UNPACKABLE)}
    await answers_32(server, f"after a cut at {size}")
    assert await server.count("C-whole") == 0


async def test_a_client_that_vanishes_within_a_message_leaves_no_trace(server: Running) -> None:
    connections = [await RawConnection.open(server.data_port) for _ in range(50)]
    for connection in connections:
        connection.start_call(SCORE)
        connection.write(DATA, 0, 1, grpc_message(WHOLE)[:20])
        connection.vanish()
    await answers_32(server, "after the vanished")
    assert await server.count("C-whole") == 0


async def test_a_client_that_vanishes_before_its_batch_is_taken_up_leaves_no_trace(server: Running) -> None:
    staying = [server.start_score(request(f"staying {i}")) for i in range(20)]
    leaving = [server.start_score(request(f"leaving {i}", customer_id="C-leaving")) for i in range(8)]
    connection = await RawConnection.open(server.data_port)
    connection.start_call(SCORE)
    connection.write(DATA, 1, 1, grpc_message(request("dropped", customer_id="C-leaving").SerializeToString()))
    await until(lambda: server.queued == 29)
    cancelled = server.refusals("cancelled")
    for call in leaving:
        call.cancel()
    connection.vanish()
    await server.abandoned(9)
    staying += [server.start_score(request(f"staying {i}")) for i in range(20, 23)]
    # The hole is not filled by later entries, so the batch closes with 32 entries and decides 23.
    ends = [await end_of(call) for call in staying]
    assert {end.response.timings.batch_rows for end in ends} == {23}
    assert (await server.count("C-leaving"), server.refusals("cancelled") - cancelled) == (0, 9)
    again = await server.score_all([request(f"leaving {i}", customer_id="C-leaving") for i in range(32)])
    assert not any(end.replayed for end in again)
    assert await server.count("C-leaving") == 32


async def test_a_client_that_vanishes_after_that_finds_its_decision_on_its_retry(models: Path) -> None:
    async with serve(models) as server:
        held = server.hold()
        call = server.start_score(request("decided"))
        await until(lambda: held.started == 1)
        call.cancel()
        held.let_go()
        assert (await server.score(request("decided"))).replayed
        assert await server.count("C-decided") == 1


async def test_streams_and_batches_whose_client_vanishes_leave_no_trace(server: Running) -> None:
    rows = [transaction(f"vanishing {i}", customer_id="C-vanishing") for i in range(10)]
    batch = server.start_score_batch(pb.ScoreBatchRequest(transactions=rows))
    stream = server.score_stream(pb.ScoreRequest(transaction=row).SerializeToString() for row in rows)
    await until(lambda: server.queued == 20)
    batch.cancel()
    stream.cancel()
    await server.abandoned(20)
    ends = await server.score_rows([transaction(f"staying behind {i}") for i in range(12)])
    assert {end.response.timings.batch_rows for end in ends} == {12}
    assert await server.count("C-vanishing") == 0


async def test_other_methods_and_services_are_unimplemented(server: Running) -> None:
    for method in (f"/{SERVICE}/Guess", "/fraudgate.v1.Nobody/Score", "/", "/fraudgate.v1.FeatureService/GetFeatures"):
        end = await end_of(unary(server.channel, method)(WHOLE))
        assert end.code is Code.UNIMPLEMENTED


# -- too many at once --------------------------------------------------------------------------------------------------


def kind_of(end: RawEnd) -> str:
    if end.status != str(Code.RESOURCE_EXHAUSTED.value[0]):
        return end.status
    status = status_pb2.Status.FromString(end.details)
    assert (status.code, len(status.details)) == (Code.RESOURCE_EXHAUSTED.value[0], 1)
    assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return "retry later"


async def flood(server: Child | Running, connections: int, calls: int) -> Counter[str]:
    """So many calls of distinct transactions on each of so many connections, all at once: how they ended."""
    opened = [await RawConnection.open(server.data_port) for _ in range(connections)]
    bodies = [[request(f"{n}-{i}").SerializeToString() for i in range(calls)] for n in range(connections)]
    if isinstance(server, Child):  # stopped while they are sent, it finds them all at once
        server.send(signal.SIGSTOP)
    calling = [asyncio.create_task(one.call_at_once(SCORE, each)) for one, each in zip(opened, bodies, strict=True)]
    await asyncio.sleep(0)
    if isinstance(server, Child):
        server.send(signal.SIGCONT)
    ends = [end for ended in await asyncio.gather(*calling) for end in ended]
    for one in opened:
        await one.close()
    return Counter(map(kind_of, ends))


async def test_more_than_the_queue_holds_are_refused_with_retry_info(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        held = server.hold()
        ahead = await server.fill_in_flight()
        flooding = asyncio.create_task(flood(server, 2, 1_500))
        await until(lambda: server.refusals("queue_full") == 3_000 - 1_024)
        held.let_go()
        assert await flooding == {"0": 1_024, "retry later": 3_000 - 1_024}
        assert {end.code for rows in await asyncio.gather(*ahead) for end in rows} == {Code.OK}


async def decisions(server: Child) -> int:
    """How many transactions the server has decided."""
    report = await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())
    return next(stage.count for stage in report.stages if stage.stage == "total")


async def flood_child(models: Path, directory: Path, connections: int, calls: int) -> None:
    """Flood a child twice with the same transactions, under the default budget and queue."""
    async with serve_child(directory, models, batching={"budget_ns": 50 * MILLISECOND_NS}) as server:
        before = server.resident_bytes
        ends = await flood(server, connections, calls)
        assert ends.total() == connections * calls
        assert ends.keys() <= {"0", "retry later"}
        assert ends["0"] > 0
        once, decided = server.resident_bytes, await decisions(server)
        again = await flood(server, connections, calls)
        assert again.total() == connections * calls
        assert again.keys() <= {"0", "retry later"}
        # What is kept of a decided transaction, and nothing of the refused and the repeated ones.
        assert once - before < 64 * MIB + 2_048 * decided
        assert server.resident_bytes - once < 64 * MIB + 2_048 * (await decisions(server) - decided)
        while (end := await server.score(request("after the flood"))).code is Code.RESOURCE_EXHAUSTED:
            await asyncio.sleep(end.retry_seconds)
        assert end.code is Code.OK


async def test_5_000_at_once_end_with_a_decision_or_retry_info(models: Path, tmp_path: Path) -> None:
    await flood_child(models, tmp_path, connections=2, calls=2_500)


@pytest.mark.slow
async def test_100_000_at_once_end_with_a_decision_or_retry_info(models: Path, tmp_path: Path) -> None:
    await flood_child(models, tmp_path, connections=25, calls=4_000)


async def test_the_server_still_answers(server: Running) -> None:
    """The last word of this module, to the server that took all of the above."""
    await answers_32(server, "at the end")
