"""The ops port's sockets: one thread, no socket ever waits, everything bounded.

GET only, one request per connection. However many watch or scrape, and whatever strangers send, this is one thread
that works in short passes with a pause after each, and takes few connections a pass: the rest waits in the kernel,
where it costs the scoring loop nothing.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus

from fraudgate.clock import monotonic_ns
from fraudgate.limits import SECOND_NS
from fraudgate.ops.answers import BUSY, HEAD_BYTES_MAX, Answer, Ask, RateBound, Route, parse, text

CONNECTIONS_MAX = 256
"""Beyond it the oldest is told 503 and closed: a thousand that send nothing keep nobody out."""
CONNECTION_NS_MAX = 10 * SECOND_NS
PAUSE_S, LONG_PAUSE_S = 0.01, 0.04
PASSES_PER_SECOND, PASSES_BURST = 20, 20
"""Passes with the short pause; more have the long one, so that a crowd is served together, 40 times a second: a thread
that wakes up finds its caches cold, which costs more than an answer."""
ACCEPTS_PER_PASS = 20
"""With the pauses at most 800 a second, however many knock."""
BREATH_S = 50e-6
"""After each, for whoever waits for this core: a thread that wakes up does not interrupt one that runs."""
READS_MAX = 16
"""A request that comes in more pieces is none."""
BACKLOG = 512
SEND_BUFFER_BYTES = 1 << 18
LINGER_BYTES_MAX = 1 << 18
"""Read and thrown away after an error, so that the answer is not lost to a reset."""
_POLL_S = 0.1

logger = logging.getLogger(__name__)


class _Connection:
    """One asker, from accept to close."""

    __slots__ = ("awaits", "opened_ns", "reads", "received", "socket", "thrown_away", "unsent")

    def __init__(self, accepted: socket.socket, opened_ns: int) -> None:
        self.socket, self.opened_ns = accepted, opened_ns
        self.awaits = 0
        """What the selector looks for; 0 while it does not know of this."""
        self.received, self.reads = b"", 0
        self.unsent: memoryview | None = None
        """What is left of the answer; None before there is one."""
        self.thrown_away = 0


class Listener:
    """Answers ``routes`` on (host, port) from a thread of its own, on which ``tick`` is called ten times a second, too.

    Raises OSError when the port cannot be had; port 0 takes a free one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Route],
        tick: Callable[[], None] = lambda: None,
        connection_ns_max: int = CONNECTION_NS_MAX,
    ) -> None:
        self._routes, self._tick, self._connection_ns_max = routes, tick, connection_ns_max
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted ones inherit it
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._connections: dict[int, _Connection] = {}  # by file descriptor, oldest first
        self._passes = RateBound(PASSES_PER_SECOND, PASSES_BURST)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ops", daemon=True)

    def __repr__(self) -> str:
        return f"<Listener [port {self.port}, {len(self._connections)} connections]>"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._closing = True
        self._wake.send(b"\0")
        if self._thread.is_alive():
            self._thread.join()
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        for each in (self._socket, self._wake, self._woken):
            each.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(_POLL_S):
                if key.fileobj is self._socket:
                    self._accept()
                elif key.fileobj is not self._woken:
                    self._serve(key.fd)
            self._cut_old()
            try:
                self._tick()
            except Exception:  # what is shown may fail, the probes must not
                logger.exception("the ops thread's tick failed")
            time.sleep(PAUSE_S if self._passes.take(monotonic_ns()) else LONG_PAUSE_S)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_PASS):
            try:
                accepted, _address = self._socket.accept()
            except OSError:  # none left, or no descriptor for it
                return
            accepted.setblocking(False)
            if len(self._connections) >= CONNECTIONS_MAX:
                self._refuse(next(iter(self._connections.values())))
            connection = self._connections[accepted.fileno()] = _Connection(accepted, monotonic_ns())
            self._go_on(connection)  # its request is here by now, as a rule: most are never waited for
            time.sleep(BREATH_S)

    def _refuse(self, connection: _Connection) -> None:
        with suppress(OSError):
            connection.socket.send(BUSY.to_bytes())
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        if connection.awaits:
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _await(self, connection: _Connection, events: int) -> None:
        if not connection.awaits:
            self._selector.register(connection.socket, events)
        elif connection.awaits != events:
            self._selector.modify(connection.socket, events)
        connection.awaits = events

    def _cut_old(self) -> None:
        """Cut off connections that have lasted too long, however busily they trickle."""
        oldest_ns = monotonic_ns() - self._connection_ns_max
        while self._connections:
            oldest = next(iter(self._connections.values()))
            if oldest.opened_ns >= oldest_ns:
                return
            self._drop(oldest)

    def _serve(self, number: int) -> None:
        connection = self._connections.get(number)
        if connection is not None:  # else refused since it was found ready
            self._go_on(connection)

    def _go_on(self, connection: _Connection) -> None:
        try:
            if connection.unsent is None:
                self._read(connection)
            elif connection.unsent:
                self._send(connection)
            else:
                self._linger(connection)
        except BlockingIOError:
            self._await(connection, selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ)
        except OSError:
            logger.debug("an ops connection ended early", exc_info=True)
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(HEAD_BYTES_MAX)
        connection.reads += 1
        if not data or connection.reads > READS_MAX:
            self._drop(connection)
            return
        connection.received += data
        response = self._response(connection.received)
        if response is None:
            self._await(connection, selectors.EVENT_READ)
        else:
            connection.unsent = memoryview(response)
            self._send(connection)

    def _response(self, received: bytes) -> bytes | None:
        asked = parse(received)
        if isinstance(asked, Ask):
            return self._answer(asked).to_bytes(asked.if_none_match)
        return asked.to_bytes() if asked is not None else None

    def _answer(self, ask: Ask) -> Answer:
        if ask.method != "GET":
            body = "" if ask.method == "HEAD" else "GET only\n"
            return text(body, HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET"))
        route = self._routes.get(ask.path)
        if route is None:
            return text(f"not here; try {' '.join(self._routes)}\n", HTTPStatus.NOT_FOUND)
        try:
            return route(ask.query)
        except Exception:  # the ops side must not lose its thread to a bug of ours
            logger.exception("ops route %s failed", ask.path)
            return text("internal error\n", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _send(self, connection: _Connection) -> None:
        unsent = connection.unsent
        assert unsent is not None
        connection.unsent = unsent = unsent[connection.socket.send(unsent) :]
        if unsent:
            self._await(connection, selectors.EVENT_WRITE)
        elif connection.received.startswith(b"GET ") and connection.received.endswith(b"\n"):
            self._drop(connection)  # nothing unread: closing cannot reset the answer away
        else:
            connection.socket.shutdown(socket.SHUT_WR)
            self._await(connection, selectors.EVENT_READ)

    def _linger(self, connection: _Connection) -> None:
        data = connection.socket.recv(HEAD_BYTES_MAX)
        connection.thrown_away += len(data)
        if not data or connection.thrown_away > LINGER_BYTES_MAX:
            self._drop(connection)
