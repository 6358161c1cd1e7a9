"""The benchmark of watching, at a size that cannot rot."""

from pathlib import Path

import pytest

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import watching
from benchmarks.native import Traffic, service


@pytest.mark.slow
def test_one_short_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watching, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(watching, "SETTLE_SECONDS", 1.5)
    monkeypatch.setattr(watching, "SIDES", {"none": [], "watching": [["/dashboard.json", "20", "--obey"]]})
    monkeypatch.setattr("benchmarks.native.traffic.HISTORY_DAYS", 2)
    monkeypatch.setattr("benchmarks.native.FOLLOWING_DAYS", 2)
    with service(tmp_path, Traffic(tmp_path), "native", budget_ns=0) as place:
        tails = watching.tails_ms(place, 200.0, 1)
    assert tails.pop("errors") == 0
    assert min(tails.values()) > 0
    assert '/dashboard.json 20 --obey: {"200": ' in capsys.readouterr().err


def test_ratios_are_to_the_unwatched_window_of_the_same_round() -> None:
    sides = {"none": 1, "usual": 1, "watching": 1, "scraping": 2, "flood": 3}
    rounds = [{side: times * ms for side, times in sides.items()} | {"errors": 1} for ms in (1.0, 5.0, 20.0)]
    found = watching.compare(rounds, 1_000.0)
    assert [found[f"{side}_p99_ratio"] for side in ("usual", "watching", "scraping", "flood")] == [1, 1, 2, 3]
    assert found["scraping_p99_ratio_low"] == found["scraping_p99_ratio_high"] == 2
    assert (found["watching_p99_ms_without"], found["watching_errors"]) == (5, 3)
