"""Answered rows as OpenTelemetry spans, by the SDK of the extra [otel]."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import fraudgate
from fraudgate.editions import Editions
from fraudgate.errors import ConfigError
from fraudgate.latency.calls import CODE_NAMES
from fraudgate.ops.traceparent import Parent
from fraudgate.transaction import Answers, Decision, Fallback, Status

SERVICE = "fraudgate.v1.ScoringService"
_STAGES = ("queue", "features", "inference", "guardrails")
_STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")


class Traced(NamedTuple):
    """The rows of one batch that become spans."""

    answers: Answers
    parents: Sequence[Parent | None]
    slow: Sequence[bool]
    now_ns: int
    """When rows without a decision ended; monotonic."""
    wall_ns: int
    """What to add to a monotonic stamp."""


class Otel:
    """What is used of OpenTelemetry; none of it has types here. Raises ConfigError where it is not installed."""

    def __init__(self) -> None:
        try:
            self.trace: Any = import_module("opentelemetry.trace")
            self.sdk: Any = import_module("opentelemetry.sdk.trace")
            self.sampling: Any = import_module("opentelemetry.sdk.trace.sampling")
            self.resources: Any = import_module("opentelemetry.sdk.resources")
            self.export: Any = import_module("opentelemetry.sdk.trace.export")
            self.memory: Any = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
            self.otlp: Any = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        except ImportError as error:
            raise ConfigError(
                f"tracing.endpoint needs the extra [otel]: pip install 'fraudgate[otel]' ({error})"
            ) from error


class Spans:
    """Makes the spans of rows: one of the batch, in a trace of its own, and one of each row with its stages below."""

    def __init__(self, editions: Editions) -> None:
        self._editions, self._otel = editions, Otel()
        resource = self._otel.resources.Resource.create(
            {"service.name": "fraudgate", "service.version": fraudgate.__version__}
        )
        self._made = self._otel.memory.InMemorySpanExporter()
        provider = self._otel.sdk.TracerProvider(
            sampler=self._otel.sampling.ALWAYS_ON, resource=resource, shutdown_on_exit=False
        )
        provider.add_span_processor(self._otel.export.SimpleSpanProcessor(self._made))
        self._tracer = provider.get_tracer("fraudgate", fraudgate.__version__)

    def exporter(self, endpoint: str) -> Any:
        """To a collector's address, with or without the path of traces."""
        url = endpoint.rstrip("/")
        return self._otel.otlp.OTLPSpanExporter(url if url.endswith("/v1/traces") else f"{url}/v1/traces")

    def of(self, traced: Traced) -> Sequence[Any]:
        """Ended spans, as an exporter takes them."""
        decided = traced.answers[traced.answers["status"] == Status.OK]
        links = [self._otel.trace.Link(self._batch(decided, traced.wall_ns))] if len(decided) else []
        for row, parent, slow in zip(traced.answers, traced.parents, traced.slow, strict=True):
            self._request(row, parent, slow, traced, links)
        spans: Sequence[Any] = self._made.get_finished_spans()
        self._made.clear()
        return spans

    def _batch(self, decided: Answers, wall_ns: int) -> Any:
        first = decided[0]
        start_ns, end_ns = int(first["taken_up_ns"]), int(first["answered_ns"])
        attributes = {"fraudgate.batch_rows": int(first["batch_rows"])}
        span = self._tracer.start_span("batch", start_time=wall_ns + start_ns, attributes=attributes)
        span.end(wall_ns + end_ns)
        return span.get_span_context()

    def _request(self, row: Any, parent: Parent | None, slow: bool, traced: Traced, links: list[Any]) -> None:
        good, wall_ns = row["status"] == Status.OK, traced.wall_ns
        stamps_ns = [wall_ns + int(row[name]) for name in (_STAMPS if good else _STAMPS[:2])]
        span = self._tracer.start_span(
            "score",
            context=self._context(parent),
            kind=self._otel.trace.SpanKind.SERVER,
            attributes={**self._attributes(row), "fraudgate.slow": slow},
            links=links if good else [],
            start_time=stamps_ns[0],
        )
        below = self._otel.trace.set_span_in_context(span)
        for stage, start_ns, end_ns in zip(_STAGES, stamps_ns, stamps_ns[1:], strict=False):
            self._tracer.start_span(stage, context=below, start_time=start_ns).end(end_ns)
        if not good:
            span.set_status(self._otel.trace.StatusCode.ERROR, CODE_NAMES[row["status"]])
        span.end(stamps_ns[-1] if good else wall_ns + traced.now_ns)

    def _context(self, parent: Parent | None) -> Any:
        if parent is None:
            return None
        trace = self._otel.trace
        flags = trace.TraceFlags(int(parent.sampled))
        remote = trace.SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(remote))

    def _attributes(self, row: Any) -> dict[str, Any]:
        known = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.grpc.status_code": int(row["status"])}
        if row["status"] != Status.OK:
            return known
        edition = self._editions[int(row["edition"])]
        return known | {
            "fraudgate.decision": Decision(row["decision"]).name.lower(),
            "fraudgate.fallback": Fallback(row["fallback"]).name.lower(),
            "fraudgate.model": f"{edition.model_name}/{edition.model_version}",
            "fraudgate.precision": edition.precision,
            "fraudgate.ruleset": edition.texts.version,
            "fraudgate.batch_rows": int(row["batch_rows"]),
        }
