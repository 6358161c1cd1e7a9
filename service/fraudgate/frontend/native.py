"""The native front end: ScoringService in Rust, on threads of its own that never take the interpreter lock. They
accept, decode, admit, batch and answer, and ring when a batch is ready. No Python runs per request.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpc_health.v1 import health

from fraudgate import wheel
from fraudgate.clock import monotonic_ns
from fraudgate.config import Config
from fraudgate.editions import Editions
from fraudgate.errors import ConfigError, address_taken
from fraudgate.frontend import callers, refusals
from fraudgate.frontend.native_door import NativeDoor, wire
from fraudgate.frontend.side import SideDoor
from fraudgate.latency.calls import NativeCalls
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import (
    BATCH_ROWS_MAX,
    BUDGET_NS,
    IO_THREADS_MAX,
    MESSAGE_BYTES_MAX,
    SCORE_BATCH_ROWS_MAX,
    SECOND_NS,
    STREAM_UNANSWERED_MAX,
)
from fraudgate.pipeline import Pipeline
from fraudgate.transaction import ANSWER_DTYPE, Int64


class NativeFrontend:
    """The data plane in Rust: see ``frontend.aio.AioFrontend`` for the reference."""

    name = "native"

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        editions: Editions,
        recorder: Recorder,
        counters: Counters,
        health_servicer: health.aio.HealthServicer,
        services: list[str],
    ) -> None:
        """Bind the address. Raises ConfigError."""
        crate = wheel.module()
        crate.check_answer_layout(ANSWER_DTYPE.itemsize, answer_layout())
        try:
            self._native: Any = crate.Ingress(settings(config), refusal_table(), recorded(recorder.cells))
        except OSError as error:
            raise address_taken(config.server.data_address, error) from error
        except ValueError as error:
            raise ConfigError(f"[tls]: {error}") from error
        self.door = NativeDoor(self._native, pipeline, editions, counters, monotonic_ns, config.batching.policy)
        self._side = SideDoor(self._native, health_servicer, services)
        self._loop = asyncio.get_running_loop()
        self.calls = NativeCalls(self._native.calls)
        counters.add_source(self._native.counts)
        counters.levels = self._levels

    def _levels(self) -> Mapping[str, float]:
        return {
            "fraudgate_queue_rows": self._native.rows,
            "fraudgate_predicted_wait_seconds": self._native.wait_ns / SECOND_NS,
        }

    async def start(self) -> int:
        """Start to accept. Returns the port."""
        self._loop.add_reader(self._native.fileno(), self._rung)
        self.door.shell.wake()
        self._native.start()
        port: int = self._native.port
        return port

    def _rung(self) -> None:
        self._native.quiet()
        self.door.shell.wake()
        self._side.hear()

    def end_streams(self) -> None:
        """Read no stream any further: each finishes what was read and ends UNAVAILABLE."""
        self._native.end_streams()

    async def stop(self, patience_seconds: float) -> None:
        """Close the port, say GOAWAY, give open calls that long and end."""
        await self._loop.run_in_executor(None, self._native.stop, patience_seconds)
        self._loop.remove_reader(self._native.fileno())


def settings(config: Config, echo: bytes | None = None) -> Mapping[str, Any]:
    """What the crate is configured with. ``echo``: answer with these bytes and do nothing else."""
    batching, ingress = config.batching, config.ingress
    known = callers.known(config)
    bounds = callers.bounds(config, known)
    return {
        "address": config.server.data_address.replace("localhost:", "127.0.0.1:"),
        "threads": ingress.threads or min(max(len(os.sched_getaffinity(0)) - 1, 1), IO_THREADS_MAX),
        "gate_ns": batching.gate_ns,
        "batch_rows_max": BATCH_ROWS_MAX,
        "queue_rows_max": batching.queue_rows_max,
        "eager": batching.policy == "eager",
        "budget_ns": batching.budget_ns,
        "allowances_ns": bounds.allowances_ns,
        "active_ns": bounds.active_ns,
        "callers": [each._asdict() for each in known],
        "callers_required": config.admission.callers_required,
        "refusals_per_second_max": config.admission.refusals_per_second_max,
        "late_ns": batching.budget_ns or BUDGET_NS,
        "message_bytes_max": MESSAGE_BYTES_MAX,
        "score_batch_rows_max": SCORE_BATCH_ROWS_MAX,
        "stream_unanswered_max": STREAM_UNANSWERED_MAX,
        "streams_max": config.server.streams_max,
        "connections_max": ingress.connections_max,
        "header_list_bytes_max": ingress.header_list_bytes_max,
        "reset_streams_max": ingress.reset_streams_max,
        "handshake_ns_max": int(ingress.handshake_seconds_max * SECOND_NS),
        "message_ns_max": int(ingress.message_seconds_max * SECOND_NS),
        "keepalive_ns": int(ingress.keepalive_seconds * SECOND_NS),
        "keepalive_ns_max": int(ingress.keepalive_seconds_max * SECOND_NS),
        "write_stall_ns_max": int(ingress.write_stall_seconds_max * SECOND_NS),
        "tls": _tls(config),
        "traced": bool(config.tracing.endpoint),
        "echo": echo,
    }


def _tls(config: Config) -> Mapping[str, bytes | None] | None:
    tls = config.tls
    if not tls.cert:
        return None
    return {
        "cert": Path(tls.cert).read_bytes(),
        "key": Path(tls.key).read_bytes(),
        "client_ca": Path(tls.client_ca).read_bytes() if tls.client_ca else None,
    }


def refusal_table() -> Mapping[str, Any]:
    """The statuses that the native door gives by itself; under ``delayed`` those with RetryInfo, by reason and step."""
    table = {
        "deadline": refusals.DEADLINE,
        "draining": refusals.DRAINING,
        "internal": refusals.INTERNAL,
        "undecodable": refusals.UNDECODABLE,
        "missing": refusals.MISSING,
        "rows": refusals.ROWS,
        "unauthenticated": refusals.UNAUTHENTICATED,
        "not_allowed": refusals.NOT_ALLOWED,
    }
    delayed = {reason: [wire(each) for each in refusals.all_delayed(reason)] for reason in refusals.WORDS}
    return {
        **{name: wire(refusal) for name, refusal in table.items()},
        "retry_steps_ns": refusals.RETRY_STEPS_NS,
        "delayed": delayed,
    }


def recorded(cells: Callable[[str], Int64]) -> Mapping[str, Int64]:
    """The recording arrays that the native side counts into when answers and refusals leave; ``cells``: of a stage."""
    return {name: cells(name) for name in ("respond", "whole", "budget_spent", "refuse")}


def answer_layout() -> Mapping[str, tuple[str, int]]:
    """(NumPy type, offset) of each field of an answer row."""
    fields: Mapping[str, Any] = ANSWER_DTYPE.fields or {}
    return {name: (field[0].str, field[1]) for name, field in fields.items()}
