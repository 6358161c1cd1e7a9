"""``grpc_server_*`` of a running server, by what its callers saw."""

import asyncio
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.frontend.aio import SERVICE
from fraudgate.ops.metrics import TEXT_NS
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import PATIENCE_SECONDS, Running, request, serve, transaction, unary

Counted = dict[tuple[str, ...], float]


async def counted(server: Running) -> tuple[Counted, Counted]:
    """Calls started by (service, method), and handled by (service, method, code)."""
    url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=5) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    labels = ("grpc_service", "grpc_method", "grpc_code")
    started, handled = (
        {
            tuple(sample.labels[label] for label in labels if label in sample.labels): sample.value
            for sample in families[f"grpc_server_{name}"].samples
            if sample.value and sample.name.endswith("_total")
        }
        for name in ("started", "handled")
    )
    return started, handled


async def settled(server: Running, handled: Counted) -> Counted:
    """What has started, once these calls of ScoringService have been counted as handled."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            started, found = await counted(server)
            if {key: count for key, count in found.items() if key[0] == SERVICE} == handled:
                return started
            await asyncio.sleep(TEXT_NS / 1e9)


async def test_calls_and_codes_are_those_the_callers_saw(models: Path, frontend: str) -> None:
    async with serve(models) as server:
        for number in range(3):
            assert (await server.score(request(f"tx-{number}"))).code is grpc.StatusCode.OK
        assert (await server.score(request("tx-0"))).replayed
        assert (await server.score(request("tx-0", amount_minor=7))).code is grpc.StatusCode.ALREADY_EXISTS
        assert (await server.score(request("bad", amount_minor=-1))).code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await server.score(b"no message")).code is grpc.StatusCode.INVALID_ARGUMENT
        rows = [transaction("row-1"), transaction("row-2", amount_minor=-1)]
        await server.score_batch(pb.ScoreBatchRequest(transactions=rows))
        assert (await server.score_batch(b"")).code is grpc.StatusCode.INVALID_ARGUMENT
        await server.stream_all([request("row-3"), request("row-4")])
        _, end = await server.stream_all([request("row-5"), b"no message"])
        assert end.code is grpc.StatusCode.INVALID_ARGUMENT
        left = server.score_stream()
        await left.write(request("row-6").SerializeToString())
        await left.read()
        left.cancel()
        expected = {
            (SERVICE, "Score", "OK"): 4,
            (SERVICE, "Score", "AlreadyExists"): 1,
            (SERVICE, "Score", "InvalidArgument"): 2,
            (SERVICE, "ScoreBatch", "OK"): 1,
            (SERVICE, "ScoreBatch", "InvalidArgument"): 1,
            (SERVICE, "ScoreStream", "OK"): 1,
            (SERVICE, "ScoreStream", "InvalidArgument"): 1,
            (SERVICE, "ScoreStream", "Canceled"): 1,
        }
        started = await settled(server, expected)
    ended: Counter[tuple[str, ...]] = Counter()
    for (service, method, _), count in expected.items():
        ended[service, method] += count
    assert {key: count for key, count in started.items() if key[0] == SERVICE} == ended


async def test_the_native_front_end_counts_whatever_its_port_was_asked(models: Path, frontend: str) -> None:
    if frontend != "native":
        pytest.skip("grpc.aio counts its own three methods")
    async with serve(models) as server:
        await HealthStub(server.channel).Check(HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await HealthStub(server.channel).Check(HealthCheckRequest(service="nobody"))
        for path in ("/nobody.Knows/This", f"/{SERVICE}/Unscore", "/grpc.health.v1.Health/List"):
            with pytest.raises(grpc.aio.AioRpcError):
                await unary(server.channel, path)(b"")
        await asyncio.sleep(TEXT_NS / 1e9)
        started, handled = await counted(server)
    health = "grpc.health.v1.Health"
    assert handled == {
        (health, "Check", "OK"): 1,
        (health, "Check", "NotFound"): 1,
        ("unknown", "unknown", "Unimplemented"): 3,
    }
    assert started == {(health, "Check"): 2, ("unknown", "unknown"): 3}
