"""The ops HTTP server: /metrics, /livez, /readyz, /latency, /latency.hgrm and /exemplars, on threads of its own.

GET only, one request per connection, a bounded number of connections, each of bounded length: what a stranger does to
this port never reaches the scoring loop.
"""

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import fraudgate
from fraudgate.clock import Clock, monotonic_ns
from fraudgate.drift.watch import DriftWatch
from fraudgate.engines.fleet import Fleet
from fraudgate.errors import ConfigError
from fraudgate.ladder import Ladder
from fraudgate.latency.calls import Calls
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.recorder import STAGES, Counters, Recorder
from fraudgate.latency.report import percentile_text
from fraudgate.limits import SECOND_NS
from fraudgate.ops.metrics import Metrics

HOST, PORT = "127.0.0.1", 8080
CONNECTIONS_MAX = 8
CONNECTION_NS_MAX = 10 * SECOND_NS
_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a route gives back."""

    status: HTTPStatus
    content_type: str
    body: bytes


Query = dict[str, list[str]]
Route = Callable[[Query], Answer]


def text(body: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, _TEXT, body.encode())


class OpsServer:
    """Serves one recorder and its counters from background threads.

    ``ready`` is called on those threads; true while the service takes calls. So is ``model``, which names what is live.
    Port 0 takes a free one, see ``port``.
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
        calls: Calls | None = None,
        ladder: Ladder | None = None,
        exemplars: Exemplars | None = None,
        clock: Clock = monotonic_ns,
        connection_ns_max: int = CONNECTION_NS_MAX,
    ) -> None:
        """Takes the port at once; raises ConfigError when it cannot be had."""
        self._recorder, self._exemplars, self._ready, self._clock = recorder, exemplars, ready, clock
        python = ".".join(map(str, sys.version_info[:3]))
        info = {"version": fraudgate.__version__, "python": python}
        self._metrics = Metrics(recorder, counters, info, drift, fleet, calls, ladder, clock)
        try:
            self._server = _Server((host, port), self._routes(), connection_ns_max)
        except OSError as error:
            raise ConfigError(f"ops HTTP cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="ops", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening; open connections end by themselves."""
        if self._thread.is_alive():
            stopping = threading.Thread(target=self._server.shutdown)
            stopping.start()
            with suppress(OSError), socket.create_connection((str(self._server.server_address[0]), self.port), _POLL_S):
                stopping.join()  # the connection wakes the server, which else sees the wish at its next poll
            self._thread.join()
        self._server.server_close()

    def _routes(self) -> dict[str, Route]:
        return {
            "/metrics": self._serve_metrics,
            "/livez": lambda _: text("ok\n"),
            "/readyz": self._serve_ready,
            "/latency": self._serve_latency,
            "/latency.hgrm": self._serve_percentiles,
            "/exemplars": self._serve_exemplars,
        }

    def _serve_metrics(self, _query: Query) -> Answer:
        return Answer(HTTPStatus.OK, *self._metrics.render())

    def _serve_ready(self, _query: Query) -> Answer:
        return text("ok\n") if self._ready() else text("not serving\n", HTTPStatus.SERVICE_UNAVAILABLE)

    def _serve_latency(self, _query: Query) -> Answer:
        report = self._recorder.report(self._clock()).as_json()
        return Answer(HTTPStatus.OK, "application/json", json.dumps(report).encode() + b"\n")

    def _serve_percentiles(self, query: Query) -> Answer:
        stage = query.get("stage", ["total"])[-1]
        if stage not in STAGES:
            return text(f"no such stage; there are {', '.join(STAGES)}\n", HTTPStatus.NOT_FOUND)
        return text(percentile_text(self._recorder.since_reset()[stage]))

    def _serve_exemplars(self, _query: Query) -> Answer:
        """The slowest decisions of the last 10 to 20 s, with what happened meanwhile; stamps are monotonic."""
        recent = self._exemplars.recent(self._clock()) if self._exemplars else []
        form = [asdict(one) | {"events": [event._asdict() for event in one.events]} for one in recent]
        return Answer(HTTPStatus.OK, "application/json", json.dumps(form).encode() + b"\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], routes: dict[str, Route], connection_ns_max: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.routes = routes
        self._connection_ns_max = connection_ns_max
        self._opened_ns: dict[socket.socket, int] = {}
        self._slots = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the host's name, which can take seconds."""
        super(HTTPServer, self).server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            _refuse_busy(request)
            self.shutdown_request(request)
            return
        self._opened_ns[request] = monotonic_ns()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._opened_ns.pop(request, None)
            self._slots.release()

    def service_actions(self) -> None:
        """Between polls: cut off connections that have lasted too long, however busily they trickle."""
        oldest_ns = monotonic_ns() - self._connection_ns_max
        for request, opened_ns in list(self._opened_ns.items()):
            if opened_ns < oldest_ns:
                _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("ops connection from %s ended early", client_address, exc_info=True)


def _refuse_busy(request: socket.socket) -> None:
    try:
        request.setblocking(False)
        request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nbusy\n")
    except OSError:
        logger.debug("a client left before it could be told to come back")


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("a connection to cut had gone already")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "fraudgate", ""
    timeout = CONNECTION_NS_MAX / SECOND_NS

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # every method but GET
            return self._refuse_method
        raise AttributeError(name)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        route = self.server.routes.get(url.path, _not_found)
        try:
            answer = route(parse_qs(url.query))
        except Exception:  # the ops side must not lose its thread's answer to a bug of ours
            logger.exception("ops route %s failed", url.path)
            answer = text("internal error\n", HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(answer)

    def _refuse_method(self) -> None:
        self._send(text("GET only\n", HTTPStatus.METHOD_NOT_ALLOWED), ("Allow", "GET"))

    def _send(self, answer: Answer, *headers: tuple[str, str]) -> None:
        self.send_response(answer.status)
        length = ("Content-Length", str(len(answer.body)))
        for name, value in (("Content-Type", answer.content_type), length, ("Cache-Control", "no-store"), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _not_found(_query: Query) -> Answer:
    return text("not here; try /metrics /livez /readyz /latency /latency.hgrm /exemplars\n", HTTPStatus.NOT_FOUND)
