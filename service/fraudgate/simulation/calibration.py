"""What a stage costs on this machine: a whole pipeline with the configured engine, timed from stamp to stamp."""

import asyncio
from time import monotonic_ns
from typing import Any

import numpy as np

from fraudgate.assembly import Parts, assemble
from fraudgate.config import Config
from fraudgate.frontend.codec import Renderer, request_batch, request_columns
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.simulation.costs import Cost, Costs
from fraudgate.simulation.traffic import FIRST_EVENT_SECONDS
from fraudgate.transaction import Float64
from fraudgate.v1.scoring_pb2 import Transaction

ROUNDS = 400
FEW_ROWS = 4
"""The small batch; the other one is full, and a line goes through both."""


def calibrate(config: Config) -> Costs:
    """Measure for a second or so. Raises FraudgateError where the service cannot be put together."""
    parts = assemble(config, lambda _line: None)
    few, full = (asyncio.run(_timed(parts, rows)) for rows in (FEW_ROWS, BATCH_ROWS_MAX))
    logs = np.log(np.percentile(full.sum(axis=1), (16, 84)))
    lines = [line_through(*pair) for pair in zip(np.median(few, axis=0), np.median(full, axis=0), strict=True)]
    return Costs(lines[0], lines[1], lines[2], lines[3], float(logs[1] - logs[0]) / 2)


def as_json(costs: Costs) -> dict[str, Any]:
    """Plain dicts and numbers, rounded to nanoseconds."""
    pairs = costs._asdict().items()
    return {
        name: {field: round(ns) for field, ns in cost._asdict().items()} if isinstance(cost, Cost) else round(cost, 3)
        for name, cost in pairs
    }


def render(costs: Costs) -> list[str]:
    """The costs for a terminal."""
    stages = ("features", "engine", "guardrails", "respond")
    lines = [
        f"{name:10} {getattr(costs, name).batch_ns:>9,.0f} ns a batch, {getattr(costs, name).row_ns:>7,.0f} ns a row"
        for name in stages
    ]
    return [*lines, f"spread {costs.spread:.2f}, {costs.admit_ns:,} ns a call at the door (assumed)"]


def line_through(few_ns: float, full_ns: float) -> Cost:
    row_ns = max((full_ns - few_ns) / (BATCH_ROWS_MAX - FEW_ROWS), 0.0)
    return Cost(max(full_ns - row_ns * BATCH_ROWS_MAX, 0.0), row_ns)


async def _timed(parts: Parts, rows: int) -> Float64:
    """Nanoseconds of each stage in each round: float64[rounds, 4]."""
    renderer, took_ns = Renderer(parts.editions), np.empty((ROUNDS, 4))
    for number in range(ROUNDS):
        made = [_transaction(rows, number, row) for row in range(rows)]
        started_ns = monotonic_ns()
        columns = request_columns(made, [started_ns] * rows, [0] * rows)
        answers = await parts.pipeline.score(request_batch(columns), columns=columns)
        renderer.render(answers, columns.transaction_id)
        stamps = (started_ns, *(int(answers[name][0]) for name in ("gathered_ns", "inferred_ns", "answered_ns")))
        took_ns[number] = np.diff((*stamps, monotonic_ns()))
    return took_ns[ROUNDS // 4 :]  # the first ones warm up


def _transaction(rows: int, number: int, row: int) -> Transaction:
    made = Transaction(
        transaction_id=f"{rows}-{number}-{row}",
        amount_minor=100 + row,
        currency="EUR",
        customer_id=f"c{number * 7919 % 5_000}-{row}",
        terminal_id=f"t{number * 104_729 % 10_000}-{row}",
    )
    made.event_time.seconds = FIRST_EVENT_SECONDS + number
    return made
