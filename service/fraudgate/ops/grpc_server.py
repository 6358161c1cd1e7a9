"""The names by which dashboards of gRPC servers go: ``grpc_server_started_total``, ``_handled_total``,
``_handling_seconds``.

Both front ends count calls by method. The native one measures decisions, not calls: there the samples of
``_handling_seconds`` carry no ``grpc_type`` and ``grpc_method``, and a row of ScoreBatch or ScoreStream counts as one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fraudgate.latency.calls import METHODS, SERVICE, CallsCopy
from fraudgate.latency.histogram import Distribution
from fraudgate.limits import SECOND_NS
from fraudgate.ops.buckets import buckets_of

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

_METHOD = ("grpc_type", "grpc_service", "grpc_method")


def of_calls(calls: CallsCopy, decided: Distribution) -> Iterator["Metric"]:
    """From calls counted one by one. ``decided``: what decisions took, for where calls were not measured."""
    from prometheus_client.core import CounterMetricFamily

    started = CounterMetricFamily("grpc_server_started_total", "Calls begun on the server.", labels=_METHOD)
    handled = CounterMetricFamily("grpc_server_handled_total", "Calls ended, by code.", labels=[*_METHOD, "grpc_code"])
    for method, count in calls.started.items():
        started.add_metric(_labels(method), count)
    for (method, code), count in calls.handled.items():
        handled.add_metric([*_labels(method), code], count)
    yield from (started, handled)
    if calls.took:
        seconds = _handling_seconds(list(_METHOD))
        for method, took in calls.took.items():
            seconds.add_metric(_labels(method), buckets_of(took), took.sum_ns / SECOND_NS)
    else:
        seconds = _handling_seconds(["grpc_service"])
        seconds.add_metric([SERVICE], buckets_of(decided), decided.sum_ns / SECOND_NS)
    yield seconds


def _labels(method: str) -> list[str]:
    return [*METHODS[method], method]


def _handling_seconds(labels: list[str]) -> "HistogramMetricFamily":
    from prometheus_client.core import HistogramMetricFamily

    text = "From the arrival of a call to its end; without grpc_method: of a decided transaction, to its decision."
    return HistogramMetricFamily("grpc_server_handling_seconds", text, labels=labels)
