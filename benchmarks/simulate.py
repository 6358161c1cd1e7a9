"""The simulator: what a million simulated calls take, and how far its predicted latency is from a real server's.

Predicted and measured with Poisson arrivals, medians of ``ROUNDS`` rounds at each rate, each calibrated by itself.
"""

import statistics
import sys

from fraudgate import load
from fraudgate.errors import ConfigError
from fraudgate.limits import SECOND_NS
from fraudgate.simulation.comparison import compare
from fraudgate.simulation.profiles import PROFILES
from fraudgate.simulation.run import simulate

SEED, CALLS, ROUNDS = 7, 1_000_000, 3
RATES = {"2k": 2_000.0, "10k": 10_000.0}
"""Calls a second."""
SECONDS = 5.0


def figures() -> dict[str, float]:
    """The figures of the results file. Without the wheel fraudgate-ingress there is nothing to compare with."""
    result = simulate(SEED, CALLS, "all", PROFILES["all"])
    if result.broken:
        raise RuntimeError(str(result.broken))
    found: dict[str, float] = {"simulate_seconds_per_million": round(result.wall_ns / SECOND_NS, 1)}
    try:
        load.native()
    except ConfigError as error:
        print(f"  simulate: nothing to compare with, {error}", file=sys.stderr)
        return found
    for name, rate in RATES.items():
        rounds = [compare(rate, SECONDS, seed) for seed in range(ROUNDS)]
        for side in ("predicted", "measured", "difference"):
            values = [getattr(each, f"{side}_ms")["p99"] for each in rounds]
            found[f"simulate_{side}_p99_ms_at_{name}"] = round(statistics.median(values), 2)
    return found
