"""The simulator: what a simulated call costs, and how far its predicted latency is from a real server's.

Predicted and measured at 2,000/s, Poisson arrivals; medians of ``ROUNDS`` rounds, each calibrated by itself.
"""

import statistics
import sys

from fraudgate import load
from fraudgate.errors import ConfigError
from fraudgate.limits import MICROSECOND_NS
from fraudgate.simulation.comparison import compare
from fraudgate.simulation.profiles import PROFILES
from fraudgate.simulation.run import simulate

CALLS, ROUNDS = 200_000, 3
RATE, SECONDS = 2_000.0, 5.0


def figures() -> dict[str, float]:
    """The figures of the results file. Without the wheel fraudgate-ingress there is nothing to compare with."""
    results = [simulate(seed, CALLS, "all", PROFILES["all"]) for seed in range(ROUNDS)]
    broken = [str(result.broken) for result in results if result.broken]
    if broken:
        raise RuntimeError(broken[0])
    took_us = statistics.median(result.wall_ns / MICROSECOND_NS / CALLS for result in results)
    try:
        load.native()
    except ConfigError as error:
        print(f"  simulate: nothing to compare with, {error}", file=sys.stderr)
        return {"simulate_us_per_call": round(took_us, 1)}
    found = [compare(RATE, SECONDS, seed) for seed in range(ROUNDS)]
    return {
        "simulate_us_per_call": round(took_us, 1),
        "simulate_predicted_p99_ms": round(statistics.median(each.predicted_ms["p99"] for each in found), 2),
        "simulate_measured_p99_ms": round(statistics.median(each.measured_ms["p99"] for each in found), 2),
        "simulate_p99_difference_ms": round(statistics.median(each.difference_ms["p99"] for each in found), 2),
    }
