"""A server's histogram log: what it holds after a drain, and that the books balance, on both front ends."""

from pathlib import Path

import pytest

from fraudgate.errors import ConfigError
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.run import Run
from fraudgate.limits import BUDGET_NS
from tests.integration.server import request, serve, transaction

pytestmark = pytest.mark.usefixtures("frontend")

ROWS = 200


async def test_a_log_tells_the_whole_of_every_decision_and_the_books_balance(models: Path, tmp_path: Path) -> None:
    async with serve(models, latency={"hlog_dir": str(tmp_path), "interval_seconds": 0.05}) as server:
        await server.score_rows([transaction(f"row {i}", amount_minor=-1 if i == 9 else 1) for i in range(ROWS)])
        for number in range(20):
            await server.score(request(f"alone {number}"))
        await server.score(request("row 0", amount_minor=1))  # a replay is no decision
        parts = server.service.parts
        recent = parts.exemplars.recent(parts.exemplars.recent(0)[0].arrival_ns)
    (path,) = tmp_path.glob("*.hlog")
    assert f"latency written to {path}" in server.lines
    run = Run.load([path])
    values = run.merged.distributions
    decided = ROWS - 1 + 20
    assert {name: values[name].count for name in ("total", "whole", "respond")} == dict.fromkeys(
        ("total", "whole", "respond"), decided
    )
    assert run.mismatches <= decided // 1_000
    assert sums_differ_ns(values) <= decided * 50_000 + values["whole"].sum_ns / 1_000
    assert sum(run.decisions.values()) == decided
    assert run.refusals == {"invalid": 1}
    assert run.merged.intervals > len(values), "there is more than one interval"
    assert sum(rows * count for rows, count in enumerate(run.batch_rows)) == decided
    assert run.cpu_seconds > 0
    assert len(run.exemplars) == len(recent) == 100
    assert run.exemplars[0].stages_ns["total"] <= values["total"].max_ns
    assert run.exemplars[0].engine == parts.engine.info.model
    assert {one.decision_id for one in run.exemplars} == {one.decision_id for one in recent}


def sums_differ_ns(values: dict[str, Distribution]) -> float:
    """Over all decisions: the sum of the stages against the whole."""
    stages = ("queue", "features", "inference", "guardrails", "respond")
    return abs(sum(values[stage].sum_ns for stage in stages) - values["whole"].sum_ns)


async def test_what_was_spent_of_the_budget_is_recorded(models: Path, tmp_path: Path) -> None:
    batching = {"budget_ns": BUDGET_NS * 20}
    async with serve(models, latency={"hlog_dir": str(tmp_path)}, batching=batching) as server:
        await server.score_rows([transaction(f"row {i}") for i in range(ROWS)])
    (path,) = tmp_path.glob("*.hlog")
    spent = Run.load([path]).merged.distributions["budget_spent"]
    assert spent.count == ROWS
    assert 0 < spent.max_ns <= 1_000


async def test_a_server_does_not_start_with_a_budget_that_does_not_fit(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text('[stages]\nqueue="49ms"\nfeatures="1ms"\ninference="1ms"\nguardrails="1ms"\nrespond="1ms"\n')
    with pytest.raises(ConfigError, match=r"budget.toml: the stages do not fit: together 53 ms of a budget of 50 ms"):
        async with serve(models, budget={"file": str(path)}, batching={"budget_ns": BUDGET_NS}):
            pass
