"""The service: listens, serves, drains. The only place, with ``assembly``, that names concrete classes."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fraudgate import state
from fraudgate.assembly import Parts, Say, warm_up
from fraudgate.clock import monotonic_ns, time_ns
from fraudgate.control.decoding import Decoding
from fraudgate.control.features import FeatureServicer
from fraudgate.control.inference import InferenceServicer
from fraudgate.control.latency import LatencyServicer
from fraudgate.control.models import ModelServicer
from fraudgate.control.outcomes import OutcomeServicer
from fraudgate.control.patrol import Patrol
from fraudgate.engines.repository import read_version
from fraudgate.frontend import aio, refusals
from fraudgate.frontend.aio_server import check_certificates, listen
from fraudgate.frontend.choice import choose
from fraudgate.inference import grpc_service_pb2, grpc_service_pb2_grpc
from fraudgate.latency.interval_log import IntervalLog, IntervalTask
from fraudgate.latency.stalls import LoopWatch
from fraudgate.latency.witness import Witness
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.ops.http import OpsServer
from fraudgate.ops.tracing import tracer
from fraudgate.paging import Pager
from fraudgate.v1 import (
    features_pb2,
    features_pb2_grpc,
    latency_pb2,
    latency_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    outcomes_pb2,
    outcomes_pb2_grpc,
    scoring_pb2,
)

_log = logging.getLogger(__name__)
Asked = ParamSpec("Asked")
Result = TypeVar("Result")
_CONTROL_MODULES = (features_pb2, grpc_service_pb2, latency_pb2, models_pb2, outcomes_pb2)


class Service:
    """One process: a data plane, a control plane and an ops port over one pipeline, on one event loop."""

    def __init__(self, parts: Parts, say: Say) -> None:
        self.parts = parts
        self._say = say
        config = parts.config
        self._health = health.aio.HealthServicer()
        services = [_service_name(scoring_pb2), health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        check_certificates(config.tls)
        self._front = choose(config.server.frontend, say)(
            config,
            parts.pipeline,
            parts.editions,
            parts.recorder,
            parts.counters,
            self._health,
            [*services, reflection.SERVICE_NAME],
        )
        self.door = self._front.door
        self._patrol = Patrol(parts.fleet, parts.counters, parts.drift)
        self._watch = LoopWatch(
            parts.recorder,
            parts.counters,
            self._idle,
            timeline=parts.timeline,
            runs=parts.overruns.runs,
            progress=parts.overruns.progress,
        )
        self._witness = Witness(parts.timeline, parts.overruns)
        tables = [table for table in (parts.store.windows, parts.idempotency) if table is not None]  # both may be empty
        self._pager = Pager([table.ahead for table in tables])
        self._hlog: IntervalTask | None = None
        self.door.tracer = self._tracer = tracer(config.tracing, parts.editions, parts.counters, say)
        self._ready = False
        self._control = grpc.aio.server(
            interceptors=[Decoding()], options=aio.server_options(config.server.streams_max)
        )
        host, _, port = config.server.ops_address.rpartition(":")
        self._ops = OpsServer(
            parts.recorder,
            parts.counters,
            lambda: self._ready,
            host.strip("[]"),
            int(port),
            drift=parts.drift,
            fleet=parts.fleet,
            calls=self._front.calls,
            ladder=parts.ladder,
            exemplars=parts.exemplars,
            editions=parts.editions,
            rules_version=parts.rules.version,
            budget=parts.budget,
        )
        self.data_port = self.control_port = 0

    def _idle(self) -> bool:
        return self.door.shell.batches_in_flight == 0 and self.door.shell.batcher.rows == 0

    async def start(self) -> None:
        """Listen on all ports and say SERVING. Raises ConfigError when a port cannot be had."""
        config = self.parts.config
        self.door.batch_ns = await warm_up(self.parts)
        self._warn_of_slow_engine()
        self._add_control()
        self.control_port = listen(self._control, config.server.control_address, None)
        await self._control.start()
        self.data_port = await self._front.start()
        self._ops.start()
        self._watch.start()
        self._witness.start()
        self._pager.start()
        self._hlog = self._log_intervals()
        self._patrol.start()
        await self._set_serving(True)
        info = self.parts.engine.info
        proved = "bit-proved on this host" if info.bit_proved else "NOT bit-proved on this host"
        self._say(f"model {info.model} {info.precision} on {info.provider}, {proved}")
        self._say(f"rules {self.parts.rules.version}, {len(self.parts.rules.rules)} rules")
        self._say(
            f"SERVING: grpc {config.server.data_address} (front end: {self._front.name}), control "
            f"{config.server.control_address}, ops http {config.server.ops_address}"
        )

    def _add_control(self) -> None:
        parts, server = self.parts, self._control
        root = Path(parts.config.model.repository)
        snapshot = self._snapshot if parts.config.state.dir else None
        features_pb2_grpc.add_FeatureServiceServicer_to_server(FeatureServicer(parts.store, snapshot), server)
        outcomes_pb2_grpc.add_OutcomeServiceServicer_to_server(OutcomeServicer(parts.store, parts.counters), server)
        latency_pb2_grpc.add_LatencyServiceServicer_to_server(
            LatencyServicer(parts.recorder, drift=parts.drift, fleet=parts.fleet, ladder=parts.ladder), server
        )
        models_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(
                root, parts.fleet, self._opening(parts.engines.check), self._opening(parts.engines.open), monotonic_ns
            ),
            server,
        )
        inference = InferenceServicer(
            root,
            lambda: parts.engine,
            lambda: self._ready,
            lambda info: parts.engines.engine(read_version(parts.engines.path(info.name, info.version))),
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [_service_name(module) for module in _CONTROL_MODULES]
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)

    def _opening(self, act: Callable[Asked, Awaitable[Result]]) -> Callable[Asked, Awaitable[Result]]:
        """The same, and it stands in the timeline: it takes a lot of the processor."""

        async def noted(*asked: Asked.args, **named: Asked.kwargs) -> Result:
            with self.parts.timeline.lasting("engine_opening", monotonic_ns):
                return await act(*asked, **named)

        return noted

    def _log_intervals(self) -> IntervalTask | None:
        """Begin the histogram log, where one is wanted. Raises ConfigError."""
        parts, settings = self.parts, self.parts.config.latency
        directory = settings.hlog_dir or parts.config.log.dir
        if not directory:
            return None
        recorded = (parts.recorder, parts.counters, parts.exemplars, parts.timeline, parts.budget)
        return IntervalTask(
            IntervalLog(Path(directory), *recorded, time_ns(), monotonic_ns()), settings.interval_seconds
        )

    def _warn_of_slow_engine(self) -> None:
        batching = self.parts.config.batching
        backlog_ns = batching.queue_rows_max // BATCH_ROWS_MAX * self.door.batch_ns
        if 0 < batching.budget_ns < backlog_ns:
            self._say(
                f"warning: a full queue takes {backlog_ns / 1e6:.0f} ms at this machine's speed, more than the budget "
                f"of {batching.budget_ns / 1e6:.0f} ms: lower batching.queue_rows_max"
            )

    async def _set_serving(self, serving: bool) -> None:
        self._ready = serving
        status = health_pb2.HealthCheckResponse
        value = status.SERVING if serving else status.NOT_SERVING
        for name in ("", _service_name(scoring_pb2)):
            await self._health.set(name, value)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Returns the exit status."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.start()
        await stop.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave_now)
        return await self.drain()

    def _leave_now(self) -> None:
        """A second signal: say what is left, and go."""
        shell = self.door.shell
        self._say(
            f"second signal: leaving at once with {shell.batcher.rows} transactions queued and "
            f"{shell.batches_in_flight} batches in flight; what changed since the last snapshot is lost"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    async def drain(self) -> int:
        """NOT_SERVING, finish what was admitted, write state and log. 0 when all of it was done in time."""
        settings = self.parts.config.server
        self._say("draining")
        await self._set_serving(False)
        await asyncio.sleep(settings.drain_notice_seconds)
        try:
            await asyncio.wait_for(self._finish(), settings.drain_max_seconds)
        except TimeoutError:
            self._say(f"drain did not finish within {settings.drain_max_seconds:g} s: {self.door.shell.batcher!r}")
            return 1
        self._say("drained")
        return 0

    async def _finish(self) -> None:
        self.door.closed = refusals.DRAINING
        self._front.end_streams()
        await self.door.shell.drain()
        await asyncio.gather(self._front.stop(1.0), self._control.stop(0.5))
        self._watch.stop()
        self._witness.stop()
        self._pager.stop()
        await self._patrol.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._close_state)
        if self._tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracer.close)
        if self._hlog is not None:
            self._say(await self._hlog.stop())
        self.parts.fleet.close()
        self._ops.close()

    async def _snapshot(self) -> state.Written:
        """Write the state while the service runs; the scoring loop stands still for as long as that takes."""
        return await self.door.shell.between_batches(self._write_state)

    def _write_state(self) -> state.Written:
        parts = self.parts
        directory = Path(parts.config.state.dir)
        started_ns = monotonic_ns()
        written = state.write(
            directory, parts.store, parts.idempotency, parts.editions, monotonic_ns, time_ns(), parts.drift
        )
        parts.timeline.note("snapshot", started_ns, monotonic_ns())
        stored = written.stored_decisions
        self._say(f"snapshot written to {directory}: windows, outcomes and {stored:,} stored decisions")
        return written

    def _close_state(self) -> None:
        parts = self.parts
        if parts.config.state.dir:
            self._write_state()
        if parts.log is not None:
            lacking = parts.log.close()
            self._say(f"batch log closed: {parts.log.written:,} batches written, {lacking} lost")


def _service_name(module: Any) -> str:
    (service,) = module.DESCRIPTOR.services_by_name.values()
    name: str = service.full_name
    return name
