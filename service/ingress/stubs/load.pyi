from typing import Any, final

@final
class Workload:
    """Transactions to send, each made into a ScoreRequest when it is sent: number n is row n modulo their number."""

    def __new__(cls, batch: Any, run: str, *, event_time_now: bool) -> Workload:
        """``batch``: a RecordBatch of event_time (int64, nanoseconds), amount_minor (int64) and any of currency and
        the entity ids (utf8, null = absent). ``run``: ids are ``{run}-{n}``. ``event_time_now``: the wall clock at
        sending, else the rows' own, later by their span each time they begin anew. Raises ValueError.
        """

    def __len__(self) -> int: ...
    def request(self, number: int, wall_ns: int) -> bytes:
        """ScoreRequest number ``number``, sent at ``wall_ns`` (since 1970)."""

@final
class Load:
    """One run of load: ``start()``, ``wait()`` until it is over, ``result()``. It has a thread of its own."""

    def __new__(
        cls,
        target: str,
        workload: Workload,
        *,
        duration_ns: int,
        arrivals: str | None = None,
        rate: float | None = None,
        seed: int = 0,
        concurrency: int | None = None,
        connections: int = 4,
        path: str = "/fraudgate.v1.ScoringService/Score",
        timeout_ns: int | None = None,
        grace_ns: int = 5_000_000_000,
        tls_ca: bytes | None = None,
    ) -> Load:
        """Open loop at ``rate`` calls a second (arrivals as of ``arrivals()``), or ``concurrency`` calls at all times.

        ``target``: HOST:PORT or unix:PATH; ``tls_ca``: PEM certificates to trust, None = plain text; ``timeout_ns``:
        the deadline that each call carries. Raises ValueError.
        """

    def start(self) -> None:
        """Begin; returns at once."""

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long, without the interpreter lock; True if the run is over."""

    def stop(self) -> None:
        """Send no more calls and wait for answers; asked a second time, end at once."""

    @property
    def answered(self) -> int:
        """Calls that have ended with a status so far."""

    def result(self) -> dict[str, Any]:
        """What the run has counted. Raises ConnectionError where the server could not be reached.

        started_wall_ns; sending_ns and answering_ns (from the first intended send to the end of sending, and to the
        last answer); cpu_ns of the generator's thread; sent, in_flight_max, answered, replayed; statuses (list by
        grpc-status), decisions, fallbacks (lists by value); lost ({what happened: calls}); decided, refused, lag,
        held: (cells, counts, largest value in ns), cells as of ``fraudgate.latency.histogram``.
        """

def arrivals(process: str, rate: float, duration_ns: int, seed: int) -> bytes:
    """Intended send times of an open loop, int64 nanoseconds from its start: constant, poisson or burst.

    burst: Poisson, but from 0.5 to 0.6 of every second ten times as dense as in the rest; the mean is ``rate``. Raises
    ValueError.
    """
