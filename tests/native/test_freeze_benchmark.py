"""The benchmark of a server that stands still: its formula against a queue call by call, and one short run."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import freeze
from benchmarks.native import Traffic, saturate, service
from fraudgate.limits import SECOND_NS


def waits_ns(rate: float, capacity: float, seconds: float, stop_ns: float) -> list[float]:
    """Call by call: constant arrivals, first come first served, and nothing served for ``stop_ns`` after a second."""
    free_ns, waits = 0.0, []
    for arrival_ns in np.arange(0, seconds * SECOND_NS, SECOND_NS / rate).tolist():
        start_ns = max(arrival_ns, free_ns)
        if SECOND_NS <= start_ns < SECOND_NS + stop_ns:
            start_ns = SECOND_NS + stop_ns
        free_ns = start_ns + SECOND_NS / capacity
        waits.append(free_ns - arrival_ns)
    return waits


@given(
    rate=st.floats(400, 1_000), share=st.floats(0.001, 0.5), stop=st.floats(0.5, 1.2), quantile=st.floats(0.99, 0.9995)
)
def test_the_formula_is_what_a_queue_does(rate: float, share: float, stop: float, quantile: float) -> None:
    seconds = 20.0
    waits = np.sort(waits_ns(rate, rate / share, seconds, stop * SECOND_NS))
    # The formula is of a fluid: calls come one by one, and their own service takes p / rate.
    allowed_ns = 2 * SECOND_NS / rate
    expected = freeze.analytic_ns(quantile, stop * SECOND_NS, seconds, share)
    found = waits[int(np.ceil(quantile * len(waits))) - 1]
    assert abs(found - expected) <= allowed_ns
    assert abs(waits[-1] - freeze.analytic_ns(1.0, stop * SECOND_NS, seconds, share)) <= allowed_ns


@pytest.mark.slow
def test_one_short_stop_and_one_that_the_queue_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.native.SATURATED_SECONDS", 0.2)
    monkeypatch.setattr("benchmarks.native.FOLLOWING_DAYS", 2)
    monkeypatch.setattr("benchmarks.traffic.HISTORY_DAYS", 2)
    for name, value in {"RUNS": 1, "SECONDS": 2.0, "STOP_SECONDS": 0.3, "STOP_AFTER_SECONDS": 0.5}.items():
        monkeypatch.setattr(freeze, name, value)
    with service(tmp_path, Traffic(tmp_path), "native", budget_ns=0) as place:
        assert saturate(place).calls_per_second > freeze.RATE
        found = freeze.measure(place)
    # A busy host makes a stop longer, never shorter.
    assert min(found[f"freeze_{name}_deviation"] for name in freeze.QUANTILES) > -0.05
    assert found["freeze_undecided"] == 0
    assert found["freeze_full_rate_decided"] + found["freeze_full_rate_refused"] == pytest.approx(
        freeze.SECONDS * freeze.OPEN_RATE, abs=1
    )
    assert found["freeze_full_rate_refused"] > 0
