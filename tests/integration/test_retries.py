"""Retries over the wire: the same transaction_id gets the same decision, byte for byte, and moves the windows once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import ENTITIES
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import (
    HELD_GATE,
    NOW_SECONDS,
    End,
    FailingEngine,
    JumpingClock,
    Running,
    end_of_row,
    request,
    serve,
    stamp,
    transaction,
    until,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("frontend")]
Code = grpc.StatusCode

RULES = """\
- id: everything
  action: {action}
  when: amount_minor >= 0
  code: EVERYTHING
  text: {text}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, frontend: str) -> AsyncIterator[Running]:
    async with serve(models) as running:
        yield running


def is_replay_of(end: End, first: End) -> bool:
    return end.replayed and not first.replayed and end.body == first.body


async def test_after_the_answer_a_retry_gets_it_byte_for_byte(server: Running) -> None:
    first = await server.score(request("answered"))
    again = [await server.score(request("answered")) for _ in range(3)]
    assert first.response.decision_id
    assert all(is_replay_of(end, first) for end in again)
    assert "idempotent-replay" not in first.metadata
    assert await server.count("C-answered") == 1


async def test_every_way_of_asking_gets_the_same_answer(server: Running) -> None:
    first = await server.score(request("asked"))
    (row,) = await server.score_rows([transaction("asked")])
    (message,), _ = await server.stream_all([request("asked")])
    assert row.response == end_of_row(message).response == first.response
    assert await server.count("C-asked") == 1


async def test_the_encoding_of_a_payload_does_not_matter(server: Running) -> None:
    fields = {"attributes": {"a": 1.0, "b": -0.0}}
    first = await server.score(request("encoded", **fields))
    attributes = [
        request("encoded", attributes={name: value}) for name, value in reversed(fields["attributes"].items())
    ]
    backwards = b"".join(part.SerializeToString() for part in attributes)  # protobuf merges concatenated messages
    unknown = request("encoded", **fields).SerializeToString() + b"\x7a\x03new"
    assert backwards != request("encoded", **fields).SerializeToString()
    for body in (backwards, unknown):
        assert is_replay_of(await server.score(body), first)


async def test_twins_within_a_batch_share_one_decision(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        rows = [request(f"twin {i % 20}", customer_id="C-twins") for i in range(BATCH_ROWS_MAX)]
        ends = await server.score_all(rows)
        assert {end.response.timings.batch_rows for end in ends} == {20}
        assert [end.replayed for end in ends].count(True) == 12
        for number in range(12):
            one, other = ends[number], ends[number + 20]
            assert one.body == other.body
            assert one.replayed is not other.replayed  # which of them came first is the network's choice
        assert len({end.body for end in ends}) == 20
        assert await server.count("C-twins") == 20


async def test_a_twin_within_a_batch_with_another_payload_is_refused(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        rows = [transaction(f"other {i}") for i in range(30)]
        ends = await server.score_rows([*rows, transaction("other 7", amount_minor=7), rows[7]])
        assert [end.code for end in ends] == [Code.OK] * 30 + [Code.ALREADY_EXISTS, Code.OK]
        assert ends[31].body == ends[7].body
        assert await server.count("C-other 7") == 1


async def test_in_flight_a_retry_waits_for_the_answer(models: Path) -> None:
    async with serve(models, batching=HELD_GATE) as server:
        held = server.hold()
        rows = [request(f"flying {i}") for i in range(BATCH_ROWS_MAX)]
        first = asyncio.create_task(server.score_all(rows))
        await until(lambda: held.started == 1)
        second = asyncio.create_task(server.score_all(rows))
        await until(lambda: server.service.door.shell.batches_in_flight == 2)
        changed = asyncio.create_task(server.score_all([request(f"flying {i}", currency="USD") for i in range(32)]))
        await until(lambda: server.queued == 32)
        assert not first.done()
        assert not second.done()
        held.let_go()
        assert all(is_replay_of(*pair) for pair in zip(await second, await first, strict=True))
        assert {end.code for end in await changed} == {Code.ALREADY_EXISTS}
        assert held.started == 1  # retries do not reach the engine
        assert await server.count("C-flying 31") == 1


CHANGES: dict[str, dict[str, Any]] = {
    "event_time": {"event_time": stamp(NOW_SECONDS + 1)},
    "nanos of event_time": {"event_time": stamp(NOW_SECONDS, 1)},
    "amount_minor": {"amount_minor": 1_251},
    "currency": {"currency": "USD"},
    **{entity: {entity: "another"} for entity in ENTITIES},
    **{f"no {entity}": {entity: None} for entity in ENTITIES},
    "attribute's value": {"attributes": {"x": 2.0, "y": 0.0}},
    "attribute's sign": {"attributes": {"x": 1.0, "y": -0.0}},
    "attribute's key": {"attributes": {"x": 1.0, "z": 0.0}},
    "one attribute more": {"attributes": {"x": 1.0, "y": 0.0, "z": 0.0}},
    "one attribute less": {"attributes": {"x": 1.0}},
    "no attributes": {"attributes": {}},
    "swapped ids": {"card_id": "device_id", "device_id": "card_id"},
    "an id moved": {"card_id": None, "merchant_id": "card_idmerchant_id"},
}


@pytest.mark.parametrize("name", CHANGES)
async def test_another_payload_is_refused_and_the_first_answer_stays(server: Running, name: str) -> None:
    ids = {"transaction_id": f"changed {name}", **{entity: entity for entity in ENTITIES}}
    payload = {**ids, "customer_id": f"C-changed {name}", "attributes": {"x": 1.0, "y": 0.0}}
    first = await server.score(request("", **payload))
    assert first.code is Code.OK
    changed = await server.score(request("", **{**payload, **CHANGES[name]}))
    assert (changed.code, changed.replayed) == (Code.ALREADY_EXISTS, False)
    assert is_replay_of(await server.score(request("", **payload)), first)
    assert (await server.count(f"C-changed {name}"), await server.count("another")) == (1, 0)


async def test_the_id_of_an_invalid_attempt_stays_free(server: Running) -> None:
    assert (await server.score(request("once invalid", amount_minor=-1))).code is Code.INVALID_ARGUMENT
    good = await server.score(request("once invalid"))
    assert (good.code, good.replayed) == (Code.OK, False)
    assert (await server.score(request("once invalid", amount_minor=-1))).code is Code.INVALID_ARGUMENT
    assert is_replay_of(await server.score(request("once invalid")), good)
    assert await server.count("C-once invalid") == 1


async def test_a_decision_without_a_score_is_kept_too(models: Path) -> None:
    async with serve(models) as server:
        healthy = server.service.parts.fleet.live.member.inference
        server.use(FailingEngine())
        first = await server.score(request("unscored"))
        assert first.response.fallback == pb.FALLBACK_RULES_ONLY
        server.use(healthy)
        assert is_replay_of(await server.score(request("unscored")), first)
        assert (await server.score(request("scored"))).response.HasField("score")


async def test_an_answer_is_kept_for_its_lifetime(models: Path, clock: JumpingClock) -> None:
    async with serve(models, idempotency={"lifetime_seconds": 3_600}) as server:
        first = await server.score(request("ageing"))
        clock.ahead_ns = 3_500 * SECOND_NS
        assert is_replay_of(await server.score(request("ageing")), first)
        clock.ahead_ns = 3_601 * SECOND_NS
        other = await server.score(request("ageing", amount_minor=1))
        assert (other.code, other.replayed) == (Code.OK, False)
        assert await server.count("C-ageing") == 2


async def test_when_the_table_is_full_the_oldest_goes_and_is_counted(models: Path) -> None:
    async with serve(models, idempotency={"entries_max": 1_088}) as server:
        for start in range(0, 1_200, 400):
            await server.score_rows([transaction(f"many {start + i}") for i in range(400)])
        assert server.total("fraudgate_idempotency_evicted_early_total") == 1_200 - 1_088
        assert (await server.score(request("many 1199"))).replayed
        assert not (await server.score(request("many 0"))).replayed


async def test_without_idempotency_each_attempt_is_a_payment(models: Path) -> None:
    async with serve(models, idempotency={"enabled": False}) as server:
        assert any("idempotency is off" in line for line in server.lines)
        first, second = await server.score(request("unique")), await server.score(request("unique", amount_minor=1))
        assert not first.replayed
        assert not second.replayed
        assert first.response.decision_id != second.response.decision_id
        rows = await server.score_rows([transaction("unique"), transaction("unique")])
        assert len({row.response.decision_id for row in rows}) == 2
        assert await server.count("C-unique") == 4


# -- after a restart ---------------------------------------------------------------------------------------------------


async def test_after_a_restart_a_retry_gets_its_answer_byte_for_byte(models: Path, tmp_path: Path) -> None:
    """Also when the rules, and with them every text of an answer, have changed between."""
    rules, state = tmp_path / "rules.yaml", tmp_path / "state"
    sections = {"rules": {"file": str(rules)}, "state": {"dir": str(state)}}
    rules.write_text(RULES.format(action="review", text="Before."), "utf-8")
    async with serve(models, **sections) as server:
        before = [await server.score(request(f"kept {i}", customer_id="C-kept")) for i in range(3)]
        assert (await server.score(request("refused", amount_minor=-1))).code is Code.INVALID_ARGUMENT
    assert "snapshot written" in " ".join(server.lines)
    rules.write_text(RULES.format(action="block", text="After."), "utf-8")
    async with serve(models, **sections) as server:
        assert await server.count("C-kept") == 3
        after = [await server.score(request(f"kept {i}", customer_id="C-kept")) for i in range(3)]
        assert all(is_replay_of(*pair) for pair in zip(after, before, strict=True))
        assert {end.response.decision for end in after} == {pb.REVIEW}
        assert await server.count("C-kept") == 3
        assert (await server.score(request("kept 0", amount_minor=1))).code is Code.ALREADY_EXISTS
        # What is new is decided by the new rules, and its name is not one of before.
        fresh = (await server.score(request("refused"))).response
        assert (fresh.decision, fresh.reasons[0].description) == (pb.DECLINE, "After.")
        assert fresh.ruleset_version != before[0].response.ruleset_version
        assert fresh.decision_id not in {end.response.decision_id for end in before}
    # And once more: what was restored is written again.
    async with serve(models, **sections) as server:
        assert is_replay_of(await server.score(request("kept 0", customer_id="C-kept")), before[0])
        assert (await server.score(request("refused"))).response == fresh
        assert await server.count("C-refused") == 1


async def test_the_time_that_the_server_was_down_counts(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "state": {"dir": str(tmp_path)},
        "idempotency": {"lifetime_seconds": 3_600},
    }
    async with serve(models, **sections) as server:
        await server.score(request("old"))
    wall = JumpingClock("time_ns")
    monkeypatch.setattr("fraudgate.assembly.time_ns", wall)
    wall.ahead_ns = 3_500 * SECOND_NS
    async with serve(models, **sections) as server:
        assert (await server.score(request("old"))).replayed
    wall.ahead_ns = 10_000 * SECOND_NS
    async with serve(models, **sections) as server:
        assert not (await server.score(request("old"))).replayed


async def test_memory_is_provided_ahead_for_the_table_of_ids_too(models: Path) -> None:
    """An empty table is falsy: it was left out, and each huge page of it stopped the loop for milliseconds."""
    async with serve(models) as running:
        tables = [ahead.__self__ for ahead in running.service._pager._tables]
        assert tables == [running.service.parts.store.windows, running.service.parts.idempotency]
