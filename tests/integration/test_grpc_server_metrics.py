"""``grpc_server_*`` of a running server, by what its callers saw."""

import asyncio
import urllib.request
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import Running, request, serve, transaction


async def handled(server: Running) -> dict[tuple[str, str], float]:
    """By method, empty where it is not told, and code."""
    url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=5) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    samples = families["grpc_server_handled"].samples
    return {(s.labels.get("grpc_method", ""), s.labels["grpc_code"]): s.value for s in samples if s.value}


async def test_calls_and_codes_are_those_the_callers_saw(models: Path, frontend: str) -> None:
    async with serve(models) as server:
        for number in range(3):
            assert (await server.score(request(f"tx-{number}"))).code is grpc.StatusCode.OK
        assert (await server.score(request("tx-0", amount_minor=7))).code is grpc.StatusCode.ALREADY_EXISTS
        assert (await server.score(request("bad", amount_minor=-1))).code is grpc.StatusCode.INVALID_ARGUMENT
        rows = [transaction("row-1"), transaction("row-2", amount_minor=-1)]
        await server.score_batch(pb.ScoreBatchRequest(transactions=rows))
        counted = await handled(server)
    if frontend == "aio":
        assert counted == {
            ("Score", "OK"): 3,
            ("Score", "AlreadyExists"): 1,
            ("Score", "InvalidArgument"): 1,
            ("ScoreBatch", "OK"): 1,
        }
    else:
        assert counted == {("", "OK"): 4, ("", "AlreadyExists"): 1, ("", "InvalidArgument"): 2}
