"""The names by which dashboards of gRPC servers go: ``grpc_server_started_total``, ``_handled_total``,
``_handling_seconds``.

``grpc.aio`` counts calls by method. The native front end counts transactions: there the samples carry no ``grpc_type``
and ``grpc_method``, a row of ScoreBatch or ScoreStream counts as a call, and calls under way are not told.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fraudgate.latency.calls import METHOD_TYPES, CallsCopy
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.recorder import CountersCopy
from fraudgate.limits import SECOND_NS
from fraudgate.ops.buckets import buckets_of

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

SERVICE = "fraudgate.v1.ScoringService"
_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_REPLAYS = "fraudgate_idempotent_replays_total"

CODE_OF_REASON = {
    "budget": "ResourceExhausted",
    "cancelled": "Canceled",
    "conflict": "AlreadyExists",
    "deadline": "DeadlineExceeded",
    "fairness": "ResourceExhausted",
    "internal": "Internal",
    "invalid": "InvalidArgument",
    "not_allowed": "PermissionDenied",
    "overload": "ResourceExhausted",
    "priority": "ResourceExhausted",
    "queue_full": "ResourceExhausted",
    "unauthenticated": "Unauthenticated",
    "unavailable": "Unavailable",
    "undecodable": "InvalidArgument",
}
"""What a refusal that is counted by reason ends with. ``invalid`` holds also the few messages over 1 MiB."""


def of_calls(calls: CallsCopy) -> Iterator["Metric"]:
    """From calls counted one by one."""
    from prometheus_client.core import CounterMetricFamily

    started = CounterMetricFamily("grpc_server_started_total", "Calls begun on the server.", labels=_METHOD)
    handled, seconds = _handled([*_METHOD, "grpc_code"]), _handling_seconds(list(_METHOD))
    for method, count in calls.started.items():
        started.add_metric(_labels(method), count)
    for (method, code), count in calls.handled.items():
        handled.add_metric([*_labels(method), code], count)
    for method, took in calls.took.items():
        seconds.add_metric(_labels(method), buckets_of(took), took.sum_ns / SECOND_NS)
    yield from (started, handled, seconds)


def of_transactions(counters: CountersCopy, stages: Mapping[str, Distribution]) -> Iterator["Metric"]:
    """From transactions counted by what they ended with, whatever the method."""
    codes = Counter(dict.fromkeys(CODE_OF_REASON.values(), 0))
    codes["OK"] = sum(counters.decisions.values()) + counters.totals[_REPLAYS]
    for reason, count in counters.refusals.items():
        codes[CODE_OF_REASON.get(reason, "Unknown")] += count
    handled, seconds = _handled(["grpc_service", "grpc_code"]), _handling_seconds(["grpc_service"])
    for code, count in codes.items():
        handled.add_metric([SERVICE, code], count)
    total = stages["total"]
    seconds.add_metric([SERVICE], buckets_of(total), total.sum_ns / SECOND_NS)
    yield from (handled, seconds)


def _labels(method: str) -> list[str]:
    return [METHOD_TYPES[method], SERVICE, method]


def _handled(labels: list[str]) -> "CounterMetricFamily":
    from prometheus_client.core import CounterMetricFamily

    text = "Calls ended, by code; without grpc_method: transactions, of any method."
    return CounterMetricFamily("grpc_server_handled_total", text, labels=labels)


def _handling_seconds(labels: list[str]) -> "HistogramMetricFamily":
    from prometheus_client.core import HistogramMetricFamily

    text = "From the arrival of a call to its end; without grpc_method: of a decided transaction, to its decision."
    return HistogramMetricFamily("grpc_server_handling_seconds", text, labels=labels)
