"""The demo from end to end: prepare, probe, load, replay, judge.

probe server   empty store, simulated traffic, closed loop   -> what the front end carries
main server    history loaded, the week, open loop at half   -> answers, batch log -> the verdict
"""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import grpc
import numpy as np
import uvloop

from fraudgate import wheel
from fraudgate.demo import data
from fraudgate.demo.data import Traffic
from fraudgate.demo.judge import (
    Decisions,
    Mismatches,
    count_mismatches,
    measure_quality,
    percentiles_ms,
    read_decisions,
    read_gathered,
    shortfalls,
)
from fraudgate.demo.material import Material, model_repository, prepare
from fraudgate.demo.replay import (
    LATENCY_REPORT,
    REPORT_OUTCOME,
    SCORE,
    Replay,
    ReplayLog,
    arrival_offsets,
    closed_loop_rate,
    raw_call,
    report_all,
)
from fraudgate.demo.server import Ports, Server, free_ports, serve_command, to_toml, while_alive
from fraudgate.demo.summary import Rates, Result, read_published
from fraudgate.errors import FraudgateError
from fraudgate.features.schema import FeatureSchema
from fraudgate.progress import Progress
from fraudgate.scheduling import prefer_batches
from fraudgate.simulator import simulate
from fraudgate.v1.latency_pb2 import GetLatencyReportResponse, StageLatency

PROBE_SEED = 4_711
PROBE_DAYS = 7
PROBE_IN_FLIGHT = 128
PROBE_WARM_UP_SECONDS = 1.0
PROBE_SECONDS = 4.0
LOAD_SHARE = 0.5
"""The replay's rate as a share of what the front end carries."""
SERVER_STAGES = ("respond", "loop_stall", "gc_pause")
"""Stages that only the server's recorder knows."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: str | None  # a folder, "simulated", or None: look for it
    frontend: str
    rate: float | None
    rows: int | None
    work: Path  # an empty folder for history, configuration and batch log
    say: Callable[[str], None]

    @property
    def frontend_used(self) -> str:
        """What ``auto`` stands for."""
        if self.frontend != "auto":
            return self.frontend
        return "native" if wheel.INSTALLED else "aio"


@dataclass(frozen=True)
class Measured:
    """What the main server's life was like."""

    log: ReplayLog
    server_ms: dict[str, dict[str, float]]
    resident_mib: float | None
    cpu_us_per_decision: float | None
    late_outcomes: int


def run_demo(options: Options) -> Result:
    """The whole demo. Raises FraudgateError when it cannot be carried through; a shortfall is no error."""
    started = monotonic()
    prefer_batches()
    material = prepare(options.data, options.rows, options.say)
    history = options.work / "history.parquet"
    data.write_history(material.traffic, history)
    # One event loop for both: grpc.aio keeps polling for an earlier one, at the cost of the later one's tail.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        probe = None if options.rate else probe_rate(options, material.model, runner)
        target = options.rate or LOAD_SHARE * (probe or 0.0)
        measured = replay_week(options, material, history, target, runner)
    options.say("judging ...")
    return judge(options, material, measured, Rates(probe, target, measured.log.rate), started)


def probe_rate(options: Options, model: str, runner: asyncio.Runner) -> float:
    """Decisions a second that the front end carries, or this client: closed loop on a server of its own."""
    requests = data.score_requests(data.rows_of(simulate(PROBE_SEED, 5_000, 10_000, PROBE_DAYS)))
    options.say(f"probing what the {options.frontend_used} front end carries, {PROBE_IN_FLIGHT} in flight ...")
    with _server(options, "probe", model, None) as server:

        async def work() -> float:
            await server.serving()
            async with grpc.aio.insecure_channel(server.target) as channel:
                return await closed_loop_rate(
                    raw_call(channel, SCORE), requests, PROBE_IN_FLIGHT, PROBE_WARM_UP_SECONDS, PROBE_SECONDS
                )

        rate = runner.run(while_alive(server, work()))
    options.say(f"it carries {rate:,.0f} decisions/s from one client in Python")
    return rate


def replay_week(options: Options, material: Material, history: Path, rate: float, runner: asyncio.Runner) -> Measured:
    """Start the main server on the history, replay the week, report its frauds, and stop the server."""
    traffic = material.traffic
    options.say(f"starting the server on {traffic.history_rows:,} transactions of history")
    with _server(options, "main", material.model, history) as server:
        measured = runner.run(while_alive(server, _replay(options, traffic, server, rate)))
        if status := server.stop():
            raise FraudgateError(f"the server did not drain in order: exit status {status}")
    return measured


async def _replay(options: Options, traffic: Traffic, server: Server, rate: float) -> Measured:
    seconds = await server.serving()
    resident = server.resident_bytes()
    memory = f", {resident >> 20} MiB resident" if resident else ""
    options.say(f"serving after {seconds:.1f} s{memory}; replaying {len(traffic.week):,} at {rate:,.0f}/s")
    offsets_ns = arrival_offsets(len(traffic.week), rate, poisson=True)
    async with (
        grpc.aio.insecure_channel(server.target) as scoring,
        grpc.aio.insecure_channel(server.control) as control,
    ):
        await asyncio.gather(scoring.channel_ready(), control.channel_ready())
        report = raw_call(control, REPORT_OUTCOME)
        with Progress("replaying", len(traffic.week), "transactions") as progress, _QuietHeap():
            cpu = server.cpu_seconds()
            log = await Replay(raw_call(scoring, SCORE), report, traffic, offsets_ns, progress).run()
            used = None if cpu is None else (server.cpu_seconds() or cpu) - cpu
            progress.reach(len(traffic.week))
        late = await report_all(report, traffic.late_outcomes, log.refusals)
        latency = GetLatencyReportResponse.FromString(await raw_call(control, LATENCY_REPORT)(b""))
    return Measured(
        log=log,
        server_ms={stage.stage: _stage_ms(stage) for stage in latency.stages if stage.stage in SERVER_STAGES},
        resident_mib=None if resident is None else round(resident / (1 << 20), 1),
        cpu_us_per_decision=None if used is None else round(used * 1e6 / len(traffic.week), 1),
        late_outcomes=late,
    )


def judge(options: Options, material: Material, measured: Measured, rates: Rates, started: float) -> Result:
    """Everything that is computed after the servers are gone."""
    traffic, log = material.traffic, measured.log
    decisions = read_decisions(log.responses, traffic.week.transaction_id)
    mismatches = _mismatches(options, material)
    quality = None if options.rows else measure_quality(traffic, decisions.score)
    latency_ms = percentiles_ms(log.latency_ns)
    lost = log.lost + decisions.misnamed + int(((decisions.decision == 0) & (log.answered_ns > 0)).sum())
    return Result(
        data=traffic.name,
        title=material.title,
        frontend=options.frontend_used,
        model=", ".join(decisions.models),
        precision=decisions.precision,
        transactions=len(traffic.week) - lost,
        history_rows=traffic.history_rows,
        decisions=decisions.by_kind(),
        fallbacks=decisions.by_fallback(),
        quality=quality,
        floors=material.floors,
        published=read_published(material.benchmark) if material.benchmark else [],
        latency_ms=latency_ms,
        lateness_ms=percentiles_ms(log.lateness_ns),
        stages_ms={name: percentiles_ms(values) for name, values in decisions.stages_ns.items()},
        server_ms=measured.server_ms,
        rates=rates,
        batch_rows_mean=_rows_per_batch(decisions),
        mismatches=mismatches,
        compared_with=material.compared_with,
        lost=lost,
        held=log.held,
        outcome_waits=log.outcome_waits,
        outcomes=log.outcomes_acknowledged,
        late_outcomes=measured.late_outcomes,
        refusals=dict(log.refusals),
        resident_mib=measured.resident_mib,
        cpu_us_per_decision=measured.cpu_us_per_decision,
        seconds=monotonic() - started,
        shortfalls=shortfalls(latency_ms, lost, mismatches, quality, material.floors),
        intended_ns=log.intended_ns,
        client_ns=log.latency_ns,
        server_ns=decisions.stages_ns["total"],
    )


def _mismatches(options: Options, material: Material) -> Mismatches:
    names = FeatureSchema.named("handbook").names
    ids, values = read_gathered(options.work / "log", len(names))
    return count_mismatches(names, material.traffic.week, ids, values, material.expected, material.excused)


def _rows_per_batch(decisions: Decisions) -> float:
    # A batch of n rows is counted n times: the mean over batches is the harmonic one over rows.
    return float(len(decisions.batch_rows) / np.sum(1 / np.maximum(decisions.batch_rows, 1)))


def _stage_ms(stage: StageLatency) -> dict[str, float]:
    return {name: round(getattr(stage, f"{name}_ns") / 1e6, 3) for name in ("p50", "p90", "p99", "p999", "max")}


def _server(options: Options, name: str, model: str, history: Path | None) -> Server:
    ports = free_ports()
    path = options.work / f"{name}.toml"
    path.write_text(_configuration(options, name, model, history, ports), encoding="utf-8")
    return Server(name, serve_command(path, options.frontend), ports, lambda line: options.say(f"  {name} | {line}"))


def _configuration(options: Options, name: str, model: str, history: Path | None, ports: Ports) -> str:
    return to_toml(
        {
            "server": {
                "data_address": f"127.0.0.1:{ports.data}",
                "control_address": f"127.0.0.1:{ports.control}",
                "ops_address": f"127.0.0.1:{ports.ops}",
            },
            "model": {"repository": str(model_repository()), "name": model},
            "features": {"history": str(history or "")},
            "log": {"dir": str(options.work / "log") if history else ""},
        }
    )


class _QuietHeap:
    """No garbage collection in the client while it measures: a pause here would be booked on the server."""

    def __enter__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()
