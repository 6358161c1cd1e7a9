"""``grpc_server_*`` and ``process_*``: the names that dashboards of this field go by."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.latency.calls import CODE_NAMES, SERVICE, Calls, NativeCalls
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.ops.kept import Kept
from fraudgate.ops.metrics import REASONS, TEXT_NS, Metrics

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render()[1].decode())}


def values(family: Metric, suffix: str) -> dict[tuple[str, ...], float]:
    """By label values, in the order of the labels' names."""
    samples = (sample for sample in family.samples if sample.name == family.name + suffix)
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


def test_calls_are_counted_by_method_and_code() -> None:
    calls = Calls()
    for code, took_ns in (("OK", 4 * MS), ("OK", 40 * MS), ("ResourceExhausted", MS)):
        calls.start("Score")
        calls.end("Score", code, took_ns)
    calls.start("ScoreStream")
    found = families(Metrics(Recorder(), Counters(), {}, calls=calls))
    assert values(found["grpc_server_started"], "_total") == {
        ("Score", SERVICE, "unary"): 3,
        ("ScoreBatch", SERVICE, "unary"): 0,
        ("ScoreStream", SERVICE, "bidi_stream"): 1,
    }
    assert values(found["grpc_server_handled"], "_total") == {
        ("OK", "Score", SERVICE, "unary"): 2,
        ("OK", "ScoreBatch", SERVICE, "unary"): 0,
        ("OK", "ScoreStream", SERVICE, "bidi_stream"): 0,
        ("ResourceExhausted", "Score", SERVICE, "unary"): 1,
    }
    buckets = values(found["grpc_server_handling_seconds"], "_bucket")
    assert buckets["Score", SERVICE, "unary", "0.005"] == 2
    assert buckets["Score", SERVICE, "unary", "0.05"] == buckets["Score", SERVICE, "unary", "+Inf"] == 3


def test_native_calls_are_counted_likewise_and_their_seconds_are_those_of_decisions() -> None:
    recorder = Recorder()
    recorder.record("total", np.array([4 * MS, 60 * MS], np.int64))
    ended = [0] * len(CODE_NAMES)
    ended[CODE_NAMES.index("ResourceExhausted")] = 2
    calls = NativeCalls(lambda: [("Score", 3, ended), ("Check", 0, [0] * len(CODE_NAMES))])
    found = families(Metrics(recorder, Counters(), {}, calls=calls))
    health = "grpc.health.v1.Health"
    assert values(found["grpc_server_started"], "_total") == {
        ("Score", SERVICE, "unary"): 3,
        ("Check", health, "unary"): 0,
    }
    assert values(found["grpc_server_handled"], "_total") == {
        ("OK", "Score", SERVICE, "unary"): 0,
        ("ResourceExhausted", "Score", SERVICE, "unary"): 2,
        ("OK", "Check", health, "unary"): 0,
    }
    assert values(found["grpc_server_handling_seconds"], "_bucket")[SERVICE, "0.05"] == 1


def counted_reasons() -> Iterator[str]:
    """Every reason that the sources count a refusal by."""
    for path in (ROOT / "service" / "fraudgate").rglob("*.py"):
        text = path.read_text()
        yield from re.findall(r'count_refusal\("(\w+)"', text)
        yield from re.findall(r'_refuse\(refused, row, Status\.\w+, "(\w+)"', text)
    names = (ROOT / "service/ingress/src/server/counts.rs").read_text().partition("NAMES: ")[2].partition("];")[0]
    yield from (name for name in re.findall(r'"(\w+)"', names) if not name.startswith("fraudgate_"))


def test_every_reason_has_its_series() -> None:
    reasons = set(counted_reasons())
    assert {"queue_full", "conflict", "undecodable", "cancelled"} <= reasons
    assert reasons <= set(REASONS), "give it a series in REASONS of ops/metrics.py"


def test_the_process_tells_what_it_uses() -> None:
    found = families(Metrics(Recorder(), Counters(), {}))
    for name in (
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ):
        [sample] = found[name].samples
        assert sample.value > 0


def test_a_text_serves_every_scrape_of_its_time() -> None:
    now_ns, counters = [0], Counters()
    metrics = Metrics(Recorder(), counters, {}, clock=lambda: now_ns[0])
    first = metrics.render()
    counters.count_refusal("queue_full")
    now_ns[0] = TEXT_NS - 1
    assert metrics.render() is first
    now_ns[0] = TEXT_NS
    assert b'reason="queue_full"' in metrics.render()[1]


def test_what_could_not_be_made_is_tried_again() -> None:
    answers = iter([ZeroDivisionError(), 7])

    def make() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(make, 10, lambda: 0)
    try:
        kept.get()
    except ZeroDivisionError:
        assert kept.get() == kept.get() == 7
    else:
        raise AssertionError("what make raises must come through")
