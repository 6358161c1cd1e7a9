"""Short simulated runs in which much goes wrong, and a bug to inject."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fraudgate.features.embedded import EmbeddedStore
from fraudgate.simulation.profiles import PROFILES, Profile
from fraudgate.simulation.run import Result, simulate

FEW = 5_000
ROUGH = replace(
    PROFILES["all"],
    retry_share=0.05,
    other_payload_share=0.5,
    cancel_share=0.05,
    burst_hz=4.0,
    stall_hz=10.0,
    store_failure_hz=4.0,
    engine_slow_hz=10.0,
    swap_hz=8.0,
)
"""So much goes wrong that a few thousand calls meet all of it."""


def rough(seed: int = 1, profile: Profile = ROUGH) -> Result:
    return simulate(seed, FEW, "rough", profile)


def miscount_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    gather = EmbeddedStore.apply_and_gather

    def off(self: EmbeddedStore, columns: Any, rows: Sequence[int]) -> Any:
        gathered = gather(self, columns, rows)
        gathered.values[:, self.schema.names.index("CUSTOMER_ID_NB_TX_7DAY_WINDOW")] += 1
        return gathered

    monkeypatch.setattr(EmbeddedStore, "apply_and_gather", off)
