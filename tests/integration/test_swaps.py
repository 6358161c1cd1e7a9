"""Engines that change while callers call: load, shadow, canary, promotion and the way back, over the wire."""

import asyncio
import json
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest

from fraudgate.audit.decisions import Decider, DecisionReplay
from fraudgate.audit.replay import replay_composition
from fraudgate.cli import main
from fraudgate.commands.deciders import Deciders
from fraudgate.control import candidate
from fraudgate.engines.base import Engine
from fraudgate.engines.placement import ThreadedEngine
from fraudgate.engines.repository import Manifest, read_manifest
from fraudgate.engines.trial import chosen
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.fleet_assembly import Engines
from fraudgate.guardrails.decision import Thresholds
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.ops.metrics import TEXT_NS
from fraudgate.transaction import Float32
from fraudgate.v1 import models_pb2 as mb
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import HELD_GATE, FailingEngine, Running, request, transaction, until
from tests.integration.swapping import (
    FIRST,
    MOVED,
    NAME,
    SECOND,
    Caller,
    Spoil,
    Spoilt,
    listed,
    payment,
    promote,
    publish_two,
    rollback,
    scores_of,
    serving,
    versions,
)

pytestmark = pytest.mark.usefixtures("frontend")
Code = grpc.StatusCode
ROLLBACK_SECONDS_MAX = 1.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound versions. Tests that publish more take a place of their own."""
    return publish_two(tmp_path_factory.mktemp("swaps"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No version is checked in a child, which takes seconds."""

    async def believe(engines: Engines, directory: Path, manifest: Manifest, against: Engine) -> list[str]:
        return ["all: not tried"]

    monkeypatch.setattr(Engines, "check", believe)


async def refused(call: Awaitable[object]) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


# -- load --------------------------------------------------------------------------------------------------------------


async def test_a_loaded_version_is_checked_and_decides_nothing(root: Path) -> None:
    async with serving(root) as server:
        caller = Caller(server)
        async with caller.steadily():
            loaded = await server.models.LoadModel(mb.LoadModelRequest(name=NAME, version="2"))
        assert (loaded.model.version, loaded.model.state, loaded.model.live) == ("2", "", False)
        assert [line.partition(":")[0] for line in loaded.checks][:3] == ["manifest", "digests", "schema"]
        assert any(line.startswith("against: ") for line in loaded.checks)
        assert len(caller.answers) >= 32
        assert versions(caller.answers) == {"1"}


async def test_what_cannot_be_served_is_refused_with_the_reason_and_the_live_one_decides(tmp_path: Path) -> None:
    root = publish_two(tmp_path)
    damaged = FIRST.declaring(version="damaged").write(root)
    (damaged / "model.onnx").write_bytes(b"damaged")
    SECOND.declaring(version="shifted").changing("output_bias", lambda bias: bias + 1).forged().write(root)
    async with serving(root) as server:
        caller = Caller(server)
        async with caller.steadily():
            for version, code, said in (
                ("shifted", Code.FAILED_PRECONDITION, "handbook/shifted: "),
                ("damaged", Code.FAILED_PRECONDITION, "SHA-256"),
                ("7", Code.NOT_FOUND, "no version '7'"),
            ):
                for call in (
                    server.models.LoadModel(mb.LoadModelRequest(name=NAME, version=version)),
                    server.models.PromoteModel(mb.PromoteModelRequest(name=NAME, version=version)),
                    server.models.SetShadow(mb.SetShadowRequest(name=NAME, version=version)),
                ):
                    found, details = await refused(call)
                    assert (found, said in details) == (code, True), details
            assert (await refused(server.models.LoadModel(mb.LoadModelRequest(name="none"))))[0] is Code.NOT_FOUND
            (damaged / "manifest.json").write_text("{}")  # it might be the newest: none is taken in its stead
            assert (await refused(server.models.LoadModel(mb.LoadModelRequest(name=NAME))))[
                0
            ] is Code.FAILED_PRECONDITION
        assert versions(await caller.send()) == {"1"}
        assert versions(caller.answers) == {"1"}
        assert not (await listed(server)).HasField("trial")


async def test_other_thresholds_on_files_that_were_checked_are_checked_too(tmp_path: Path) -> None:
    root = publish_two(tmp_path)
    low = {"review": 1e-6, "decline": 2e-6}
    MOVED.declaring(version="strict", thresholds=type(MOVED.manifest.thresholds)(**low)).write(root)
    async with serving(root) as server:
        await server.models.LoadModel(mb.LoadModelRequest(name=NAME, version="2"))
        call = server.models.LoadModel(mb.LoadModelRequest(name=NAME, version="strict"))
        assert (await refused(call))[0] is Code.FAILED_PRECONDITION


async def test_files_that_change_after_their_check_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed again, so that all digests fit: it is another version than the one that was checked."""
    root = publish_two(tmp_path)
    check = Engines.check

    async def check_and_change(engines: Engines, directory: Path, manifest: Manifest, against: Engine) -> list[str]:
        lines = await check(engines, directory, manifest, against)
        shutil.rmtree(directory)
        MOVED.changing("output_bias", lambda bias: bias + 1).forged().write(root)
        return lines

    monkeypatch.setattr(Engines, "check", check_and_change)
    async with serving(root) as server:
        code, said = await refused(promote(server, "2", stages_percent=[100]))
        assert (code, "SHA-256" in said) == (Code.FAILED_PRECONDITION, True), said
        caller = Caller(server)
        assert versions(await caller.send()) == {"1"}


async def test_files_that_change_during_their_check_are_refused(tmp_path: Path) -> None:
    root = publish_two(tmp_path)
    async with serving(root) as server:
        engines, live = server.service.parts.engines, server.service.parts.engine
        directory = root / NAME / "2"
        earlier = msgspec.structs.replace(read_manifest(directory), command="another")
        with pytest.raises(EngineRefused, match="handbook/2 changed while it was checked"):
            await engines.check(directory, earlier, live)


@pytest.mark.usefixtures("unchecked")
async def test_a_version_that_was_loaded_is_not_opened_again_for_its_trial(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_ = Engines._open

    def counted(engines: Engines, directory: Path, manifest: Manifest | None = None) -> object:
        opened.append(directory.name)
        return open_(engines, directory, manifest)

    monkeypatch.setattr(Engines, "_open", counted)
    load = mb.LoadModelRequest(name=NAME, version="2")
    async with serving(root) as server:
        opened.clear()
        for _ in range(2):
            await server.models.LoadModel(load)
        await promote(server, "2", stages_percent=[100])
        assert opened == ["2"]
        await Caller(server).send_until_live("2")
        await rollback(server)
        await promote(server, "2", stages_percent=[100])
        assert opened == ["2", "2"], "an engine that was on trial is opened anew"
        await server.models.LoadModel(load)
        await server.models.LoadModel(mb.LoadModelRequest(name=NAME, version="1"))
        await server.models.SetShadow(mb.SetShadowRequest(name=NAME, version="2"))
        assert opened[2:] == ["2", "1", "2"], "one candidate is kept, the last"
        monkeypatch.setattr(candidate, "LIFETIME_SECONDS", 0.0)
        await server.models.LoadModel(load)
        await asyncio.sleep(0.05)
        await server.models.LoadModel(load)
        assert opened[5:] == ["2", "2"], "and not for ever"


# -- shadow ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
async def test_a_shadow_scores_the_same_batches_and_changes_no_bit(root: Path) -> None:
    alone = await scores_of(root, "1", 256)
    async with serving(root) as server:
        caller = Caller(server)
        shown = await server.models.SetShadow(mb.SetShadowRequest(name=NAME, version="2"))
        assert (shown.shadow.version, shown.shadow.state) == ("2", "shadow")
        for _ in range(8):
            await caller.send()
        found = await listed(server)
        assert (found.trial.model, found.trial.share_percent) == (f"{NAME}/2", 0)
        assert 32 <= found.trial.rows <= 256
        assert 0 < found.trial.difference_mean <= found.trial.difference_max < 0.01
        assert [answer.score for answer in caller.answers] == alone
        assert versions(caller.answers) == {"1"}
        assert not (await server.models.SetShadow(mb.SetShadowRequest())).HasField("shadow")
        assert not (await listed(server)).HasField("trial")
        assert versions(await caller.send()) == {"1"}


@pytest.mark.usefixtures("unchecked")
async def test_a_shadow_that_ends_while_a_batch_is_scored_costs_it_nothing(root: Path) -> None:
    async with serving(root, batching=HELD_GATE) as server:
        await server.models.SetShadow(mb.SetShadowRequest(name=NAME, version="2"))
        held = server.hold()
        batch = server.start_rows([payment(number) for number in range(BATCH_ROWS_MAX)])
        await until(lambda: held.started == 1)
        await server.models.SetShadow(mb.SetShadowRequest())
        held.let_go()
        assert {end.response.fallback for end in await batch} == {pb.FALLBACK_STALE_FEATURES}


@pytest.mark.usefixtures("unchecked")
async def test_the_end_of_the_shadow_is_not_the_end_of_a_canary(root: Path) -> None:
    async with serving(root) as server:
        assert (await promote(server, "2")).state == "canary 5 %"
        await server.models.SetShadow(mb.SetShadowRequest())
        assert server.service.parts.fleet.state_of(f"{NAME}/2") == "canary 5 %"


# -- canary and promotion ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
async def test_through_every_stage_each_answer_names_its_engine_and_has_its_score(root: Path) -> None:
    async with serving(root) as server:
        caller, fleet, shares = Caller(server), server.service.parts.fleet, set()
        await caller.send()
        assert (await promote(server, "2")).state == "canary 5 %"
        while fleet.live.name == f"{NAME}/1":
            share = fleet.share_percent
            answers = await caller.send()
            if fleet.share_percent == share:  # within a stage: who is decided by whom is known beforehand
                shares.add(share)
                first = len(caller.answers) - len(answers)
                customers = [payment(number).customer_id for number in range(first, len(caller.answers))]
                expected = np.where(chosen(customers, share), "2", "1").tolist()
                assert [answer.model.version for answer in answers] == expected
        assert shares == {5, 25, 50, 100}
        assert versions(await caller.send()) == {"2"}
        states = {each.version: each.state for each in (await listed(server)).models}
        assert states == {"1": "previous", "2": "live"}
    by_version = {version: await scores_of(root, version, len(caller.answers)) for version in ("1", "2")}
    assert all(one != two for one, two in zip(*by_version.values(), strict=True))
    for number, answer in enumerate(caller.answers):
        assert answer.score == by_version[answer.model.version][number]
    digests = {answer.model.version: answer.model.engine_digest for answer in caller.answers}
    assert digests["1"] != digests["2"]


@pytest.mark.usefixtures("unchecked")
async def test_back_and_forth_under_steady_calls_nothing_fails(root: Path) -> None:
    async with serving(root) as server:
        caller = Caller(server)
        await caller.send()
        async with caller.steadily():
            for number in range(20):
                version = "21"[number % 2]
                await promote(server, version, stages_percent=[100], stage_rows_min=1)
                await until(lambda name=f"{NAME}/{version}": server.service.parts.fleet.live.name == name)
        changes = sum(one.model.version != two.model.version for one, two in pairwise(caller.answers))
        assert changes == 20
        assert len({answer.decision_id for answer in caller.answers}) == len(caller.answers)


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
async def test_a_rollback_by_hand_holds_for_every_call_after_it(root: Path) -> None:
    async with serving(root) as server:
        caller = Caller(server)
        await promote(server, "2", stages_percent=[50, 100])
        assert versions(await caller.send()) == {"1", "2"}
        assert (await rollback(server, "too many calls")).version == "1"
        assert versions(await caller.send()) == {"1"}
        await promote(server, "2", stages_percent=[100])
        await caller.send_until_live("2")
        async with caller.steadily():
            started = time.monotonic()
            live = await rollback(server)
            took = time.monotonic() - started
            before = len(caller.answers) + BATCH_ROWS_MAX
            await until(lambda: len(caller.answers) >= before + 64)
        assert (live.version, live.live, live.state) == ("1", True, "live")
        assert versions(caller.answers[before:]) == {"1"}
        assert took <= ROLLBACK_SECONDS_MAX
        said = [(event.model, event.what) for event in (await listed(server)).events]
        assert said[-2:] == [(f"{NAME}/2", "rolled back: by hand"), (f"{NAME}/1", "live again")]
        assert (f"{NAME}/2", "rolled back: too many calls") in said
        assert (await refused(rollback(server)))[0] is Code.FAILED_PRECONDITION


def failing(run: Callable[[int], Float32], slot: int) -> Float32:
    raise EngineFailed("device lost")


def moved(run: Callable[[int], Float32], slot: int) -> Float32:
    return run(slot) * np.float32(0.999)


def unusable_but_for_golden_rows(run: Callable[[int], Float32], slot: int) -> Float32:
    return np.full(BATCH_ROWS_MAX, np.nan, np.float32) if slot < 2 else run(slot)


def slow(seconds: float) -> Spoil:
    def run_slowly(run: Callable[[int], Float32], slot: int) -> Float32:
        time.sleep(seconds)
        return run(slot)

    return run_slowly


def buggy(run: Callable[[int], Float32], slot: int) -> Float32:
    raise ZeroDivisionError("ours")


SPOILT = {
    "fails": failing,
    "moves": moved,
    "unusable": unusable_but_for_golden_rows,
    "slow": slow(0.02),
    "very slow": slow(0.1),
    "buggy": buggy,
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.usefixtures("unchecked")
async def test_a_live_engine_that_turns_bad_is_gone_within_a_second(root: Path, kind: str) -> None:
    async with serving(root) as server:
        caller, fleet = Caller(server), server.service.parts.fleet
        await promote(server, "2", stages_percent=[100])
        await caller.send_until_live("2")
        inference = fleet.live.member.inference
        async with caller.steadily():
            inference._engine = Spoilt(inference._engine, SPOILT[kind])
            started = time.monotonic()
            await until(lambda: fleet.live.name == f"{NAME}/1")
            took = time.monotonic() - started
            before = len(caller.answers) + BATCH_ROWS_MAX
            await until(lambda: len(caller.answers) >= before + 64)
        assert versions(caller.answers[before:]) == {"1"}
        assert {answer.fallback for answer in caller.answers[before:]} == {pb.FALLBACK_STALE_FEATURES}
        assert took <= ROLLBACK_SECONDS_MAX
        assert fleet.rollbacks == 1


@pytest.mark.usefixtures("unchecked")
async def test_the_thread_of_an_engine_that_went_ends_with_the_last_batch_that_it_scores(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudgate.engines.loading.place", ThreadedEngine)
    async with serving(root, batching=HELD_GATE) as server:
        fleet, caller = server.service.parts.fleet, Caller(server)
        await promote(server, "2", stages_percent=[100])
        await caller.send_until_live("2")
        went = fleet.live.opened.inference
        assert isinstance(went, ThreadedEngine)
        (thread,) = went._thread._threads
        entered, go = threading.Event(), threading.Event()

        def held(run: Callable[[int], Float32], slot: int) -> Float32:
            entered.set()
            go.wait(20)
            return run(slot)

        went._engine = Spoilt(went._engine, held)
        batches = [server.start_rows([payment(1_000 + 32 * n + row) for row in range(32)]) for n in range(2)]
        await until(lambda: entered.is_set() and server.service.door.shell.batches_in_flight == 2)
        del went
        await rollback(server)
        go.set()
        for batch in batches:
            assert versions([end.response for end in await batch]) == {"2"}
        await until(lambda: not thread.is_alive())
        assert versions(await caller.send()) == {"1"}


# -- what stands around it ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
async def test_a_retry_after_a_swap_gets_the_stored_answer_of_the_engine_that_gave_it(root: Path) -> None:
    async with serving(root) as server:
        caller = Caller(server)
        first = await server.score(request("before"))
        await promote(server, "2", stages_percent=[100])
        await caller.send_until_live("2")
        second = await server.score(request("between"))
        await rollback(server)
        assert (first.response.model.version, second.response.model.version) == ("1", "2")
        for name, end in (("before", first), ("between", second)):
            again = await server.score(request(name))
            assert (again.replayed, again.body) == (True, end.body)


@pytest.mark.usefixtures("unchecked")
async def test_the_batch_log_of_a_run_with_swaps_replays(root: Path, tmp_path: Path) -> None:
    async with serving(root, log={"dir": str(tmp_path)}) as server:
        caller = Caller(server)
        await promote(server, "2")
        await caller.send_until_live("2")
        await rollback(server)
        await caller.send()
    found = replay_composition(tmp_path)
    assert (found.same, found.rows, found.missing) == (True, len(caller.answers), 0)
    assert main(["replay", "--batches", str(tmp_path)]) == 0


@pytest.mark.usefixtures("unchecked")
async def test_decisions_across_a_swap_are_decided_again_byte_for_byte(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A canary, a swap, a retry, a refused row, an engine that fails and the way back, all in one log."""
    log, copy = tmp_path / "log", tmp_path / "copy"
    async with serving(root, log={"dir": str(log)}) as server:
        caller = Caller(server)
        await promote(server, "2", stages_percent=[50, 100], stage_rows_min=256)
        while len(caller.answers) < 128:
            await caller.send()
        assert versions(caller.answers) == {"1", "2"}
        await caller.send_until_live("2")
        await server.score_rows([payment(0), payment(1_000_000), transaction("bad", currency="")])
        server.use(FailingEngine())
        await caller.send()
        await rollback(server)
        await caller.send()
    replay = ["replay", "--batches", str(log), "--decisions", "--repository"]
    assert main([*replay, str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["decisions"]
    assert (found["same"], found["rows"], found["differing"]) == (True, len(caller.answers) + 1, 0)
    assert (found["retries"], found["refused"], found["unscored"]) == (1, 1, BATCH_ROWS_MAX)
    assert found["models"].keys() == {f"{NAME}/1", f"{NAME}/2"}
    assert sum(found["models"].values()) == found["rows"]
    assert main([*replay, str(root)]) == 0
    assert "same: every decision, score and rule bit is as logged" in capsys.readouterr().out
    FIRST.write(copy)
    assert main([*replay, str(copy)]) == 2
    assert "no version '2'" in capsys.readouterr().err
    SECOND.write(copy)
    assert main([*replay, str(copy)]) == 2
    assert "is not the one that decided" in capsys.readouterr().err
    (editions,) = log.glob("editions-*.jsonl")
    text = editions.read_text()
    editions.write_text(text.replace('"rules_version":"', '"rules_version":"f'))
    assert main([*replay, str(root)]) == 2
    assert "name their file with --rules" in capsys.readouterr().err
    editions.write_text("\n".join(text.splitlines()[:1]) + "\n")
    assert main([*replay, str(root)]) == 2
    assert "is not among those of its run" in capsys.readouterr().err
    editions.unlink()
    assert main([*replay, str(root)]) == 2
    assert "does not say which engine decided" in capsys.readouterr().err


def by_one_bit(decider: Decider) -> Decider:
    return decider._replace(score=lambda features: np.nextafter(decider.score(features), np.float32(2)))


def by_a_threshold(decider: Decider) -> Decider:
    return decider._replace(thresholds=Thresholds(1e-9, 1.0))


@pytest.mark.parametrize("otherwise", [by_one_bit, by_a_threshold])
async def test_a_row_that_is_decided_otherwise_is_named(
    root: Path,
    tmp_path: Path,
    otherwise: Callable[[Decider], Decider],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(root, log={"dir": str(tmp_path)}) as server:
        await Caller(server).send()
    open_ = Deciders.open
    monkeypatch.setattr(Deciders, "open", lambda deciders, edition: otherwise(open_(deciders, edition)))
    replay = ["replay", "--batches", str(tmp_path), "--decisions", "--repository", str(root)]
    assert main(replay) == 1
    told = capsys.readouterr().out
    assert "DIFFERENT: " in told
    assert re.search(r"first difference: tx-\d+ in batch 0 of run [0-9a-f]{16}, by handbook/1", told)
    assert main([*replay, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["decisions"]["same"]) == (True, False)
    assert found["decisions"]["first_difference"]["logged"] != found["decisions"]["first_difference"]["replayed"]


def test_a_log_without_decisions_proves_nothing_of_them() -> None:
    assert not DecisionReplay().same


@pytest.mark.usefixtures("unchecked")
async def test_a_server_drains_during_a_canary(root: Path) -> None:
    async with serving(root, batching=HELD_GATE) as server:
        await promote(server, "2", stages_percent=[50, 100])
        held = server.hold()
        batch = server.start_rows([payment(number) for number in range(BATCH_ROWS_MAX)])
        await until(lambda: held.started == 1)
        draining = server.start_drain()
        held.let_go()
        assert versions([end.response for end in await batch]) == {"1", "2"}
        assert await draining == 0
        assert server.lines[-1] == "drained"


@pytest.mark.usefixtures("unchecked")
async def test_metrics_name_the_live_version(root: Path) -> None:
    async with serving(root) as server:
        assert await exported_model(server) == f"{NAME}/1"
        await promote(server, "2", stages_percent=[100])
        await Caller(server).send_until_live("2")
        assert await exported_model(server) == f"{NAME}/2"


async def exported_model(server: Running) -> str:
    await asyncio.sleep(TEXT_NS / SECOND_NS)  # the last text may be so old
    url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=5) as answer:
        (model,) = re.findall(r'fraudgate_build_info\{.*model="([^"]*)"', answer.read().decode())
    return str(model)


# -- the command line --------------------------------------------------------------------------------------------------


async def command(server: Running, *words: str) -> int:
    """``fraudgate model`` on that server: its exit status."""
    target = f"127.0.0.1:{server.service.control_port}"
    return await asyncio.to_thread(main, ["model", *words, "--target", target])


@pytest.mark.usefixtures("unchecked")
async def test_the_verbs_say_what_they_did(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(root) as server:
        caller = Caller(server)
        assert await command(server, "shadow", f"{NAME}/2") == 0
        assert await command(server, "shadow", "--off") == 0
        assert capsys.readouterr().out == "handbook/2: shadow\nnothing is in the shadow\n"
        async with caller.steadily():
            assert await command(server, "promote", f"{NAME}/2", "--rows", "64", "--seconds", "0", "--wait") == 0
            told = capsys.readouterr().out.splitlines()
            assert await command(server, "rollback", "--reason", "a drill", "--json") == 0
            gone = json.loads(capsys.readouterr().out)
        shares = [f"handbook/2: decides for {share} % of the customers" for share in (5, 25, 50, 100)]
        assert told == [*shares, "handbook/2: live", "handbook/2: live"]
        assert gone == {"name": NAME, "version": "1", "state": "live", "live": True}
        assert versions(await caller.send()) == {"1"}


@pytest.mark.usefixtures("unchecked")
async def test_a_promotion_that_ends_in_a_rollback_is_exit_status_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(root) as server:
        waiting = asyncio.create_task(command(server, "promote", NAME, "--wait"))
        await until(lambda: server.service.parts.fleet.share_percent == 5)
        await rollback(server, "no good")
        assert await waiting == 1
        assert "handbook/2: rolled back: no good" in capsys.readouterr().out.splitlines()


async def test_what_the_server_refuses_is_exit_status_2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(root) as server:
        assert await command(server, "promote", f"{NAME}/7") == 2
        assert await command(server, "rollback") == 2
        said = capsys.readouterr().err
    assert "NOT_FOUND: no version '7'" in said
    assert "FAILED_PRECONDITION: nothing is on trial" in said
