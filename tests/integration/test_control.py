"""The control plane over the wire: outcomes, features, models and latency; health and reflection on both ports."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fraudgate.features.schema import FeatureSchema
from fraudgate.latency.recorder import STAGES
from fraudgate.v1 import features_pb2, latency_pb2, models_pb2, outcomes_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import (
    MINUTE_NS,
    MODEL,
    NOW_SECONDS,
    End,
    Running,
    end_of,
    end_of_error,
    publish_small_model,
    read_to_end,
    request,
    serve,
    stamp,
    transaction,
    unary,
)
from tests.unit.onnx_graphs import int8_graph, publish_graph

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("frontend")]
Code = grpc.StatusCode

DAY = 86_400
LATER = NOW_SECONDS + 8 * DAY
"""A time at which every window lies within what a server that started at NOW has seen."""

SCHEMA = """\
name = "profiled"
currency = "EUR"

[[feature]]
name = "TX_AMOUNT"
kind = "amount"

[[feature]]
name = "CUSTOMER_AGE"
kind = "profile"
entity = "customer_id"
default = 35.0

[[feature]]
name = "CUSTOMER_LIMIT"
kind = "profile"
entity = "customer_id"
default = 1000.0

[[feature]]
name = "CUSTOMER_COUNT"
kind = "window"
entity = "customer_id"
aggregate = "count"
width = "7d"

[[feature]]
name = "TERMINAL_COUNT"
kind = "window"
entity = "terminal_id"
aggregate = "count"
width = "7d"

[[feature]]
name = "TERMINAL_FRAUD"
kind = "window"
entity = "terminal_id"
aggregate = "fraud_share"
width = "7d"
"""


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory, frontend: str) -> dict[str, dict[str, Any]]:
    """A schema with profiles, a model for it, rules that need no feature, and event times of a month ahead."""
    directory = tmp_path_factory.mktemp("profiled")
    schema, rules = directory / "profiled.toml", directory / "rules.yaml"
    schema.write_text(SCHEMA, "utf-8")
    rules.write_text(
        '- {id: limit, action: block, when: "features.CUSTOMER_AGE > 100.0", code: AGE, text: Too old.}\n', "utf-8"
    )
    publish_small_model(directory / "models", FeatureSchema.load(schema))
    return {
        "features": {"schema": str(schema)},
        "model": {"repository": str(directory / "models")},
        "rules": {"file": str(rules)},
        "event_time": {"future_max_seconds": 30 * DAY},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, sections: dict[str, dict[str, Any]], frontend: str) -> AsyncIterator[Running]:
    async with serve(models, **sections) as running:
        yield running


async def end_of_control(call: Any) -> End:
    """What a control call that must fail ended with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return end_of_error(raised.value)


async def features_of(server: Running, entity: str, name: str, **fields: Any) -> features_pb2.GetFeaturesResponse:
    wanted = features_pb2.GetFeaturesRequest(entity=entity, id=name, **fields)
    answer: features_pb2.GetFeaturesResponse = await server.features.GetFeatures(wanted)
    return answer


# -- outcomes ----------------------------------------------------------------------------------------------------------


def outcome(name: str, is_fraud: bool = True, **fields: Any) -> outcomes_pb2.ReportOutcomeRequest:
    return outcomes_pb2.ReportOutcomeRequest(transaction_id=name, is_fraud=is_fraud, **fields)


async def report(server: Running, name: str, is_fraud: bool = True, **fields: Any) -> bool:
    """Whether the outcome changed a window."""
    return bool((await server.outcomes.ReportOutcome(outcome(name, is_fraud, **fields))).applied)


async def fraud_share(server: Running, terminal: str) -> float:
    return (await features_of(server, "terminal_id", terminal)).values["TERMINAL_FRAUD"]


async def test_an_outcome_counts_once_and_can_be_taken_back(server: Running) -> None:
    for i in range(4):
        await server.score(request(f"outcome {i}", terminal_id="T-outcome"))
    assert await fraud_share(server, "T-outcome") == 0
    assert await report(server, "outcome 0", reported_at=stamp())
    assert await fraud_share(server, "T-outcome") == 0.25
    assert not await report(server, "outcome 0")  # a repeat
    assert await report(server, "outcome 1")
    assert await fraud_share(server, "T-outcome") == 0.5
    assert not await report(server, "outcome 2", is_fraud=False)  # cleared, and never a fraud
    assert await report(server, "outcome 0", is_fraud=False)
    assert not await report(server, "outcome 0", is_fraud=False)
    assert await fraud_share(server, "T-outcome") == 0.25
    assert await report(server, "outcome 0")
    assert await fraud_share(server, "T-outcome") == 0.5


async def test_an_outcome_with_time_and_ids_needs_no_look_up(server: Running) -> None:
    await server.score(request("placed", terminal_id="T-placed"))
    assert not await report(server, "of before", event_time=stamp(), terminal_id="T-never seen")
    assert not await report(server, "of before", event_time=stamp(NOW_SECONDS - 5), terminal_id="T-placed")
    assert await report(server, "of before", event_time=stamp(), terminal_id="T-placed")
    assert await fraud_share(server, "T-placed") == 1


async def test_an_outcome_moves_the_next_decision_of_its_terminal(server: Running) -> None:
    first = (await server.score(request("clean", terminal_id="T-moved"))).response
    await report(server, "clean")
    second = (await server.score(request("tainted", terminal_id="T-moved"))).response
    assert await fraud_share(server, "T-moved") == 0.5
    assert second.score != first.score


async def test_a_decision_about_which_the_index_does_not_know_is_not_found(server: Running) -> None:
    for fields in ({}, {"event_time": stamp()}, {"terminal_id": "T-1"}, {"event_time": stamp(), "card_id": "c"}):
        end = await end_of_control(server.outcomes.ReportOutcome(outcome("unheard of", **fields)))
        assert end.code is Code.NOT_FOUND
        assert end.message.endswith("send its event_time and terminal_id with the outcome")
    await server.score(request("refused", amount_minor=-1))
    assert (await end_of_control(server.outcomes.ReportOutcome(outcome("refused")))).code is Code.NOT_FOUND


BAD_OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"name": ""}, "transaction_id"),
    "65-byte id": ({"name": "x" * 65}, "transaction_id"),
    "control character": ({"name": "a\0b"}, "transaction_id"),
    **{
        f"bad {entity}": ({"name": "o", entity: "\x7f"}, entity)
        for entity in ("customer_id", "terminal_id", "card_id", "merchant_id", "device_id")
    },
    "event_time in 1900": ({"name": "o", "event_time": stamp(-2_208_988_800)}, "event_time"),
    "event_time in 9999": ({"name": "o", "event_time": stamp(253_402_300_799)}, "event_time"),
    "negative nanos": ({"name": "o", "event_time": stamp(NOW_SECONDS, -1)}, "event_time"),
    "reported in 1900": ({"name": "o", "reported_at": stamp(-2_208_988_800)}, "reported_at"),
}


@pytest.mark.parametrize("name", BAD_OUTCOMES)
async def test_a_bad_outcome_is_invalid_argument_with_its_path(server: Running, name: str) -> None:
    fields, path = BAD_OUTCOMES[name]
    end = await end_of_control(server.outcomes.ReportOutcome(outcome(**fields)))
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, path)


async def test_a_stream_of_outcomes_is_answered_one_by_one(server: Running) -> None:
    await server.score_rows([transaction(f"streamed {i}", terminal_id="T-streamed") for i in range(3)])
    call = server.outcomes.ReportOutcomes(
        [
            outcome("streamed 0"),
            outcome("unheard of"),
            outcome(""),
            outcome("streamed 0"),
            outcome("streamed 1"),
            outcome("streamed 0", is_fraud=False),
        ]
    )
    results = [(each.transaction_id, each.applied, each.code) async for each in call]
    assert results == [
        ("streamed 0", True, 0),
        ("unheard of", False, Code.NOT_FOUND.value[0]),
        ("", False, Code.INVALID_ARGUMENT.value[0]),
        ("streamed 0", False, 0),
        ("streamed 1", True, 0),
        ("streamed 0", True, 0),
    ]
    assert await fraud_share(server, "T-streamed") == pytest.approx(1 / 3)


# -- features ----------------------------------------------------------------------------------------------------------


def put(name: str, entity: str = "customer_id", **values: float) -> features_pb2.PutFeaturesRequest:
    return features_pb2.PutFeaturesRequest(entity=entity, id=name, values=values)


async def test_profiles_are_stored_and_read(server: Running) -> None:
    unknown = await features_of(server, "customer_id", "C-profile")
    assert dict(unknown.values) == {"CUSTOMER_AGE": 35, "CUSTOMER_LIMIT": 1000, "CUSTOMER_COUNT": 0}
    assert sorted(unknown.defaulted) == ["CUSTOMER_AGE", "CUSTOMER_LIMIT"]
    assert (unknown.HasField("latest_event_time"), unknown.buckets) == (False, 0)
    stored = await server.features.PutFeatures(
        [
            put("C-profile", CUSTOMER_AGE=50),
            put("C-other", CUSTOMER_AGE=1, CUSTOMER_LIMIT=2),
            put("C-profile", CUSTOMER_AGE=51),
        ]
    )
    assert (stored.entities, stored.values) == (3, 4)
    known = await features_of(server, "customer_id", "C-profile")
    assert dict(known.values) == {"CUSTOMER_AGE": 51, "CUSTOMER_LIMIT": 1000, "CUSTOMER_COUNT": 0}
    assert list(known.defaulted) == ["CUSTOMER_LIMIT"]


async def test_a_decision_says_which_profiles_it_lacks_and_reads_the_others(server: Running) -> None:
    async def decide(name: str, **fields: Any) -> pb.ScoreResponse:
        later = stamp(LATER)
        return (await server.score(request(name, event_time=later, customer_id="C-read", **fields))).response

    assert (await decide("none")).fallback == pb.FALLBACK_DEFAULTED_FEATURES
    await server.features.PutFeatures([put("C-read", CUSTOMER_AGE=40, CUSTOMER_LIMIT=1)])
    whole = await decide("both")
    assert (whole.fallback, list(whole.rules_fired)) == (pb.FALLBACK_NONE, [])
    assert (await decide("no terminal", terminal_id=None)).fallback == pb.FALLBACK_DEFAULTED_FEATURES
    assert (await decide("in dollars", currency="USD")).fallback == pb.FALLBACK_DEFAULTED_FEATURES
    await server.features.PutFeatures([put("C-read", CUSTOMER_AGE=101)])
    old = await decide("too old")
    assert (old.decision, list(old.rules_fired), old.reasons[0].code) == (pb.DECLINE, ["limit"], "AGE")


async def test_windows_are_read_at_an_instant(server: Running) -> None:
    for day in range(3):
        await server.score(request(f"day {day}", customer_id="C-read at", event_time=stamp(NOW_SECONDS + day * DAY, 7)))
    latest = await features_of(server, "customer_id", "C-read at")
    assert (latest.values["CUSTOMER_COUNT"], latest.buckets) == (3, 3)
    assert latest.latest_event_time == stamp(NOW_SECONDS + 2 * DAY)
    for seconds, count in ((-1, 0), (0, 1), (DAY, 2), (7 * DAY - 1, 3), (7 * DAY, 2), (9 * DAY, 0)):
        view = await features_of(server, "customer_id", "C-read at", at=stamp(NOW_SECONDS + seconds))
        assert view.values["CUSTOMER_COUNT"] == count


async def test_reading_changes_nothing(server: Running) -> None:
    await features_of(server, "customer_id", "C-only read", at=stamp())
    assert (await features_of(server, "customer_id", "C-only read")).buckets == 0
    assert dict((await features_of(server, "device_id", "D-1")).values) == {}


BAD_PUTS = {
    "unknown kind": (put("c", entity="shop_id", CUSTOMER_AGE=1), "entity"),
    "no kind": (put("c", entity="", CUSTOMER_AGE=1), "entity"),
    "no id": (put("", CUSTOMER_AGE=1), "id"),
    "65-byte id": (put("x" * 65, CUSTOMER_AGE=1), "id"),
    "control character": (put("a\nb", CUSTOMER_AGE=1), "id"),
    "kind without profiles": (put("t", entity="terminal_id", CUSTOMER_AGE=1), "values"),
    "a window": (put("c", CUSTOMER_COUNT=1), "values"),
    "unknown feature": (put("c", CUSTOMER_AGES=1), "values"),
    "NaN": (put("c", CUSTOMER_AGE=float("nan")), "values['CUSTOMER_AGE']"),
    "infinity": (put("c", CUSTOMER_AGE=float("inf")), "values['CUSTOMER_AGE']"),
}


@pytest.mark.parametrize("name", BAD_PUTS)
async def test_a_bad_profile_ends_the_stream_and_what_came_before_it_stays(server: Running, name: str) -> None:
    bad, path = BAD_PUTS[name]
    before, after = put(f"C-before {name}", CUSTOMER_AGE=1), put(f"C-after {name}", CUSTOMER_AGE=1)
    end = await end_of_control(server.features.PutFeatures([before, bad, after]))
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, path)
    ages = [(await features_of(server, "customer_id", each.id)).values["CUSTOMER_AGE"] for each in (before, after)]
    assert ages == [1, 35]


BAD_GETS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown kind": ({"entity": "shop_id", "id": "c"}, "entity"),
    "no id": ({"entity": "customer_id"}, "id"),
    "65-byte id": ({"entity": "customer_id", "id": "x" * 65}, "id"),
    "in 1900": ({"entity": "customer_id", "id": "c", "at": stamp(-2_208_988_800)}, "at"),
    "in 9999": ({"entity": "customer_id", "id": "c", "at": stamp(253_402_300_799)}, "at"),
    "a second of nanos": ({"entity": "customer_id", "id": "c", "at": stamp(NOW_SECONDS, 10**9)}, "at"),
}


@pytest.mark.parametrize("name", BAD_GETS)
async def test_a_bad_question_is_invalid_argument_with_its_path(server: Running, name: str) -> None:
    fields, path = BAD_GETS[name]
    end = await end_of_control(server.features.GetFeatures(features_pb2.GetFeaturesRequest(**fields)))
    assert (end.code, end.path) == (Code.INVALID_ARGUMENT, path)


# -- latency -----------------------------------------------------------------------------------------------------------


async def test_the_latency_report_holds_every_decision_since_the_reset(
    models: Path, sections: dict[str, dict[str, Any]]
) -> None:
    async with serve(models, **sections) as server:
        await server.latency.ResetLatency(latency_pb2.ResetLatencyRequest())
        await server.score_rows([transaction(f"timed {i}", amount_minor=-1 if i == 9 else 1) for i in range(50)])
        await server.score(request("timed 0", amount_minor=1))  # a replay is no decision
        report = await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())
        assert [stage.stage for stage in report.stages] == list(STAGES)
        stages = {stage.stage: stage for stage in report.stages}
        for name in ("queue", "features", "inference", "guardrails", "total"):
            assert (stages[name].count, stages[name].over_range) == (49, 0)
            assert 0 <= stages[name].p50_ns <= stages[name].p99_ns <= stages[name].max_ns
        assert stages["respond"].count == stages["whole"].count == 49
        assert (report.budget_ns, report.over_budget) == (MINUTE_NS, 0)
        assert report.interval_ns > 0
        ended = await server.latency.ResetLatency(latency_pb2.ResetLatencyRequest())
        assert {stage.stage: stage.count for stage in ended.stages}["total"] == 49
        report = await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())
        assert {stage.stage: stage.count for stage in report.stages}["total"] == 0
        assert report.interval_ns < ended.interval_ns


# -- models ------------------------------------------------------------------------------------------------------------


async def test_every_version_is_listed_with_what_is_live_and_what_is_wrong(
    models: Path, sections: dict[str, dict[str, Any]]
) -> None:
    async with serve(models, **sections) as server:
        root, info = Path(server.service.parts.config.model.repository), server.service.parts.engine.info
        publish_graph(root, int8_graph(1), name=MODEL, version="2")  # after the start, and for another schema
        damaged = publish_graph(root, int8_graph(2), name="another")
        (damaged / "model.onnx").write_bytes(b"damaged")
        listed = (await server.models.ListModels(models_pb2.ListModelsRequest())).models
    assert [(each.name, each.version, each.live) for each in listed] == [
        ("another", "1", False),
        (MODEL, "1", True),
        (MODEL, "2", False),
    ]
    another, live, second = listed
    assert "model.onnx has SHA-256" in another.problem
    assert (live.problem, second.problem) == ("", "")
    assert (live.engine_digest, live.precision) == (info.engine_digest, "int8")
    assert live.schema_fingerprint == info.schema_fingerprint != second.schema_fingerprint
    assert live.published_at_seconds == 1_767_225_600  # 1 January 2026


# -- both ports --------------------------------------------------------------------------------------------------------

DATA_SERVICES = {"fraudgate.v1.ScoringService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
CONTROL_SERVICES = {
    "fraudgate.v1.FeatureService",
    "fraudgate.v1.LatencyService",
    "fraudgate.v1.ModelService",
    "fraudgate.v1.OutcomeService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
}


async def reflect(channel: grpc.aio.Channel, **question: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo([reflection_pb2.ServerReflectionRequest(**question)])
    (answer,) = [each async for each in call]
    return answer


async def test_reflection_lists_and_describes_the_services_of_each_port(server: Running) -> None:
    for channel, services in ((server.channel, DATA_SERVICES), (server.control, CONTROL_SERVICES)):
        listed = {each.name for each in (await reflect(channel, list_services="")).list_services_response.service}
        assert services - {"grpc.health.v1.Health"} <= listed <= services
        for name in listed:
            described = await reflect(channel, file_containing_symbol=name)
            assert described.file_descriptor_response.file_descriptor_proto, name


async def test_health_is_served_on_both_ports(server: Running) -> None:
    for channel in (server.channel, server.control):
        stub = HealthStub(channel)
        for service in ("", "fraudgate.v1.ScoringService"):
            answer = await stub.Check(HealthCheckRequest(service=service))
            assert answer.status == HealthCheckResponse.SERVING
        end = await end_of_control(stub.Check(HealthCheckRequest(service="fraudgate.v1.Nobody")))
        assert end.code is Code.NOT_FOUND


UNARY = (
    "FeatureService/GetFeatures",
    "LatencyService/GetLatencyReport",
    "LatencyService/ResetLatency",
    "ModelService/ListModels",
    "OutcomeService/ReportOutcome",
)
STREAMS = ("FeatureService/PutFeatures", "OutcomeService/ReportOutcomes")
NONSENSE = b"\x0a\xff\xff\xff"


@pytest.mark.parametrize("method", [*UNARY, *STREAMS])
async def test_bytes_that_do_not_decode_are_invalid_argument_here_too(server: Running, method: str) -> None:
    path = f"/fraudgate.v1.{method}"
    if method in UNARY:
        end = await end_of(unary(server.control, path)(NONSENSE))
    else:
        stream: Any = server.control.stream_stream(path)
        _, end = await read_to_end(stream([NONSENSE]))
    assert end.code is Code.INVALID_ARGUMENT
