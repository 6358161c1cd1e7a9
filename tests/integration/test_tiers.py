"""Two tiers and the drift of a promoted version over a real server: the published model, and a wider network."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import onnx
import pytest

from fraudgate.cli import main
from fraudgate.control.patrol import PERIOD_SECONDS
from fraudgate.drift.reference import Reference
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.features.schema import FeatureSchema
from fraudgate.limits import SECOND_NS
from fraudgate.ops.metrics import TEXT_NS
from fraudgate.transaction import Float32
from fraudgate.v1 import latency_pb2
from fraudgate.v1 import models_pb2 as mb
from fraudgate.v1 import scoring_pb2 as pb
from models.network import Network
from models.quantise import export
from tests.integration.sabotaged import Version, network, sound
from tests.integration.server import Running, serve, transaction, until
from tests.unit.onnx_graphs import int8_graph, publish_graph

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("frontend")]

NAME, LARGE = "handbook", "handbook-large"
ROWS = 96
TIMES_WIDER = 8
SCHEMA = FeatureSchema.named("handbook")


def wider() -> Version:
    """The published network with its hidden units eight times over, no two alike, and a larger score for everyone."""
    small = network(sound().model)
    (hidden, output), (hidden_bias, output_bias) = small.weights, small.biases
    noise = np.random.default_rng(5).normal(1, 0.02, (hidden.shape[0], hidden.shape[1] * TIMES_WIDER))
    large = Network(
        small.ramps,
        (
            (np.tile(hidden, (1, TIMES_WIDER)) * noise).astype(np.float32),
            np.tile(output, (TIMES_WIDER, 1)) / np.float32(TIMES_WIDER),
        ),
        (np.tile(hidden_bias, TIMES_WIDER), output_bias + np.float32(1)),
    )
    version = replace(sound(), model=onnx.load_from_string(export(large, "int8")))
    return version.declaring(name=LARGE, version="1").forged()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small engine and the large one."""
    root = tmp_path_factory.mktemp("tiers")
    sound().declaring(version="1").write(root)
    wider().write(root)
    return root


def tiers(**settings: Any) -> dict[str, dict[str, Any]]:
    return {"model": {"name": NAME, "version": "1"}, "tier": {"name": LARGE, "wait_ns_max": 2**40, **settings}}


def payments(rows: int = ROWS, kind: str = "") -> list[pb.Transaction]:
    """Of another customer and terminal each, 1 to 500 euros."""
    return [
        transaction(f"tx{kind}-{row}", amount_minor=100 + row * 50_000 // rows, terminal_id=f"T-{row}")
        for row in range(rows)
    ]


async def decided(server: Running, rows: Sequence[pb.Transaction], size: int) -> list[pb.ScoreResponse]:
    """Their decisions, so many rows a call."""
    calls = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [end.response for call in calls for end in await server.score_rows(call)]


def told(responses: Sequence[pb.ScoreResponse]) -> list[tuple[float, str, int, int]]:
    return [(each.score, each.model.name, each.fallback, each.decision) for each in responses]


async def band_of(repository: Path) -> tuple[list[float], float, float]:
    """The small engine's scores, and a band that holds about half of them."""
    async with serve(repository, model={"name": NAME, "version": "1"}) as server:
        scores = [each.score for each in await decided(server, payments(), ROWS)]
    low, high = np.quantile(scores, [0.3, 0.8]).tolist()
    return scores, low, high


async def metrics(server: Running) -> str:
    await asyncio.sleep(TEXT_NS / SECOND_NS)  # the last text may be so old
    url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
    return (await asyncio.to_thread(lambda: urlopen(url).read())).decode()


async def test_scores_within_the_band_are_the_large_engines_whatever_shares_the_batch(repository: Path) -> None:
    small, low, high = await band_of(repository)
    found = []
    for size in (ROWS, 7, 1):
        async with serve(repository, **tiers(low=low, high=high)) as server:
            found.append(told(await decided(server, payments(), size)))
            tier = (await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())).fleet.tier
            text = await metrics(server)
        large = sum(name == LARGE for _, name, _, _ in found[-1])
        assert (tier.small_rows, tier.large_rows, tier.pressed_rows) == (ROWS - large, large, 0), (
            "warm-up is not counted"
        )
        assert tier.large_share == large / ROWS
        assert tier.small_decision_ns > 0
        assert tier.large_decision_ns > 0
        assert f'fraudgate_tier_rows_total{{tier="large"}} {large}.0' in text
        assert f'fraudgate_model_info{{model="{LARGE}/1",state="tier"}} 1.0' in text
    assert found[0] == found[1] == found[2]
    for score, (given, name, fallback, _) in zip(small, found[0], strict=True):
        assert (name == LARGE) == (low <= np.float32(score) <= high)
        assert (given == score) == (name == NAME)
        assert fallback == pb.FALLBACK_STALE_FEATURES, "the store is cold; a tier's decision is a full one"
    assert 20 < sum(name == LARGE for _, name, _, _ in found[0]) < ROWS - 20


async def test_decisions_of_both_tiers_are_decided_again_from_the_log(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, low, high = await band_of(repository)
    async with serve(repository, **tiers(low=low, high=high), log={"dir": str(tmp_path)}) as server:
        answers = await decided(server, payments(), 7)
    words = ["replay", "--batches", str(tmp_path), "--decisions", "--repository", str(repository), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["decisions"]
    shares = Counter(f"{each.model.name}/1" for each in answers)
    assert (found["same"], found["rows"], found["models"]) == (True, ROWS, shares)
    assert len(shares) == 2


async def test_under_pressure_the_small_engine_decides_alone_and_says_so(repository: Path) -> None:
    small, low, high = await band_of(repository)
    async with serve(repository, **tiers(low=low, high=high, wait_ns_max=0)) as server:
        found = told(await decided(server, payments(), ROWS))
    assert [score for score, _, _, _ in found] == small
    for score, name, fallback, _ in found:
        within = low <= np.float32(score) <= high
        assert name == NAME
        assert fallback == (pb.FALLBACK_SMALL_MODEL if within else pb.FALLBACK_STALE_FEATURES)


class BrokenEngine:
    """Raises."""

    def run(self, slot: int) -> Float32:
        raise EngineFailed("the device is gone")


async def test_a_large_engine_with_a_problem_is_dropped_by_the_patrol(repository: Path) -> None:
    async with serve(repository, **tiers(low=0.0, high=1.0)) as server:
        assert {name for _, name, _, _ in told(await decided(server, payments(), ROWS))} == {LARGE}
        large = server.service.parts.fleet.large
        assert large is not None
        inference: Any = large.loaded.opened.inference
        inference._engine = BrokenEngine()
        await until(lambda: large.tier.dropped)
        found = told(await decided(server, payments(kind="then"), ROWS))
        assert {(name, fallback) for _, name, fallback, _ in found} == {(NAME, pb.FALLBACK_SMALL_MODEL)}
        assert f'fraudgate_model_info{{model="{LARGE}/1",state="dropped"}} 1.0' in await metrics(server)
        assert any(line.startswith(f"model {LARGE}/1: dropped") for line in server.lines)


async def test_a_large_engine_of_another_schema_is_refused_at_the_start(repository: Path, tmp_path: Path) -> None:
    sound().declaring(version="1").write(tmp_path)
    publish_graph(tmp_path, int8_graph(features=15), name=LARGE, schema_fingerprint="0" * 64)
    with pytest.raises(EngineRefused, match=r"^\[tier\] .*schema"):
        async with serve(tmp_path, **tiers()):
            pass


async def test_a_restart_keeps_the_answers_of_both_tiers_and_gives_new_ones_names_of_their_own(
    repository: Path, tmp_path: Path
) -> None:
    _, low, high = await band_of(repository)
    settings = {**tiers(low=low, high=high), "state": {"dir": str(tmp_path)}}
    runs = []
    for number in range(2):
        async with serve(repository, **settings) as server:
            kept = await server.score_rows(payments())
            new = await decided(server, payments(kind=f"{number}"), ROWS)
        runs.append([end.body for end in kept])
        assert {each.model.name for each in new} == {NAME, LARGE}
        names = {each.decision_id.partition("-")[0] for each in new}
        before = {end.response.decision_id.partition("-")[0] for end in kept}
        assert len(names) == 2
        assert number == 0 or names.isdisjoint(before), "a decision_id of an earlier run was given again"
    assert runs[0] == runs[1]


@pytest.mark.parametrize("fits", [True, False])
async def test_a_promoted_version_whose_scores_are_not_those_of_its_reference_goes(tmp_path: Path, fits: bool) -> None:
    first, second = (sound().declaring(version=version) for version in ("1", "2"))
    first.write(tmp_path)
    sections = {"model": {"name": NAME, "version": "1"}, "drift": {"window_rows": 1_000}}
    async with serve(tmp_path, **sections) as server:
        rows = payments(1_024)
        scores = np.array([each.score for each in await decided(server, rows, 512)], np.float32)
        made = scores if fits else scores + np.float32(0.5)
        reference = Reference.of(SCHEMA.names, np.zeros((len(made), len(SCHEMA.names)), np.float32), made)
        second.write(tmp_path, drift=reference.to_json())
        request = mb.PromoteModelRequest(
            name=NAME, version="2", stages_percent=[100], stage_rows_min=64, stage_seconds_min=0.0
        )
        await server.models.PromoteModel(request)
        await decided(server, payments(64, "trial"), 64)
        fleet = server.service.parts.fleet
        assert fleet.live.name == f"{NAME}/2"
        assert f'fraudgate_build_info{{model="{NAME}/2"' in await metrics(server)
        await decided(server, payments(1_024, "live"), 512)
        if fits:
            await asyncio.sleep(5 * PERIOD_SECONDS)
            assert (fleet.live.name, fleet.rollbacks) == (f"{NAME}/2", 0)
            return
        await until(lambda: fleet.live.name == f"{NAME}/1")
        assert "rolled back: its scores have drifted: PSI" in fleet.events[-2].what
        text = await metrics(server)
        assert f'fraudgate_build_info{{model="{NAME}/1"' in text
        assert "fraudgate_model_rollbacks_total 1.0" in text
        listed = (await server.models.ListModels(mb.ListModelsRequest())).models
        assert {each.version: each.state for each in listed} == {"1": "live", "2": ""}
