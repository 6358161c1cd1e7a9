"""No log line holds what callers sent: ids, amounts, attributes, whatever goes wrong."""

import asyncio
import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fraudgate.ops import logs
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import Client, FailingEngine, request, serve, serve_child, transaction

SECRETS = ("Zsecret", "987650", "XQZ")
"""Parts of every id, amount and currency that is sent here."""


def payments(run: str) -> list[pb.ScoreRequest]:
    """Good ones and every kind of bad one."""
    ids = {
        name: f"Zsecret-{name}" for name in ("customer_id", "terminal_id", "card_id", "merchant_id", "device_id")
    } | {"ip_address": "Zsecret::1"}
    good = [request(f"Zsecret-{run}-{n}", amount_minor=987_650_000 + n, **ids) for n in range(40)]
    bad: list[dict[str, Any]] = [
        {"amount_minor": -987_650_001},
        {"currency": "XQZ"},
        {"customer_id": "Zsecret" * 20},
        {"attributes": {"Zsecret": float("nan")}},
        {"attributes": {f"Zsecret-{n}": 987_650.5 for n in range(70)}},
        {"event_time": None},
    ]
    conflict = request(f"Zsecret-{run}-0", amount_minor=987_650_999, **ids)
    return [*good, *(request(f"Zsecret-{run}-bad-{n}", **{**ids, **fields}) for n, fields in enumerate(bad)), conflict]


async def send_everything(client: Client, run: str) -> set[grpc.StatusCode]:
    """Traffic of all three methods, with cut messages, deadlines and callers that go. The codes of Score()."""
    bodies = payments(run)
    ends = await client.score_all(bodies)
    ends.append(await client.score(b"\x0a\x12Zsecret" + b"\xff" * 9))
    ends.append(await client.score(bodies[0].SerializeToString()[:-3]))
    ends.append(await client.score(request(f"Zsecret-{run}-late"), timeout=0.0005))
    rows = [transaction(f"Zsecret-{run}-row-{n}", amount_minor=987_650_000 - 2_000_000_000 * (n % 2)) for n in range(8)]
    await client.score_batch(pb.ScoreBatchRequest(transactions=rows))
    await client.stream_all([*(request(f"Zsecret-{run}-{n}") for n in range(3)), b"\x0a\x12Zsecret"])
    gone = client.start_score(request(f"Zsecret-{run}-gone"))
    gone.cancel()
    return {end.code for end in ends}


def assert_keeps_secrets(text: str) -> None:
    leaks = [line for line in text.splitlines() if any(secret in line for secret in SECRETS)]
    assert not leaks, leaks[:3]


@pytest.mark.parametrize("format", ["text", "json"])
async def test_a_busy_server_logs_nothing_of_its_callers(
    format: str, models: Path, tmp_path: Path, frontend: str
) -> None:
    sections = {"logging": {"format": format, "level": "debug"}, "log": {"dir": str(tmp_path / "log")}}
    async with serve_child(tmp_path, models, **sections) as child:
        codes = await send_everything(child, "child")
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS} <= codes
    text = "\n".join(child.lines)
    assert_keeps_secrets(text)
    if format == "json":
        said = [json.loads(line) for line in child.lines]
        assert any(line["message"].startswith("SERVING: ") for line in said)
        assert said[-1]["message"] == "drained"
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in said)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a server of this process would write to standard error."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Json())
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


class Talkative:
    """Stands for a part of the pipeline, and says in its exceptions what it was given."""

    def __init__(self, inner: Any, *names: str) -> None:
        self._inner, self._names = inner, names

    def __getattr__(self, name: str) -> Any:
        return self._raise if name in self._names else getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def _raise(self, columns: Any, *args: Any, **named: Any) -> Any:
        raise KeyError(f"{columns.transaction_id} {columns.amount_minor.tolist()}")


async def test_exceptions_with_transactions_in_them_are_told_without(
    models: Path, frontend: str, written: io.StringIO
) -> None:
    asyncio.get_running_loop().set_exception_handler(logs.report)
    async with serve(models, ladder={"enabled": False}) as server:
        pipeline: Any = server.service.parts.pipeline
        whole = pipeline.store, pipeline._validator, pipeline._drift
        pipeline.store = Talkative(pipeline.store, "apply_and_gather")
        assert grpc.StatusCode.INTERNAL in await send_everything(server, "store")
        pipeline.store = whole[0]
        pipeline._validator = Talkative(whole[1], "problems")
        assert await send_everything(server, "validator") <= {
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }
        pipeline._validator = whole[1]
        pipeline.live = dataclasses.replace(
            pipeline.live, inference=FailingEngine(RuntimeError("row of Zsecret, 987650000"))
        )
        assert grpc.StatusCode.OK in await send_everything(server, "deciding")
    text = written.getvalue()
    for message in ("the store refused a batch of", "a batch of", "rules decide a batch of"):
        assert message in text
    assert logs.WITHHELD in text
    assert_keeps_secrets(text)
