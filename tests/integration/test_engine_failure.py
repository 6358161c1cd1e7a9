"""When engine, rules, store or log fail: before an event is applied nobody has decided, after it somebody must."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from fraudgate.engines.base import Engine
from fraudgate.engines.placement import ThreadedEngine
from fraudgate.errors import EngineFailed
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.pipeline import Inference
from fraudgate.transaction import Float32
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import (
    HELD_GATE,
    FailingEngine,
    FixedEngine,
    Running,
    request,
    serve,
    transaction,
    until,
)

pytestmark = pytest.mark.usefixtures("frontend")
Code = grpc.StatusCode


def scores(*first: float) -> Float32:
    """float32[32]: these, and then 0.25."""
    return np.array([*first, *[0.25] * (BATCH_ROWS_MAX - len(first))], np.float32)


UNUSABLE: dict[str, Callable[[], Inference]] = {
    "EngineFailed": lambda: FailingEngine(EngineFailed("the device is gone")),
    "NaN": lambda: FixedEngine(scores(float("nan"))),
    "infinity": lambda: FixedEngine(scores(float("inf"))),
    "2.0": lambda: FixedEngine(scores(2.0)),
    "just over 1": lambda: FixedEngine(scores(float(np.nextafter(np.float32(1), np.float32(2))))),
    "just under 0": lambda: FixedEngine(scores(-1e-45)),
}


def is_rules_only(response: pb.ScoreResponse) -> bool:
    return response.fallback == pb.FALLBACK_RULES_ONLY and not response.HasField("score")


@pytest.mark.parametrize("name", UNUSABLE)
async def test_without_a_usable_score_rules_decide_and_the_event_counts(models: Path, name: str) -> None:
    async with serve(models) as server:
        server.use(UNUSABLE[name]())
        response = (await server.score(request(name))).response
        assert is_rules_only(response)
        assert response.decision == pb.REVIEW
        assert [reason.code for reason in response.reasons] == ["RULES_ONLY"]
        assert response.model.name == "small"  # the engine that was asked
        assert await server.count(f"C-{name}") == 1
        assert server.total("fraudgate_engine_failures_total") == (name == "EngineFailed")


async def test_rules_that_need_no_score_still_decide(models: Path) -> None:
    async with serve(models) as server:
        server.use(FailingEngine())
        response = (await server.score(request("over the limit", amount_minor=22_001))).response
        assert (response.decision, list(response.rules_fired)) == (pb.DECLINE, ["amount-limit"])
        assert is_rules_only(response)


async def test_an_unusable_score_is_its_own_rows_and_no_others(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        server.use(FixedEngine(scores(0.0, float("nan"), 1.0, 2.0)))
        rows = await server.score_rows([transaction(f"row {i}") for i in range(32)])
        responses = [end.response for end in rows]
        assert [is_rules_only(each) for each in responses[:5]] == [False, True, False, True, False]
        assert [each.score for each in responses[:5:2]] == [0.0, 1.0, 0.25]
        assert [each.decision for each in responses[:5]] == [
            pb.APPROVE,
            pb.REVIEW,
            pb.DECLINE,
            pb.REVIEW,
            pb.APPROVE,
        ]
        assert responses[0].HasField("score")  # 0 is a score, and not the lack of one


async def test_a_bug_in_the_engine_is_a_review_and_not_an_error(models: Path) -> None:
    """After apply there is no way back, whatever is raised."""
    async with serve(models) as server:
        server.use(FailingEngine(ZeroDivisionError("ours")))
        response = (await server.score(request("buggy"))).response
        assert is_rules_only(response)
        assert response.decision == pb.REVIEW
        assert await server.count("C-buggy") == 1
        server.use(server.service.parts.fleet.live.member.inference)
        assert (await server.score(request("healthy"))).response.HasField("score")


async def test_a_bug_in_the_rules_is_a_review(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(models) as server:
        with monkeypatch.context() as broken:
            broken.setattr(type(server.service.parts.rules), "fire", lambda rules, inputs, bits: 1 / 0)
            response = (await server.score(request("unruly"))).response
        assert response.decision == pb.REVIEW
        assert "RULE_ERROR" in [reason.code for reason in response.reasons]
        assert server.total("fraudgate_rule_errors_total") == 1
        assert (await server.score(request("unruly"))).response == response
        assert await server.count("C-unruly") == 1


async def test_a_rule_that_errors_on_a_row_lifts_it_to_review(models: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        '- {id: share, action: block, when: "1000 / amount_minor > 10", code: SHARE, text: "?"}\n', "utf-8"
    )
    async with serve(models, rules={"file": str(rules)}, batching=HELD_GATE) as server:
        server.use(FixedEngine(scores()))
        rows = [transaction(f"row {i}", amount_minor={0: 0, 1: 50}.get(i, 5_000)) for i in range(32)]
        nothing, little, much, *_ = [end.response for end in await server.score_rows(rows)]
        assert (nothing.decision, [reason.code for reason in nothing.reasons]) == (pb.REVIEW, ["RULE_ERROR"])
        assert (little.decision, list(little.rules_fired)) == (pb.DECLINE, ["share"])
        assert (much.decision, list(much.rules_fired)) == (pb.APPROVE, [])
        assert server.total("fraudgate_rule_errors_total") == 1


async def test_a_store_that_raises_costs_its_batch_and_nobody_else(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the ladder: twins of the rows that failed fail with them; replays of earlier answers and bad rows get
    theirs."""
    async with serve(models, batching=HELD_GATE, ladder={"enabled": False}) as server:
        first = await server.score_rows([transaction(f"row {i}") for i in range(32)])
        rows = [transaction(f"row {i}") for i in range(16, 46)] + [transaction("row 32"), transaction("")]
        with monkeypatch.context() as broken:
            broken.setattr(server.service.parts.store, "apply_and_gather", lambda columns, rows: 1 / 0)
            ends = await server.score_rows(rows)
        expected = [Code.OK] * 16 + [Code.INTERNAL] * 15 + [Code.INVALID_ARGUMENT]
        assert [end.code for end in ends] == expected
        assert [end.body for end in ends[:16]] == [end.body for end in first[16:]]
        assert server.total("fraudgate_store_failures_total") == 1
        assert await server.count("C-row 32") == 0
        again = await server.score_rows([transaction(f"row {i}", amount_minor=1) for i in range(32, 64)])
        assert {end.response.timings.batch_rows for end in again} == {32}
        assert await server.count("C-row 32") == 1


async def test_a_log_that_fails_costs_nobody_a_decision(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(models, log={"dir": str(tmp_path)}) as server:
        with monkeypatch.context() as broken:
            broken.setattr(server.service.parts.log, "append", lambda *batch: 1 / 0)
            assert (await server.score(request("not logged"))).code is Code.OK
        assert server.total("fraudgate_recording_failures_total") == 1


# -- an engine on a thread ---------------------------------------------------------------------------------------------


class SlowEngine:
    """An ``Engine`` that takes its time and says what it saw; the first run takes longest."""

    def __init__(self, engine: Engine) -> None:
        self.info, self.features, self.run_ns = engine.info, engine.features, 10**9
        self._engine = engine
        self.slots: list[int] = []
        self.running = self.running_max = 0

    def bind(self, slabs: object) -> None:
        raise AssertionError("bound already")

    def run(self, slot: int) -> Float32:
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        self.slots.append(slot)
        time.sleep(0.02 if len(self.slots) == 1 else 0.001)  # a device that works while the loop goes on
        result = self._engine.run(slot)
        self.running -= 1
        return result


def amounts_of(server: Running) -> list[pb.Transaction]:
    """Ten batches; the amount makes each row's score its own."""
    return [transaction(f"row {i}", amount_minor=100 * i) for i in range(320)]


async def test_an_engine_on_a_thread_gives_the_same_scores_in_the_same_order(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        inline = [end.response for end in await server.score_rows(amounts_of(server))]
    async with serve(models, batching=HELD_GATE) as server:
        engine = SlowEngine(server.service.parts.engine)
        threaded = ThreadedEngine(engine)
        server.use(threaded)
        answers = [end.response for end in await server.score_rows(amounts_of(server))]
        threaded.close()
    assert len({each.score for each in inline}) > 50
    assert [each.score for each in answers] == [each.score for each in inline]
    numbers = [int(each.decision_id.rpartition("-")[2], 16) for each in answers]
    assert numbers == list(range(numbers[0], numbers[0] + 320))
    # Two batches were in flight, on slabs of their own, and the engine took one at a time.
    assert (engine.running_max, len(engine.slots), set(engine.slots)) == (1, 10, {0, 1})


class OutOfOrder:
    """An ``Inference`` whose first batch comes back when the second has."""

    def __init__(self, inner: Inference) -> None:
        self._inner = inner
        self._second_is_back = asyncio.Event()
        self.started = 0

    async def infer(self, slot: int) -> Float32:
        self.started += 1
        if self.started == 1:
            await self._second_is_back.wait()
        scores = await self._inner.infer(slot)
        self._second_is_back.set()
        return scores


async def test_batches_are_answered_in_order_whichever_comes_back_first(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        engine = OutOfOrder(server.service.parts.fleet.live.member.inference)
        server.use(engine)
        answered: list[str] = []

        async def send(name: str) -> None:
            await server.score_rows([transaction(f"{name} {i}") for i in range(32)])
            answered.append(name)

        first = asyncio.create_task(send("first"))
        await until(lambda: engine.started == 1)
        second = asyncio.create_task(send("second"))
        await asyncio.gather(first, second)
        assert engine.started == 2
        assert answered == ["first", "second"]


async def test_a_threaded_engine_that_fails_is_no_different(models: Path) -> None:
    class Broken(SlowEngine):
        def run(self, slot: int) -> Float32:
            raise EngineFailed("the device is gone")

    async with serve(models) as server:
        threaded = ThreadedEngine(Broken(server.service.parts.engine))
        server.use(threaded)
        assert is_rules_only((await server.score(request("failed"))).response)
        threaded.close()
        assert await server.count("C-failed") == 1
