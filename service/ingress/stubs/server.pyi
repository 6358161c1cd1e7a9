class Ingress:
    """A front end: it listens, accepts, decodes, admits, batches and answers on a thread of its own."""

    def __new__(
        cls, settings: Mapping[str, Any], refusals: Mapping[str, tuple[int, str, bytes, bool]], respond: Buffer
    ) -> Ingress:
        """Bind the address; nothing is accepted before ``start``.

        ``settings``: see ``fraudgate.frontend.native.settings``. ``refusals``: (code, message, google.rpc.Status, has
        details) by name. ``respond``: the recorder's int64 cells of that stage, which are counted up. Raises OSError
        where the address cannot be had, ValueError for TLS files that do not fit.
        """

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""

    @property
    def rows(self) -> int:
        """Transactions that wait for a batch or in one."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def batch_ns(self) -> int:
        """How long one batch runs: set by the warm-up, then a moving average."""

    @batch_ns.setter
    def batch_ns(self, batch_ns: int) -> None: ...
    def start(self) -> None:
        """Start to accept."""

    def fileno(self) -> int:
        """The eventfd to watch: readable when there is something to take or to hear."""

    def quiet(self) -> None:
        """Make ``fileno()`` unreadable until it rings again."""

    def take(self, idle: bool) -> Batch | None:
        """The oldest closed batch, or None; then the bell rings when there is one. ``idle``: no batch is running."""

    def answer(
        self,
        batch: Batch,
        answers: bytes,
        refusals: Sequence[tuple[int, tuple[int, str, bytes, bool]]],
        tail: Callable[[int, int], tuple[str, bytes]],
    ) -> None:
        """Answer a batch: the bytes of its rows of ANSWER_DTYPE, and (row, refusal), ascending, for those not OK.

        ``tail(edition, rules)``: the run id and the encoded tail of answers not seen before.
        """

    def fail(self, batch: Batch) -> None:
        """Give a batch up: every row ends INTERNAL."""

    def close(self) -> None:
        """Refuse every call from now on."""

    def close_open(self) -> None:
        """Draw the boundary of the open batch now: the drain uses it, after which nothing is added."""

    def end_streams(self) -> None:
        """Read no stream any further; each finishes what was read and ends UNAVAILABLE."""

    def counts(self) -> dict[str, int]:
        """What the native threads have counted since the start: refusals by reason, totals by name."""

    def stop(self, patience_seconds: float) -> None:
        """No new connections, and the open ones get so long for their calls. Waits for the thread."""

    def side_events(self) -> list[tuple[int, str, Any]]:
        """What happened on health and reflection calls: (call, "open", path), (call, "message", bytes), (call,
        "half_close" or "gone", b"")."""

    def side_send(self, call: int, body: bytes) -> None:
        """Send a message on such a call."""

    def side_end(self, call: int, refusal: tuple[int, str, bytes, bool] | None = None) -> None:
        """End it; without a refusal it ends OK."""

class Batch:
    """A closed batch that Python has taken, with the replies it owes."""

    @property
    def columns(self) -> Columns: ...
    @property
    def closed_ns(self) -> int: ...
    @property
    def idle_ns(self) -> int: ...
    def prefix(self, row: int) -> str:
        """The path of a row's Transaction in its request."""

def set_clock_ahead_ns(ahead_ns: int) -> None:
    """Put the front end's clock ahead of the system's, for tests."""
