"""The benchmark of changes under load, at a size that cannot rot."""

from pathlib import Path

import grpc
import pytest

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import swap
from benchmarks.native import EVENT_NOW, Traffic, service
from fraudgate import load
from fraudgate.limits import SECOND_NS


def window(place: swap.Place, rate: float, seed: int) -> load.LoadReport:
    pace = load.Pace(SECOND_NS * 6 // 10, rate=500.0, seed=seed)
    report = load.Run(load.Destination(place.server.target), pace, place.feed.workload(), SECOND_NS).run()
    place.feed.advance(report.sent)
    return report


def test_the_queue_holds_what_comes_within_the_budget() -> None:
    assert [swap.queue_rows(rate) for rate in (1_000.0, 20_480.0, 20_500.0, 52_000.0)] == [1024, 1024, 2048, 4096]


def test_one_short_pair_and_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "PAIRS", 1)
    monkeypatch.setattr(swap, "WINDOWS", 1)
    monkeypatch.setattr(swap, "ROLLBACKS", 1)
    monkeypatch.setattr(swap, "CHANGE_SECONDS", 0.1)
    monkeypatch.setattr(swap, "window", window)
    monkeypatch.setattr("benchmarks.native.SATURATED_SECONDS", 0.2)
    monkeypatch.setattr(swap.traffic, "HISTORY_DAYS", 2)
    monkeypatch.setattr("benchmarks.native.FOLLOWING_DAYS", 2)
    swap.publish_versions(tmp_path / "models")
    model = {"repository": str(tmp_path / "models"), "name": swap.MODEL, "version": swap.VERSIONS[0]}
    sections = {"model": model, "event_time": {"now": EVENT_NOW}}
    with (
        service(tmp_path, Traffic(tmp_path), "native", sections, budget_ns=0) as place,
        grpc.insecure_channel(place.server.control) as control,
        grpc.insecure_channel(place.server.target) as data,
    ):
        found = swap.measure(place, swap.Operator(place, control), data)
    assert (found["swap_errors"], found["swap_changes"]) == (0, 2)
    assert 0 <= found["rollback_ms"] < 1_000
