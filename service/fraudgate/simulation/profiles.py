"""What a simulated run is made of: how calls come, and what goes wrong, in rates of simulated time."""

from dataclasses import dataclass, replace

from fraudgate.limits import MICROSECOND_NS, MILLISECOND_NS


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares are of all calls; ``*_hz`` are faults a second of simulated time."""

    rate: float = 8_000.0
    """Calls a second, on average, outside bursts."""
    burst_hz: float = 0.0
    burst_ns: int = 50 * MILLISECOND_NS
    burst_factor: float = 10.0
    retry_share: float = 0.0
    other_payload_share: float = 0.0
    """Of the retries: they carry another payload."""
    invalid_share: float = 0.0
    late_share: float = 0.0
    """Their event lies up to two days back."""
    deadline_share: float = 0.0
    cancel_share: float = 0.0
    """Their caller leaves after up to 10 ms."""
    engine_ns: int = 0
    """What one run of the engine takes on average; 0 = as calibrated."""
    stall_hz: float = 0.0
    store_slow_hz: float = 0.0
    store_failure_hz: float = 0.0
    engine_slow_hz: float = 0.0
    engine_failure_hz: float = 0.0
    engine_unusable_hz: float = 0.0
    log_crash_hz: float = 0.0
    swap_hz: float = 0.0
    outcome_hz: float = 0.0
    """Not a fault: a payment is reported as fraud."""


_MIXED = Profile(
    retry_share=0.02,
    other_payload_share=0.2,
    invalid_share=0.005,
    late_share=0.03,
    deadline_share=0.5,
    cancel_share=0.01,
    outcome_hz=20.0,
)
_FAULTS = replace(
    _MIXED,
    stall_hz=1.0,
    store_slow_hz=0.3,
    store_failure_hz=0.5,
    engine_slow_hz=0.3,
    engine_failure_hz=0.3,
    engine_unusable_hz=0.2,
    log_crash_hz=0.2,
    swap_hz=0.5,
)
PROFILES = {
    "calm": Profile(),
    "burst": replace(_MIXED, burst_hz=0.5, engine_ns=1_500 * MICROSECOND_NS),
    "faults": _FAULTS,
    "all": replace(_FAULTS, burst_hz=0.5),
}
