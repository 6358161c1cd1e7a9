"""The native front end of Fraudgate: what happens per packet.

Python enters once per batch: it pulls closed batches and pushes answers. No thread of this module takes the interpreter
lock. Durations are integers in nanoseconds, money integers in minor units.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

__version__: str

@final
class Transaction:
    """A decoded transaction. Made by ``decode_request`` and ``decode_batch``."""

    @property
    def texts(self) -> list[str]:
        """transaction_id, currency, then the ids in the order of ``ENTITIES``; an absent one is empty."""

    @property
    def event_time_ns(self) -> int:
        """Nanoseconds since 1970, or ``EVENT_TIME_MISSING_NS`` or ``EVENT_TIME_OUTSIDE_NS``."""

    @property
    def amount_minor(self) -> int: ...
    @property
    def attributes(self) -> dict[str, float]: ...
    @property
    def plain(self) -> bool:
        """Every id is surely fine: printable ASCII, at most 64 bytes, and there is a transaction_id."""

    @property
    def digest(self) -> bytes:
        """What ``idempotency.payload_digests`` gives, 16 bytes."""

SCORE_BATCH_ROWS_MAX: int

def decode_request(message: bytes) -> Transaction | None:
    """Decode a ScoreRequest; None where it holds no transaction. ValueError: the bytes do not decode."""

def decode_batch(message: bytes) -> tuple[list[Transaction], int]:
    """Decode a ScoreBatchRequest to its first 512 rows and the count of all. ValueError: the bytes do not decode."""

@final
class Batcher:
    """``fraudgate.batching.batcher.Batcher`` over integers, as the native front end runs it."""

    def __new__(
        cls, gate_ns: int, batch_rows_max: int, queue_rows_max: int, policy: Literal["fixed", "eager"] = "fixed"
    ) -> Batcher:
        """ValueError unless gate_ns >= 1 and 1 <= batch_rows_max <= queue_rows_max."""

    @property
    def rows(self) -> int:
        """Entries that wait."""

    @property
    def drops(self) -> int:
        """Entries refused because the queue was full."""

    def add(self, entry: int, now_ns: int) -> bool: ...
    def poll(self, now_ns: int, idle: bool = False) -> tuple[list[int], int, int] | None:
        """(entries, closed_ns, idle_ns) of the oldest closed batch, or None."""

    def next_deadline_ns(self) -> int | None: ...
    def close_open(self, now_ns: int) -> None: ...

@final
class Admission:
    """``fraudgate.batching.admission.Admission`` over a ``Batcher`` of caller numbers, for its test."""

    def __new__(
        cls,
        budget_ns: int,
        allowances_ns: Sequence[int],
        priorities: Sequence[int],
        weights: Sequence[int],
        active_ns: int,
        gate_ns: int,
        batch_rows_max: int,
        queue_rows_max: int,
        eager: bool,
    ) -> Admission:
        """ValueError unless the batcher's sizes fit, and each caller has a priority of 0 to 2 and a weight from 1."""

    @property
    def batch_ns(self) -> int: ...
    @batch_ns.setter
    def batch_ns(self, batch_ns: int) -> None: ...
    @property
    def deviation_ns(self) -> int: ...
    @property
    def lag_ns(self) -> int: ...
    @property
    def waiting(self) -> list[int]:
        """Rows in the batcher, by caller."""

    def wait_ns(self, now_ns: int) -> int: ...
    def arrive(self, now_ns: int, deadline_ns: int, caller: int) -> tuple[str, int] | None:
        """(reason, retry_ns) of a row that is refused; None when it was admitted and added."""

    def take(self, now_ns: int, idle: bool) -> list[int] | None:
        """The callers of the oldest closed batch, which now runs; or None."""

    def finished(self, now_ns: int) -> None:
        """The first batch that was taken is answered."""

    def lagged(self, lag_ns: int) -> None:
        """The IO thread came so late to a batch that was answered."""

@final
class Columns:
    """The rows of one batch, opened column by column. Its buffer is int64[4, rows], read-only: event_time_ns,
    amount_minor, arrival_ns, deadline_ns."""

    def __new__(
        cls, transactions: Sequence[Transaction], arrival_ns: Sequence[int], deadline_ns: Sequence[int]
    ) -> Columns:
        """Stamps are monotonic nanoseconds; deadline 0 = none."""

    @property
    def rows(self) -> int: ...
    @property
    def plain(self) -> bool:
        """Whether every row's ids are surely fine, see ``Transaction.plain``."""

    def earliest(self) -> tuple[int, int]:
        """(deadline_ns, arrival_ns), the earliest of each; the largest int64 where no row has a deadline."""

    def extent(self) -> tuple[int, int, int, int]:
        """What ``fraudgate.transaction.Extent`` says, in its order."""

    def currencies(self) -> list[str]:
        """The currencies that occur, in row order; one that follows itself is there once."""

    def well_formed(
        self, currencies: frozenset[str], event_time_ns: tuple[int, int], amount_minor: tuple[int, int]
    ) -> bool:
        """Whether every row is plain, without attributes, in one of these currencies and within these bounds."""

    def digests(self) -> list[bytes]:
        """The payload digest of each row, 16 bytes each."""

    def texts(self, column: int) -> list[str | None]:
        """A fresh list of one column: 0 transaction_id, 1 currency, 2 and on the ids, None where one is absent."""

    @staticmethod
    def joined_ids(batches: Sequence[Columns]) -> list[bytes]:
        """The transaction ids of these batches, less than 2 GiB: offsets (int32) and values of an Arrow array of texts,
        and the CRC-32 of each id (uint32)."""

    def attributes(self) -> list[dict[str, float]] | None:
        """The attributes of each row; None where no row has any."""

    def arrow_address(self) -> int:
        """The address of an ArrowArray for ``pyarrow.RecordBatch._import_from_c(address, REQUEST_SCHEMA)``, which moves
        it out. Good until the next call; the buffers are those of this object."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

def check_answer_layout(row_bytes: int, fields: Mapping[str, tuple[str, int]]) -> None:
    """ValueError unless rows of ``ANSWER_DTYPE`` are laid out as this build reads them.

    ``fields``: (NumPy type, offset) by name, for instance ``{"score": ("<f4", 4)}``.
    """

@final
class Renderer:
    """Answer rows to ScoreResponse bytes."""

    def __new__(cls, tail: Callable[[int, int], tuple[str, bytes]]) -> Renderer:
        """``tail(edition, rules)``: the edition's run id, and the encoded fields that the two fix."""

    def render(self, answers: bytes, transaction_ids: Sequence[str]) -> list[bytes]:
        """ScoreResponse bytes of rows with status OK, in order. ``answers``: the bytes of ANSWER_DTYPE[n]."""

def score_result(transaction_id: str, response: bytes | None, error: bytes | None) -> bytes:
    """An encoded ScoreResult: ``response`` is an encoded ScoreResponse, ``error`` an encoded google.rpc.Status."""

def score_batch_entry(result: bytes) -> bytes:
    """A ScoreBatchResponse of one encoded ScoreResult; encodings of several concatenate."""

def panics() -> int:
    """Panics of what Python called that became a RuntimeError, since the start."""

def draft_answers(
    columns: Columns,
    score: npt.NDArray[np.float32],
    fallback: npt.NDArray[np.uint8],
    edges: tuple[int, int, int],
    edition: int,
    sequence: int,
    taken_up_ns: int,
    gathered_ns: int,
    inferred_ns: int,
) -> bytearray | None:
    """``fraudgate.guardrails.drafts.draft`` of all rows, as the bytes of ANSWER_DTYPE; None when a score is unusable.

    score, fallback: [rows]; edges: of ``Thresholds``. Raises ValueError for arrays of another length.
    """

@final
class StageKernel:
    """What ``fraudgate.latency.recorder.Recorder.record_batch`` counts, counted in place."""

    def __new__(cls, cells: Sequence[npt.NDArray[np.int64]]) -> StageKernel:
        """cells: the recording arrays of queue, features, inference, guardrails and total, int64[CELLS] each."""

    def add(self, decided: bytes) -> tuple[int, int, int, int, int]:
        """Count the rows of ANSWER_DTYPE in these bytes; returns what ``fraudgate.latency.spans.Spans`` says of them.

        ValueError unless they hold whole rows, at least one.
        """

def count_decisions(counts: npt.NDArray[np.int64], decided: bytes) -> None:
    """Count rows of ANSWER_DTYPE by decision << 3 | fallback into int64[256]. ValueError unless they are whole."""

def populate(extents: Sequence[tuple[int, int]]) -> None:
    """Have the system provide the memory at these addresses, so many bytes each, without the interpreter lock.

    It changes no byte. What is no memory of this process is left out.
    """

def keep_rows(
    batches: Sequence[tuple[npt.NDArray[np.float64], bytes]],
    features: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    start: int,
) -> None:
    """``fraudgate.drift.watch.Ring.add_batches``: write decided rows to those of a ring from ``start`` on.

    batches: features [n, F] and the bytes of ANSWER_DTYPE[n]; features [capacity, F], scores [capacity]: the ring's.
    Raises ValueError for rows that do not fit; those before them are written.
    """

@final
class RuleKernel:
    """The conditions of ``fraudgate.guardrails.fused`` that are made of columns of numbers."""

    def __new__(
        cls, rules: Sequence[tuple[Sequence[tuple[str, int, float]], Sequence[tuple[str, int, float]], bool]]
    ) -> RuleKernel:
        """rules: the steps of what is looked at first, those of what follows, and whether that is left to Python.

        Raises ValueError unless steps are known and leave one truth value.
        """

    def fire(
        self, features: npt.NDArray[np.float64], amounts: npt.NDArray[np.int64], bits: npt.NDArray[np.uint64]
    ) -> tuple[int, int]:
        """Set bit i of the rows where rule i is true.

        Returns the bits set, of all rows together, and those of the rules that are left to Python and may be true.
        Raises ValueError, and sets nothing, unless the arrays are contiguous, [rows, F], [rows] and [rows].
        """

@final
class ClaimKernel:
    """``fraudgate.claims.ClaimRing`` over the same arrays; what that returns as ``Claims`` is a plain tuple here.

    digests: uint64[slots, 2]; answers: the bytes of ANSWER_DTYPE[slots]. Raises ValueError unless 0 < entries_max <
    slots < 2**32 and the arrays are contiguous and of so many slots.
    """

    def __new__(
        cls,
        entries_max: int,
        lifetime_ns: int,
        digests: npt.NDArray[np.uint64],
        claimed_ns: npt.NDArray[np.int64],
        answers: npt.NDArray[np.uint8],
    ) -> ClaimKernel: ...
    def __len__(self) -> int: ...
    @property
    def evicted_early(self) -> int: ...
    def claim(
        self, ids: Sequence[str], digests: Sequence[bytes], rows: Sequence[int], now_ns: int
    ) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        """ValueError for an id of more than 64 bytes, a digest of other than 16, or as many as there are not rows; then
        nothing was claimed."""

    def claim_batch(
        self, columns: Columns, now_ns: int
    ) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        """Claim all rows, their ids and digests read where they are. ValueError as ``claim``."""

    def release(self, slots: Sequence[int]) -> None:
        """IndexError for a slot that there is not."""

    def ahead(self, slots: int) -> list[tuple[int, int]]:
        """Address and bytes of what the next so many claims touch for the first time.

        Empty before the first claim, and once every slot was taken.
        """

    def live(self) -> list[int]: ...
    def ids(self, slots: Sequence[int]) -> list[str]:
        """IndexError for a slot that there is not."""

    def fill(self, ids: Sequence[str]) -> list[int]:
        """ValueError for an id of more than 64 bytes; then nothing was taken."""

@final
class WindowKernel:
    """Applies batches to the arrays of a ``fraudgate.features.windows.Windows`` and reads their features, row by row.

    windows: has ``version``, ``arrays()`` and ``swap_slot()``.
    series_of: by kind, from an id, None for an absent one, to its series. It opens a series for an id it has not seen,
    and never changes an answer. An empty id is absent.
    program: a ``fraudgate.features.kernel.Program``. Raises ValueError when its numbers do not fit together.
    """

    def __new__(cls, windows: Any, series_of: Sequence[Mapping[str | None, int]], program: Any) -> WindowKernel: ...
    def apply_and_gather(
        self,
        ids: Sequence[list[str | None]],
        event_time_ns: npt.NDArray[np.int64],
        amount_minor: npt.NDArray[np.int64],
        paid: Sequence[bool] | None,
        covered_from: Sequence[int],
        values: npt.NDArray[np.float64],
        fallback: npt.NDArray[np.uint8],
    ) -> bytes:
        """Apply the rows of a batch, in order, each read over what was applied so far. Arrays must be contiguous.

        ids: by kind, [rows]. paid: which rows are in the schema's currency, None = all.
        covered_from: by kind, the first tick at which every window is covered.
        values: [rows, features], written: amount, weekend, hours and window features.
        fallback: [rows], written: ``Fallback`` NONE, DEFAULTED_FEATURES or STALE_FEATURES, the worst that applied; with
        profiles, it holds what they defaulted.
        Returns int64 [rows, 1 + fraud kinds]: tick, and series of every kind that counts frauds. Raises ValueError,
        TypeError, BufferError, or what ``series_of`` and ``windows`` raise; then nothing was applied.
        """

    def apply_and_gather_columns(
        self,
        columns: Columns,
        covered_from: Sequence[int],
        values: npt.NDArray[np.float64],
        fallback: npt.NDArray[np.uint8],
    ) -> bytes:
        """As ``apply_and_gather``: all rows of a batch of the front end, read where it lies."""

@final
class Ingress:
    """A front end: it listens, accepts, decodes, admits, batches and answers on a thread of its own."""

    def __new__(
        cls,
        settings: Mapping[str, Any],
        refusals: Mapping[str, Any],
        recorded: Mapping[str, npt.NDArray[np.int64]],
    ) -> Ingress:
        """Bind the address; nothing is accepted before ``start``.

        ``settings``: see ``fraudgate.frontend.native.settings``. ``refusals``: see
        ``fraudgate.frontend.native.refusal_table``. ``recorded``: the recorder's int64 cells of ``respond``, ``whole``,
        ``budget_spent`` and ``refuse``, which are counted up. Raises OSError where the address cannot be had,
        ValueError for TLS files that do not fit.
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
    @property
    def wait_ns(self) -> int:
        """How long a row that arrives now is expected to wait for its answer."""

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

    def calls(self) -> list[tuple[str, int, list[int]]]:
        """By method of the port: its name, calls begun, calls ended by code 0 to 16; since the start."""

    def stop(self, patience_seconds: float) -> None:
        """No new connections, and the open ones get so long for their calls. Waits for the thread."""

    def side_events(self) -> list[tuple[int, str, Any]]:
        """What happened on health and reflection calls: (call, "open", path), (call, "message", bytes), (call,
        "half_close" or "gone", b"")."""

    def side_send(self, call: int, body: bytes) -> None:
        """Send a message on such a call."""

    def side_end(self, call: int, refusal: tuple[int, str, bytes, bool] | None = None) -> None:
        """End it; without a refusal it ends OK."""

@final
class Batch:
    """A closed batch that Python has taken, with the replies it owes."""

    @property
    def columns(self) -> Columns: ...
    @property
    def closed_ns(self) -> int: ...
    @property
    def idle_ns(self) -> int: ...
    @property
    def parents(self) -> list[str | None]:
        """The ``traceparent`` of each row's call, as it came; empty where none has one or ``traced`` is off."""

    def prefix(self, row: int) -> str:
        """The path of a row's Transaction in its request."""

def set_clock_ahead_ns(ahead_ns: int) -> None:
    """Put the front end's clock ahead of the system's, for tests."""

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
