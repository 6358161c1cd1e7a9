"""OpenTelemetry traces: a span for each sampled or slow transaction, its stages below it, and a link to its batch.

    scoring loop: record -> bounded queue -> thread "traces": spans -> OTLP over HTTP

The scoring loop only picks rows. Where the queue is full, because the collector is slow or gone, they are dropped and
counted. Spans say what was decided and by what, never for whom: no ids, amounts or scores. A replayed answer has none,
nor has a transaction that the door refuses at once.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue
from typing import Any

import numpy as np

from fraudgate.clock import Clock, monotonic_ns, time_ns
from fraudgate.editions import Editions
from fraudgate.latency.recorder import Counters
from fraudgate.limits import SECOND_NS
from fraudgate.ops.spans import Spans, Traced
from fraudgate.ops.traceparent import Parent
from fraudgate.sections import Tracing
from fraudgate.transaction import Answers, Status

DROPPED = "fraudgate_traces_dropped_total"
QUEUE_BATCHES_MAX = 256
EXPORT_SPANS_MAX = 512
GATHER_NS = SECOND_NS
"""How long spans wait for others, to be exported together."""

_log = logging.getLogger(__name__)


class Tracer:
    """Picks rows on the scoring loop; makes and exports their spans on a thread of its own."""

    def __init__(self, settings: Tracing, editions: Editions, counters: Counters, clock: Clock = monotonic_ns) -> None:
        """Raises ConfigError without the extra [otel]."""
        self._settings, self._counters, self._clock = settings, counters, clock
        self._spans = Spans(editions)
        self._exporter = self._spans.exporter(settings.endpoint)
        self._queue: Queue[Traced | None] = Queue(QUEUE_BATCHES_MAX)
        self._random = random.Random()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def record(self, answers: Answers, parents: Sequence[Parent | None] = ()) -> None:
        """Pick rows of an answered batch. ``parents``: of each row, or empty where no caller's is known."""
        now_ns = self._clock()
        ended_ns = np.where(answers["status"] == Status.OK, answers["answered_ns"], now_ns)
        slow = ended_ns - answers["arrival_ns"] > self._settings.slow_ns_min
        parents = parents or [None] * len(answers)
        wanted = [bool(late) or self._sampled(parent) for late, parent in zip(slow.tolist(), parents, strict=True)]
        rows = [row for row in np.flatnonzero(wanted).tolist() if not answers["replayed"][row]]
        if not rows:
            return
        picked = [parents[row] for row in rows]
        try:
            self._queue.put_nowait(Traced(answers[rows], picked, slow[rows].tolist(), now_ns, time_ns() - now_ns))
        except Full:
            self._counters.count(DROPPED, len(rows))

    def _sampled(self, parent: Parent | None) -> bool:
        """What the caller has decided, else a share."""
        return parent.sampled if parent else self._random.random() < self._settings.sampled_share

    def close(self, patience_seconds: float = 2.0) -> None:
        """Export what waits, for at most so long."""
        self._closing = True
        try:
            self._queue.put_nowait(None)
        except Full:
            _log.warning("traces that wait for the collector are given up")
        self._thread.join(patience_seconds)

    def _run(self) -> None:
        while not (self._closing and self._queue.empty()):
            spans: list[Any] = []
            try:
                self._gather(spans)
                if spans:
                    self._exporter.export(spans)
            except Exception:  # a collector's mistake, or ours, must not end the thread
                _log.exception("%d spans could not be exported", len(spans))
        self._exporter.shutdown()

    def _gather(self, spans: list[Any]) -> None:
        """Make spans of what comes within ``GATHER_NS``, or until there are enough for one export."""
        until_ns = self._clock() + GATHER_NS
        while len(spans) < EXPORT_SPANS_MAX:
            try:
                traced = self._queue.get(timeout=max(until_ns - self._clock(), 0) / SECOND_NS)
            except Empty:
                return
            if traced is None:
                return
            spans += self._spans.of(traced)


def tracer(settings: Tracing, editions: Editions, counters: Counters, say: Callable[[str], None]) -> Tracer | None:
    """None without an endpoint."""
    if not settings.endpoint:
        return None
    say(
        f"tracing to {settings.endpoint}: transactions over {settings.slow_ns_min / 1e6:g} ms, "
        f"a share of {settings.sampled_share:g}, those of sampled callers (traceparent)"
    )
    return Tracer(settings, editions, counters)
