"""The benchmark of ten minutes, at a size that cannot rot: its slope, its growth and a few short windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import soak

MINUTES = np.arange(1, 61) / 6


@settings(max_examples=20)
@given(slope=st.floats(-2, 2), level=st.floats(1, 40), seed=st.integers(0, 2**32 - 1))
def test_the_interval_holds_the_slope_of_a_disturbed_line(slope: float, level: float, seed: int) -> None:
    source = np.random.default_rng(seed)
    values = level + slope * MINUTES + source.normal(0, 0.2, len(MINUTES))
    values[source.choice(len(MINUTES), 5, replace=False)] += 200  # seconds that a neighbour took
    best, low, high = soak.slope(MINUTES, values)
    assert low <= best <= high
    # Wider than its interval: that one misses once in twenty.
    assert low - 0.1 <= slope <= high + 0.1
    assert high - low < 0.5


def test_a_slope_is_exact_where_there_is_no_noise_and_does_not_depend_on_the_run() -> None:
    values = 3 + 0.25 * MINUTES
    assert soak.slope(MINUTES, values) == pytest.approx((0.25, 0.25, 0.25))
    noisy = values + np.sin(MINUTES * 40)
    assert soak.slope(MINUTES, noisy) == soak.slope(MINUTES, noisy)
    assert soak.slope(MINUTES[:2], values[:2]) == pytest.approx((0.25, 0.25, 0.25))


def test_growth_is_from_the_first_minute_to_the_last_whatever_a_window_took() -> None:
    assert soak.Soak(resident_bytes=[200] * 4 + [250] * 2 + [900] * 20 + [300] + [210] * 5).growth == pytest.approx(
        0.05
    )


@pytest.mark.slow
def test_short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.native.FOLLOWING_DAYS", 2)
    monkeypatch.setattr("benchmarks.traffic.HISTORY_DAYS", 2)
    small = {"WINDOW_SECONDS": 0.3, "SATURATED_SECONDS": 0.2, "WARM_UP_SECONDS": 0.5, "SHARE": 0.2}
    for name, value in {**small, "DECISIONS_KEPT": 1_000, "SATURATED_RUNS": 1}.items():
        monkeypatch.setattr(soak, name, value)
    found = soak.figures(minutes=0.03)
    assert found["soak_minutes"] >= 0
    assert found["soak_warm_up_minutes"] >= 0
    assert found["soak_rate"] > 0
    assert found["soak_p99_slope_ms_per_minute_low"] <= found["soak_p99_slope_ms_per_minute_high"]
    assert abs(found["soak_rss_growth"]) < 1
