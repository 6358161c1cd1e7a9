"""The Python side of the native front end's door: pulls one batch at a time, scores it and hands the answers back."""

import logging
from functools import partial
from typing import Any

from fraudgate.batching.batcher import Policy
from fraudgate.batching.shell import BatchRunner
from fraudgate.clock import Clock
from fraudgate.editions import Editions
from fraudgate.frontend import refusals
from fraudgate.frontend.codec import Renderer
from fraudgate.frontend.native_columns import NativeColumns, record_batch
from fraudgate.frontend.refusals import Refusal
from fraudgate.latency.recorder import Counters
from fraudgate.ops.traceparent import parse
from fraudgate.ops.tracing import Tracer
from fraudgate.pipeline import Pipeline
from fraudgate.transaction import ANSWER_DTYPE, Answers, Columns, Status

_log = logging.getLogger(__name__)

_STATUS_AT = 0 if ANSWER_DTYPE.fields is None else ANSWER_DTYPE.fields["status"][1]


def wire(refusal: Refusal) -> tuple[int, str, bytes, bool]:
    """A refusal as the native side takes it: code, message, google.rpc.Status, whether that has details."""
    status = refusal.to_status()
    return refusal.status, refusal.message, status.SerializeToString(), bool(status.details)


class NativeBatches:
    """The native batcher as a ``BatchRunner`` sees it. It rings its bell when there is something to poll."""

    def __init__(self, native: Any, policy: Policy) -> None:
        self._native = native
        self.policy: Policy = policy

    @property
    def rows(self) -> int:
        rows: int = self._native.rows
        return rows

    def poll(self, now_ns: int, idle: bool = False) -> Any:
        """The oldest closed batch, or None. The native side reads its clock itself, under the lock that stamps take."""
        return self._native.take(idle)

    def next_deadline_ns(self) -> None:
        """None: the native side keeps the gate's timer."""

    def close_open(self, now_ns: int) -> None:
        self._native.close_open()


class NativeDoor:
    """Admission, batching and replies of the native front end over one pipeline."""

    def __init__(
        self,
        native: Any,
        pipeline: Pipeline,
        editions: Editions,
        counters: Counters,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._native = native
        self._pipeline = pipeline
        self._renderer = Renderer(editions)
        self._counters = counters
        self.tracer: Tracer | None = None
        self._closed: Refusal | None = None
        self.shell: BatchRunner[Any] = BatchRunner(NativeBatches(native, policy), self._run_batch, clock)

    @property
    def batch_ns(self) -> int:
        """How long one batch runs, nanoseconds: set by the warm-up, then a moving average."""
        batch_ns: int = self._native.batch_ns
        return batch_ns

    @batch_ns.setter
    def batch_ns(self, batch_ns: int) -> None:
        self._native.batch_ns = batch_ns

    @property
    def closed(self) -> Refusal | None:
        """Set once every new call is refused: the server is draining."""
        return self._closed

    @closed.setter
    def closed(self, refusal: Refusal) -> None:
        assert refusal is refusals.DRAINING, "the native door closes for good"
        self._closed = refusal
        self._native.close()

    async def _run_batch(self, batch: Any) -> None:
        """Score one closed batch and hand its answers back, whatever happens."""
        native = batch.columns
        try:
            columns = NativeColumns(native)
            answers = await self._pipeline.score(partial(record_batch, native), batch.closed_ns, batch.idle_ns, columns)
            body = answers.tobytes()
            refused = self._refused(batch, columns, answers) if any(body[_STATUS_AT :: ANSWER_DTYPE.itemsize]) else []
            self._native.answer(batch, body, refused, self._renderer.tail)
            if self.tracer is not None:
                self.tracer.record(answers, [None if text is None else parse(text) for text in batch.parents])
        except Exception:  # the batch must end: its callers get INTERNAL and may retry with the same ids
            _log.exception("a batch of %d failed", native.rows)
            self._counters.count_refusal("internal", native.rows)
            self._native.fail(batch)

    @staticmethod
    def _refused(batch: Any, columns: Columns, answers: Answers) -> list[tuple[int, tuple[int, str, bytes, bool]]]:
        refused = []
        for row in answers["status"].nonzero()[0].tolist():
            status, problem = Status(answers[row]["status"]), int(answers[row]["error_field"])
            if status == Status.INVALID_ARGUMENT:
                attributes = columns.attributes[row] if columns.attributes else {}
                refusal = refusals.invalid_problem(problem, batch.prefix(row), attributes)
            elif status == Status.ALREADY_EXISTS:
                refusal = refusals.conflict(columns.transaction_id[row])
            else:
                refusal = refusals.BY_STATUS[status]
            refused.append((row, wire(refusal)))
        return refused
