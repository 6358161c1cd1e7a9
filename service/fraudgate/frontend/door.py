"""The door: admits or refuses a decoded transaction, and carries each admitted one to its reply.

    admit -> batcher -> columns -> pipeline.score -> reply

Every front end in Python, and every RPC of it, goes through here.
"""

import asyncio
import logging
from typing import NamedTuple

import numpy as np

from fraudgate.batching.admission import ANONYMOUS, Admission
from fraudgate.batching.batcher import Batcher, ClosedBatch
from fraudgate.batching.shell import BatchShell
from fraudgate.clock import Clock
from fraudgate.editions import Editions
from fraudgate.frontend import refusals
from fraudgate.frontend.codec import Decoded, Renderer, request_columns
from fraudgate.frontend.refusals import Refusal
from fraudgate.latency.ledger import Ledger
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.ops.traceparent import Parent
from fraudgate.ops.tracing import Tracer
from fraudgate.pipeline import CANCELLED_NS, Pipeline
from fraudgate.transaction import Answers, Status
from fraudgate.v1 import scoring_pb2

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """A decision as it goes on the wire."""

    body: bytes
    """An encoded ScoreResponse."""
    replayed: bool
    """True for the stored answer of an earlier attempt."""


class Entry:
    """One admitted transaction on its way to a reply."""

    __slots__ = ("arrival_ns", "caller", "deadline_ns", "future", "parent", "prefix", "transaction")

    def __init__(
        self,
        transaction: scoring_pb2.Transaction,
        arrival_ns: int,
        deadline_ns: int,
        prefix: str,
        future: "asyncio.Future[Reply | Refusal]",
        caller: int,
        parent: Parent | None = None,
    ) -> None:
        self.transaction = transaction
        self.arrival_ns = arrival_ns
        self.deadline_ns = deadline_ns
        self.prefix = prefix
        self.future = future
        self.caller = caller
        self.parent = parent


class Door:
    """Admission, batching and replies over one pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        batcher: Batcher[Entry],
        editions: Editions,
        recorder: Recorder,
        counters: Counters,
        clock: Clock,
        admission: Admission,
    ) -> None:
        self._pipeline = pipeline
        self._batcher = batcher
        self._renderer = Renderer(editions)
        self._recorder = recorder
        self._ledger = Ledger(recorder, counters, admission.bounds.budget_ns)
        self._counters = counters
        self._clock = clock
        self._admission = admission
        self.closed: Refusal | None = None
        """Set while every new call is refused: no model is live, or the server is draining."""
        self.tracer: Tracer | None = None
        self._loop = asyncio.get_running_loop()
        self.shell: BatchShell[Entry] = BatchShell(batcher, self._run_batch, clock)

    @property
    def batch_ns(self) -> int:
        """How long one batch takes, nanoseconds: set by the warm-up, then a moving average."""
        return self._admission.batch_ns

    @batch_ns.setter
    def batch_ns(self, batch_ns: int) -> None:
        self._admission.set_batch_ns(batch_ns)

    def admit(
        self,
        transaction: scoring_pb2.Transaction,
        arrival_ns: int,
        deadline_ns: int = 0,
        prefix: str = "transaction",
        caller: int = ANONYMOUS,
        parent: Parent | None = None,
    ) -> "asyncio.Future[Reply | Refusal]":
        """Queue one transaction. The future ends with a Reply or a Refusal; it never raises.

        ``deadline_ns``: monotonic, 0 = none. ``prefix``: the path of this Transaction in its request. ``caller``: see
        ``Callers``. ``parent``: the caller's span. Cancelling the future tells the pipeline that the caller is gone.
        """
        future: asyncio.Future[Reply | Refusal] = self._loop.create_future()
        refusal = self._refuse(arrival_ns, deadline_ns, caller)
        if refusal is None:
            entry = Entry(transaction, arrival_ns, deadline_ns, prefix, future, caller, parent)
            if self.shell.submit(entry, arrival_ns):
                self._admission.admitted(caller)
                return future
            refusal = refusals.delayed("queue_full", self._admission.batch_ns)
            self._counters.count_refusal("queue_full")
        future.set_result(refusal)
        return future

    def _refuse(self, now_ns: int, deadline_ns: int, caller: int) -> Refusal | None:
        """Why a transaction cannot be admitted now, or None."""
        if self.closed is not None:
            self._counters.count_refusal("unavailable")
            return self.closed
        verdict = self._admission.refuse(now_ns, deadline_ns, caller)
        if verdict is None:
            return None
        self._counters.count_refusal(verdict.reason)
        self._recorder.record_one("refuse", self._clock() - now_ns)
        return refusals.DEADLINE if verdict.reason == "deadline" else refusals.delayed(*verdict)

    async def _run_batch(self, closed: ClosedBatch[Entry]) -> None:
        """Score one closed batch and set every future, whatever happens."""
        entries = closed.entries
        self._admission.taken(closed.closed_ns, [entry.caller for entry in entries])
        try:
            columns = request_columns(
                [entry.transaction for entry in entries],
                [entry.arrival_ns for entry in entries],
                [CANCELLED_NS if entry.future.cancelled() else entry.deadline_ns for entry in entries],
            )
            answers = await self._pipeline.score(Decoded(columns), closed.closed_ns, closed.idle_ns, columns)
            self._reply(entries, answers)
            if self.tracer is not None:
                self.tracer.record(answers, [entry.parent for entry in entries])
        except Exception:  # the batch must end: its callers get INTERNAL and may retry with the same ids
            _log.exception("a batch of %d failed", len(entries))
            self._counters.count_refusal("internal", len(entries))
            for entry in entries:
                if not entry.future.done():
                    entry.future.set_result(refusals.INTERNAL)
        self._admission.finished(self._clock())

    def _reply(self, entries: list[Entry], answers: Answers) -> None:
        ids = [entry.transaction.transaction_id for entry in entries]
        bad = answers["status"].nonzero()[0].tolist()
        if bad:
            good = (answers["status"] == Status.OK).nonzero()[0].tolist()
            rows = answers[good]
            for row in bad:
                entry, answer = entries[row], answers[row]
                _resolve(entry, _refusal(entry, int(answer["status"]), int(answer["error_field"])))
            entries, ids = [entries[row] for row in good], [ids[row] for row in good]
        else:
            rows = answers
        for entry, reply in zip(
            entries, map(Reply, self._renderer.render(rows, ids), rows["replayed"].tolist()), strict=True
        ):
            _resolve(entry, reply)
        if entries:
            arrivals_ns = np.array([entry.arrival_ns for entry in entries])
            self._ledger.settle(rows, arrivals_ns, np.array([entry.deadline_ns for entry in entries]), self._clock())


def _resolve(entry: Entry, result: Reply | Refusal) -> None:
    if not entry.future.done():
        entry.future.set_result(result)


def _refusal(entry: Entry, status: int, problem: int) -> Refusal:
    if status == Status.INVALID_ARGUMENT:
        return refusals.invalid_problem(problem, entry.prefix, entry.transaction.attributes)
    if status == Status.ALREADY_EXISTS:
        return refusals.conflict(entry.transaction.transaction_id)
    return refusals.BY_STATUS[Status(status)]
