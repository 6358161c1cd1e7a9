"""The text of metric families against the client library's own writer."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from fraudgate.ops.exposition import exposition

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(st.integers(0, 2**62), st.floats(allow_nan=True), st.just(math.inf))


def library_text(families: list[Metric]) -> bytes:
    class Collector:
        def collect(self) -> list[Metric]:
            return families

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, VALUES), max_size=4))
def test_the_text_is_the_librarys(rows: list[tuple[str, str, str, float]]) -> None:
    families: list[Metric] = []
    for number, (text, first, second, value) in enumerate(rows):
        gauge = GaugeMetricFamily(f"gauge_{number}", text, labels=["b", "a"])
        gauge.add_metric([first, second], value)
        counter = CounterMetricFamily(f"counter_{number}_total", text, labels=["reason"])
        counter.add_metric([first], value)
        histogram = HistogramMetricFamily(f"seconds_{number}", text, labels=["stage"])
        histogram.add_metric([second], [("0.05", value), ("+Inf", 7)], 0.25)
        families += [gauge, counter, CounterMetricFamily(f"bare_{number}", text, value=value), histogram]
    pauses: list[None] = []
    assert exposition(families, lambda: pauses.append(None)) == library_text(families)
    assert len(pauses) == len(families)
