"""Traces of a running server, as a collector gets them."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from fraudgate.errors import ConfigError
from fraudgate.ops import tracing
from fraudgate.v1 import scoring_pb2 as pb
from tests.collector import Collector, attributes
from tests.integration.server import request, serve, transaction

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra [otel] is not installed")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
NEVER_NS = 10**12


def sections(collector: Collector, **settings: Any) -> dict[str, dict[str, Any]]:
    return {"tracing": {"endpoint": collector.url, "slow_ns_min": NEVER_NS, **settings}}


async def test_a_sampled_transaction_has_a_span_with_its_stages_below(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, sampled_share=1.0)) as server:
            end = await server.score(request("tx-1"))
        (span,) = collector.named("score")
        timings = end.response.timings
        stages = collector.below(span)
        took = [each.end_time_unix_nano - each.start_time_unix_nano for each in stages]
        assert [each.name for each in stages] == ["queue", "features", "inference", "guardrails"]
        assert took == [timings.queue_ns, timings.features_ns, timings.inference_ns, timings.guardrails_ns]
        assert span.end_time_unix_nano - span.start_time_unix_nano == timings.total_ns
        assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 60
        assert (span.kind, span.parent_span_id) == (span.SPAN_KIND_SERVER, b"")
        assert attributes(span) == {
            "rpc.system": "grpc",
            "rpc.service": "fraudgate.v1.ScoringService",
            "rpc.grpc.status_code": 0,
            "fraudgate.decision": pb.Decision.Name(end.response.decision).lower(),
            "fraudgate.fallback": pb.Fallback.Name(end.response.fallback).removeprefix("FALLBACK_").lower(),
            "fraudgate.model": f"{end.response.model.name}/{end.response.model.version}",
            "fraudgate.precision": end.response.model.precision,
            "fraudgate.ruleset": end.response.ruleset_version,
            "fraudgate.batch_rows": 1,
            "fraudgate.slow": False,
        }
        (batch,) = collector.named("batch")
        assert [link.span_id for link in span.links] == [batch.span_id]
        assert batch.trace_id != span.trace_id
        assert collector.resources[0]["service.name"] == "fraudgate"


async def test_rows_of_one_batch_link_to_one_span(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, sampled_share=1.0)) as server:
            await server.score_rows([transaction(f"tx-{n}") for n in range(32)])
        spans = collector.named("score")
        assert len(spans) == 32
        assert len({span.links[0].span_id for span in spans}) == len(collector.named("batch"))
        assert sum(attributes(batch)["fraudgate.batch_rows"] for batch in collector.named("batch")) == 32


async def test_nothing_of_the_caller_is_in_a_span(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, sampled_share=1.0)) as server:
            good = request("Zsecret-1", customer_id="Zsecret-c", amount_minor=987_650_000)
            assert (await server.score(good)).code is grpc.StatusCode.OK
            await server.score(request("Zsecret-1", customer_id="Zsecret-c", amount_minor=1))
            await server.score(request("Zsecret-2", currency="XQZ"))
        text = b"".join(span.SerializeToString() for span in collector.spans) + str(collector.spans).encode()
        assert len(collector.named("score")) == 3
        for secret in (b"Zsecret", b"98765", b"XQZ"):
            assert secret not in text


async def test_every_slow_transaction_is_traced_also_of_a_caller_who_does_not_sample(
    models: Path, frontend: str
) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, slow_ns_min=1)) as server:
            await asyncio.gather(*(server.score(request(f"tx-{n}"), metadata=UNSAMPLED) for n in range(5)))
        spans = collector.named("score")
        assert len(spans) == 5
        assert all(attributes(span)["fraudgate.slow"] for span in spans)
        traces = {span.trace_id.hex() for span in spans}
        assert traces == {TRACE}


async def test_without_a_share_and_quick_there_are_none(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector)) as server:
            await server.score(request("tx-1"))
            await server.score(request("tx-2"), metadata=UNSAMPLED)
        assert collector.spans == []


async def test_a_refused_row_ends_with_an_error_and_a_replayed_one_has_no_span(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, sampled_share=1.0)) as server:
            await server.score(request("tx-1"))
            assert (await server.score(request("tx-1"))).replayed
            assert (await server.score(request("tx-2", amount_minor=-1))).code is grpc.StatusCode.INVALID_ARGUMENT
        good, bad = sorted(collector.named("score"), key=lambda span: int(span.status.code))
        assert good.status.code == good.status.STATUS_CODE_UNSET
        assert (bad.status.code, bad.status.message) == (bad.status.STATUS_CODE_ERROR, "InvalidArgument")
        assert attributes(bad)["rpc.grpc.status_code"] == 3
        assert [stage.name for stage in collector.below(bad)] == ["queue"]
        assert not bad.links


async def test_it_continues_the_callers_trace(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector)) as server:
            await server.score(request("tx-1"), metadata=SAMPLED)
            await server.score(request("tx-2"), metadata=(("traceparent", "00-nonsense"),))
            await server.score(request("tx-2a"), metadata=SAMPLED + UNSAMPLED)
            body = pb.ScoreBatchRequest(transactions=[transaction("tx-3"), transaction("tx-4")])
            await server.score_batch(body, metadata=SAMPLED)
            call = server.score_stream(iter([request("tx-5").SerializeToString()]), metadata=SAMPLED)
            assert [result async for result in call]
        spans = collector.named("score")
        assert len(spans) == 4
        assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in spans} == {(TRACE, SPAN)}
        assert {stage.trace_id.hex() for stage in collector.named("inference")} == {TRACE}


async def test_a_collector_that_is_gone_costs_traces_and_nothing_else(
    models: Path, frontend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "QUEUE_BATCHES_MAX", 1)
    with Collector() as collector:
        settings = sections(collector, sampled_share=1.0)
    async with serve(models, **settings) as server:
        for number in range(40):
            assert (await server.score(request(f"tx-{number}"))).code is grpc.StatusCode.OK
        tracer: Any = server.service._tracer
        tracer._spans.of = lambda traced: time.sleep(0.2) or []
        for number in range(40, 80):
            assert (await server.score(request(f"tx-{number}"))).code is grpc.StatusCode.OK
        assert server.total(tracing.DROPPED) > 0


async def test_it_is_off_without_an_endpoint(models: Path, frontend: str) -> None:
    async with serve(models) as server:
        assert server.service.door.tracer is None
        assert not any("tracing" in line for line in server.lines)


async def test_it_says_what_it_traces(models: Path, frontend: str) -> None:
    with Collector() as collector:
        async with serve(models, **sections(collector, sampled_share=0.25)) as server:
            (line,) = (line for line in server.lines if line.startswith("tracing to "))
    assert "a share of 0.25, those of sampled callers (traceparent)" in line


async def test_without_the_extra_the_server_says_what_to_install(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'fraudgate\[otel\]'"):
        async with serve(models, tracing={"endpoint": "http://127.0.0.1:9"}):
            pass
