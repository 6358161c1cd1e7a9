"""The degradation ladder over a real server: a store, two engines and a rule set that a test takes away."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from fraudgate.audit.replay import replay_composition
from fraudgate.commands import report
from fraudgate.engines.base import Inference
from fraudgate.errors import EngineFailed
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.guardrails.rules import RuleSet
from fraudgate.limits import SECOND_NS
from fraudgate.ops.metrics import TEXT_NS
from fraudgate.transaction import Float32
from fraudgate.v1 import latency_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import JumpingClock, Running, publish_small_model, request, serve
from tests.unit.onnx_graphs import int8_graph, publish_graph

pytestmark = pytest.mark.usefixtures("frontend")

LARGE = "large"
WAIT_SECONDS = 600
LADDER = {"failures_max": 2, "good_runs": 2, "wait_seconds_min": WAIT_SECONDS, "wait_seconds_max": 2 * WAIT_SECONDS}
"""Only a clock that jumps ends a wait. Runs may take long: the machine that tests is busy."""
PATIENT = {"store_ns_max": 10**9, "engine_ns_max": 10**9}
FULL, DEFAULTED, SMALL, RULES_ONLY, STATIC = (
    1,
    *(getattr(pb, f"FALLBACK_{name}") for name in ("DEFAULTED_FEATURES", "SMALL_MODEL", "RULES_ONLY", "STATIC_POLICY")),
)


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, and another that is called large."""
    root, schema = publish_small_model(tmp_path_factory.mktemp("tiered")), FeatureSchema.named("handbook")
    graph = int8_graph(features=len(schema.names), seed=3)
    publish_graph(root, graph, name=LARGE, schema_fingerprint=schema.fingerprint)
    return root


class Faulty:
    """A dependency's call, which fails while it is away."""

    def __init__(self, call: Callable[..., Any], failure: Exception) -> None:
        self._call, self._failure = call, failure
        self.away = False
        self.asked = 0

    def __call__(self, *given: Any) -> Any:
        self.asked += 1
        if self.away:
            raise self._failure
        return self._call(*given)


class FaultyInference:
    """An ``Inference`` whose call is faulty."""

    def __init__(self, inner: Inference) -> None:
        self.call = Faulty(inner.infer, EngineFailed("the device is gone"))

    async def infer(self, slot: int) -> Float32:
        score: Float32 = await self.call(slot)
        return score


class Stairs:
    """A server whose dependencies can be taken away, and its one caller."""

    def __init__(self, server: Running, clock: JumpingClock, patch: pytest.MonkeyPatch) -> None:
        self.server, self._clock = server, clock
        parts = server.service.parts
        parts.store.set_coverage_start(0)
        self.store = Faulty(parts.store.apply_and_gather, OSError("the store is away"))
        patch.setattr(EmbeddedStore, "apply_and_gather", lambda store, *given: self.store(*given))
        engine = FaultyInference(parts.fleet.live.member.inference)
        server.use(engine)
        self.engine = engine.call
        self.rules = Faulty(parts.rules.fire, ZeroDivisionError("a mistake in a rule"))
        patch.setattr(RuleSet, "fire", self.rules)
        if parts.fleet.large is not None:
            tier = parts.fleet.large.tier
            large = FaultyInference(tier.member.inference)
            tier.member, self.large = replace(tier.member, inference=large), large.call
        self.sent = 0

    async def send(self, **fields: Any) -> pb.ScoreResponse:
        """The decision on a transaction that has not been sent before."""
        self.sent += 1
        return (await self.server.score(request(f"tx-{self.sent}", **fields))).response

    async def answers(self, times: int) -> set[int]:
        """What so many answers say of themselves."""
        return {(await self.send()).fallback for _ in range(times)}

    async def counted(self, number: int) -> int:
        return await self.server.count(f"C-tx-{number}")

    def wait(self) -> None:
        """Until the longest wait is over."""
        self._clock.ahead_ns += 2 * WAIT_SECONDS * SECOND_NS

    async def rung(self) -> str:
        return str((await self.server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())).ladder.rung)

    async def gauges(self) -> list[int]:
        """``fraudgate_rung``: of the store, the large engine, the engine and the rules."""
        await asyncio.sleep(TEXT_NS / SECOND_NS)  # the last text may be so old
        port = self.server.service._ops.port
        body = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        lines = [line.split() for line in body.splitlines() if line.startswith("fraudgate_rung{")]
        return [int(float(value)) for _, value in lines]


@asynccontextmanager
async def stairs_of(models: Path, clock: JumpingClock, **sections: Any) -> AsyncIterator[Stairs]:
    with pytest.MonkeyPatch.context() as patch:
        async with serve(models, ladder={**LADDER, **PATIENT}, batching={"budget_ns": 10**15}, **sections) as server:
            stairs = Stairs(server, clock, patch)
            assert await stairs.answers(1) == {FULL}
            yield stairs
            patch.undo()


async def test_each_rung_down_and_up_again(tiered: Path, clock: JumpingClock) -> None:
    async with stairs_of(tiered, clock, tier={"name": LARGE, "low": 0.0, "high": 1.0, "wait_ns_max": 2**40}) as stairs:
        assert (await stairs.send()).model.name == LARGE
        assert (await stairs.rung(), await stairs.gauges()) == ("full", [0, 0, 0, 0])
        down = [(stairs.store, DEFAULTED), (stairs.large, SMALL), (stairs.engine, RULES_ONLY), (stairs.rules, STATIC)]
        names = ["full", "defaulted_features", "small_model", "rules_only", "static_policy"]
        for steps, (dependency, fallback) in enumerate(down, 1):
            dependency.away, asked = True, dependency.asked
            assert await stairs.answers(5) == {fallback}
            assert dependency.asked == asked + 2, "then its breaker is open"
            assert await stairs.rung() == names[steps]
            assert await stairs.gauges() == [2] * steps + [0] * (4 - steps)
        for steps, (dependency, _) in reversed(list(enumerate(down))):
            dependency.away = False
            stairs.wait()
            fallback = down[steps - 1][1] if steps else FULL
            assert await stairs.answers(3) == {fallback}
            assert await stairs.rung() == names[steps]
            assert (await stairs.gauges())[steps:] == [0] * (4 - steps)
        assert (await stairs.send()).model.name == LARGE
        said = [line for line in stairs.server.lines if line.startswith("ladder: ")]
        assert {line.split(":")[1].split()[0] for line in said} == {"store", "large", "engine", "rules"}


async def test_without_the_store_a_decision_is_made_and_kept_and_nothing_is_applied(
    models: Path, clock: JumpingClock
) -> None:
    async with stairs_of(models, clock) as stairs:
        stairs.store.away = True
        first = await stairs.send()
        assert (first.fallback, first.HasField("score")) == (DEFAULTED, True)
        assert (await stairs.send(amount_minor=22_001)).decision == pb.DECLINE, "rules decide as ever"
        stairs.store.away = False
        assert await stairs.answers(1) == {DEFAULTED}, "the breaker is open"
        again = await stairs.server.score(request("tx-2"))
        assert (again.replayed, again.response) == (True, first)
        stairs.wait()
        assert await stairs.answers(3) == {FULL}
        assert [await stairs.counted(number) for number in range(1, 8)] == [1, 0, 0, 0, 1, 1, 1]
        assert stairs.server.total("fraudgate_unapplied_total") == 3


async def test_without_the_rules_the_configured_policy_decides(models: Path, clock: JumpingClock) -> None:
    policy = {"policy": "approve_up_to", "approve_up_to_minor": 1_000}
    async with stairs_of(models, clock, fallback=policy) as stairs:
        stairs.rules.away = stairs.engine.away = True
        small, large = await stairs.send(amount_minor=1_000), await stairs.send(amount_minor=1_001)
        assert (small.decision, large.decision) == (pb.APPROVE, pb.REVIEW)
        third = await stairs.send(amount_minor=1_000_000)
        assert (third.decision, third.fallback, third.HasField("score")) == (pb.REVIEW, STATIC, False)
        assert [reason.code for reason in third.reasons] == ["STATIC_POLICY"]
        assert await stairs.counted(4) == 1


async def test_a_dependency_that_comes_and_goes_does_not_make_the_rung_flap(models: Path, clock: JumpingClock) -> None:
    async with stairs_of(models, clock) as stairs:
        engine = stairs.server.service.parts.ladder.engine
        for number in range(60):
            stairs.engine.away = number % 4 != 3
            await stairs.send()
        assert (engine.changes, engine.bad_runs) == (1, 2)


async def test_the_report_tells_the_rung(models: Path, clock: JumpingClock, capsys: pytest.CaptureFixture[str]) -> None:
    async with stairs_of(models, clock) as stairs:
        stairs.store.away = True
        await stairs.answers(3)
        target = f"127.0.0.1:{stairs.server.service.control_port}"
        parser = argparse.ArgumentParser()
        report.add_arguments(parser)
        for form in ([], ["--json"]):
            assert await asyncio.to_thread(report.run, parser.parse_args(["--target", target, *form])) == 0
    out = capsys.readouterr().out
    table, found = out[: out.index("{")], json.loads(out[out.index("{") :])
    closed = ", ".join(f"{name} closed (0 changes, 0 bad runs)" for name in ("large", "engine", "rules"))
    assert f"ladder: defaulted_features; store open (1 changes, 2 bad runs), {closed}" in table.splitlines()
    assert found["ladder"]["rung"] == "defaulted_features"


async def test_a_log_of_batches_made_on_lower_rungs_replays(models: Path, clock: JumpingClock, tmp_path: Path) -> None:
    async with stairs_of(models, clock, log={"dir": str(tmp_path)}) as stairs:
        for dependency in (stairs.store, stairs.engine, stairs.rules):
            dependency.away = True
            await stairs.answers(3)
    found = replay_composition(tmp_path)
    assert (found.same, found.rows, found.gaps) == (True, 10, [])
