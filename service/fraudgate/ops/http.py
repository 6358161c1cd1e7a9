"""The ops HTTP server: the dashboard, metrics, probes, latency and exemplars, on one thread of its own.

What a stranger does to this port never reaches the scoring loop: see ``ops.listener`` for the bounds.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus

import fraudgate
from fraudgate.clock import Clock, monotonic_ns, time_ns
from fraudgate.drift.watch import DriftWatch
from fraudgate.editions import Editions
from fraudgate.engines.fleet import Fleet
from fraudgate.errors import ConfigError
from fraudgate.ladder import Ladder
from fraudgate.latency.budget import Budget
from fraudgate.latency.calls import CallCounts
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.recorder import STAGES, Counters, Recorder
from fraudgate.latency.report import percentile_text
from fraudgate.limits import MILLISECOND_NS
from fraudgate.ops.answers import BUSY, Answer, Query, RateBound, Route, Shared, text
from fraudgate.ops.dashboard import Dashboard, Identity
from fraudgate.ops.listener import CONNECTION_NS_MAX, Listener
from fraudgate.ops.metrics import Metrics

HOST, PORT = "127.0.0.1", 8080
RENDERS_BURST = 10
"""Renders of /metrics and /latency at will; then one a second, and who asks faster gets the last one again: each takes
milliseconds of the interpreter."""
TEXTS_PER_SECOND_MAX = 2


class OpsServer:
    """Serves one recorder and its counters from a background thread.

    ``ready`` is called on that thread; true while the service takes calls. Port 0 takes a free one, see ``port``.
    """

    def __init__(
        self,
        recorder: Recorder,
        counters: Counters,
        ready: Callable[[], bool],
        host: str = HOST,
        port: int = PORT,
        *,
        drift: DriftWatch | None = None,
        fleet: Fleet | None = None,
        calls: CallCounts | None = None,
        ladder: Ladder | None = None,
        exemplars: Exemplars | None = None,
        editions: Editions | None = None,
        rules_version: str = "",
        budget: Budget | None = None,
        clock: Clock = monotonic_ns,
        connection_ns_max: int = CONNECTION_NS_MAX,
    ) -> None:
        """Takes the port at once; raises ConfigError when it cannot be had."""
        self._recorder, self._exemplars, self._ready, self._clock = recorder, exemplars, ready, clock
        python = ".".join(map(str, sys.version_info[:3]))
        info = {"version": fraudgate.__version__, "python": python}
        self._texts = RateBound(TEXTS_PER_SECOND_MAX, RENDERS_BURST)
        self._metrics = Metrics(recorder, counters, info, drift, fleet, calls, ladder, clock)
        self._dashboard = Dashboard(
            recorder,
            counters,
            ready,
            Identity(
                fraudgate.__version__,
                rules_version,
                recorder.budget_ns,
                time_ns() // MILLISECOND_NS,
                budget.allowed_ns if budget is not None else {},
            ),
            clock,
            time_ns,
            drift=drift,
            fleet=fleet,
            ladder=ladder,
            editions=editions,
        )
        try:
            self._listener = Listener(host, port, self._routes(), self._dashboard.tick, connection_ns_max)
        except OSError as error:
            raise ConfigError(f"ops HTTP cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port = self._listener.port

    def start(self) -> None:
        self._listener.start()

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._listener.close()

    def _routes(self) -> dict[str, Route]:
        return {
            **self._dashboard.routes(),
            "/metrics": Shared(self._metrics.render, self._clock, RENDERS_BURST),
            "/livez": lambda _: text("ok\n"),
            "/readyz": self._serve_ready,
            "/latency": Shared(self._latency, self._clock, RENDERS_BURST),
            "/latency.hgrm": self._serve_percentiles,
            "/exemplars": Shared(self._slowest, self._clock, RENDERS_BURST),
        }

    def _serve_ready(self, _query: Query) -> Answer:
        return text("ok\n") if self._ready() else text("not serving\n", HTTPStatus.SERVICE_UNAVAILABLE)

    def _latency(self) -> tuple[str, bytes]:
        report = self._recorder.report(self._clock()).as_json()
        return "application/json", json.dumps(report).encode() + b"\n"

    def _serve_percentiles(self, query: Query) -> Answer:
        stage = query.get("stage", ["total"])[-1]
        if stage not in STAGES:
            return text(f"no such stage; there are {', '.join(STAGES)}\n", HTTPStatus.NOT_FOUND)
        if not self._texts.take(self._clock()):
            return BUSY
        return text(percentile_text(self._recorder.since_reset()[stage]))

    def _slowest(self) -> tuple[str, bytes]:
        """The slowest decisions of the last 10 to 20 s, with what happened meanwhile; stamps are monotonic."""
        recent = self._exemplars.recent(self._clock()) if self._exemplars else []
        form = [asdict(one) | {"events": [event._asdict() for event in one.events]} for one in recent]
        return "application/json", json.dumps(form).encode() + b"\n"
