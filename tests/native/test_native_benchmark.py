"""The benchmark of the native front end, at a size that cannot rot: its feed, its statistics and one short round."""

from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import native
from fraudgate.limits import SECOND_NS
from fraudgate.v1 import scoring_pb2


def rows(seconds: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "event_time": [second * SECOND_NS for second in seconds],
            "amount_minor": [100] * len(seconds),
            "currency": ["EUR"] * len(seconds),
            "customer_id": [f"C{second}" for second in seconds],
        }
    )


def test_a_feed_goes_on_where_the_last_run_stopped() -> None:
    feed = native.Feed(rows([10, 11, 12]))
    sent = []
    for count in (2, 2, 5):
        workload = feed.workload()
        for number in range(count):
            request = scoring_pb2.ScoreRequest.FromString(workload.request(number, 0)).transaction
            sent.append((request.event_time.seconds, request.customer_id))
        feed.advance(count)
    # The rows' span is 3 seconds, from the first event to a second after the last.
    assert [second for second, _ in sent] == list(range(10, 19))
    assert [customer for _, customer in sent] == ["C10", "C11", "C12"] * 3


def test_the_interval_holds_the_median_difference_of_pairs() -> None:
    pairs = [(12.0, 9.0), (13.0, 9.0), (14.0, 9.0), (15.0, 9.0), (16.0, 9.0)]
    low, high = native.interval(pairs)
    assert 3.0 <= low <= 5.0 <= high <= 7.0
    assert native.interval(pairs) == (low, high)
    assert native.interval([(2.0, 1.0)] * 5) == (1.0, 1.0)


def test_one_short_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SATURATED_SECONDS", 0.2)
    monkeypatch.setattr(native.traffic, "HISTORY_DAYS", 2)
    monkeypatch.setattr(native, "FOLLOWING_DAYS", 1)
    made = native.Traffic(tmp_path)
    with native.service(tmp_path, made, "native", budget_ns=0) as ours, native.echo(made) as theirs:
        mine, other = native.saturate(ours), native.saturate(theirs)
    assert mine.cpu_us_per_call > other.cpu_us_per_call > 0
    assert mine.python_us_per_batch > 0
    assert mine.calls_per_second > 0
