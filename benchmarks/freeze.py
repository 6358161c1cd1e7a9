"""A server that stands still for a second, and whether its callers' latencies say so.

The native front end, budget and deadlines off, under constant load for 30 s, r calls a second, few enough for a second
of them to fit the queue. Within it the process is stopped for S = 1 s, as measured. A call that is meant to leave u
after the stop waits S - u for its end and then for the r u calls before it, which take p u, p = r / saturation:
L(u) = S - (1 - p) u. Those that leave while the backlog is worked off follow the same line down to 0. So of all r D
calls the share 1 - q waits longer than

    v(q) = S - (1 - q) D (1 - p),    v(1) = S.

The client's p99, p99.9 and maximum are held against v(.99), v(.999) and S; the error of a run is the largest of the
three. A generator that waited for answers before it sent on would see one slow call, and a p99 of milliseconds.

A second run, at 10,000/s, has a backlog of ten queues: what it refuses is listed apart.
``python -m benchmarks.freeze [--json]``.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import alone
from benchmarks.native import CONNECTIONS, GRACE_NS, OPEN_RATE, Place, Traffic, saturate, service
from fraudgate import load
from fraudgate.limits import SECOND_NS
from fraudgate.scheduling import prefer_batches

RUNS = 5
SECONDS, STOP_SECONDS = 30.0, 1.0
STOP_AFTER_SECONDS = 1.0
RATE = 800.0
"""Of a stop that a busy host makes a quarter longer the backlog still fits ``batching.queue_rows_max``, 1,024."""
QUANTILES = {"p99": 0.99, "p999": 0.999, "max": 1.0}


def analytic_ns(quantile: float, stop_ns: float, seconds: float, share: float) -> float:
    """The latency that the share 1 - ``quantile`` of the calls exceeds; ``share`` is p, the load over saturation."""
    return stop_ns - (1 - quantile) * seconds * SECOND_NS * (1 - share)


def measured_ns(report: load.LoadReport, quantile: float) -> float:
    return report.max_ns["decided"] if quantile == 1 else report.decided.percentile(100 * quantile)


def errors(report: load.LoadReport, stop_ns: float, seconds: float, share: float) -> dict[str, float]:
    """How far the client's p99, p99.9 and maximum are from what they must be, relative; below 0: too low."""
    expected = {name: analytic_ns(quantile, stop_ns, seconds, share) for name, quantile in QUANTILES.items()}
    return {name: measured_ns(report, quantile) / expected[name] - 1 for name, quantile in QUANTILES.items()}


def stopped(place: Place, rate: float, seconds: float) -> tuple[load.LoadReport, float]:
    """Constant load with a stop of the server within it: the report, and the nanoseconds of the stop."""
    pace = load.Pace(round(seconds * SECOND_NS), rate=rate, arrivals="constant")
    destination = load.Destination(place.server.target, CONNECTIONS)
    running = load.Run(destination, pace, place.feed.workload(), GRACE_NS)
    with ThreadPoolExecutor(1) as thread:
        report = thread.submit(running.run)
        time.sleep(STOP_AFTER_SECONDS)
        started_ns = time.monotonic_ns()
        os.kill(place.server.pid, signal.SIGSTOP)
        try:
            time.sleep(STOP_SECONDS)
        finally:
            os.kill(place.server.pid, signal.SIGCONT)
        stop_ns = time.monotonic_ns() - started_ns
        place.feed.advance(report.result().sent)
        return report.result(), stop_ns


def fitting(place: Place, share: float) -> tuple[dict[str, float], int]:
    """A run whose backlog fits the queue: the errors of its percentiles, and the calls without a decision."""
    report, stop_ns = stopped(place, RATE, SECONDS)
    found = errors(report, stop_ns, SECONDS, share)
    undecided = report.sent - report.statuses.get("OK", 0)
    told = ", ".join(f"{name} {error:+.1%}" for name, error in found.items())
    print(f"  stopped for {stop_ns / SECOND_NS:.3f} s: {told}, {undecided} without a decision", file=sys.stderr)
    return found, undecided


def overflowing(place: Place) -> dict[str, float]:
    """A run whose backlog does not: what it refuses, and how long callers waited for that."""
    report, _ = stopped(place, OPEN_RATE, SECONDS)
    if report.lost_calls:
        raise RuntimeError(f"{place.server.name}: lost {report.lost}")
    return {
        "freeze_full_rate": OPEN_RATE,
        "freeze_full_rate_decided": report.decided.count,
        "freeze_full_rate_refused": report.refused.count,
        "freeze_full_rate_refused_max_ms": round(report.max_ns["refused"] / 1e6, 1),
        "freeze_full_rate_p99_ms": round(report.decided.percentile(99) / 1e6, 1),
    }


def worst(found: Mapping[str, float]) -> float:
    return max(abs(error) for error in found.values())


def measure(place: Place) -> dict[str, float]:
    saturate(place)  # warm
    share = RATE / saturate(place).calls_per_second
    runs = [fitting(place, share) for _ in range(RUNS)]
    return {
        "freeze_p999_error": round(statistics.median(worst(found) for found, _ in runs), 4),
        **{
            f"freeze_{name}_deviation": round(statistics.median(found[name] for found, _ in runs), 4)
            for name in QUANTILES
        },
        "freeze_undecided": sum(undecided for _, undecided in runs),
        **overflowing(place),
    }


def figures() -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("freeze"):
        return {}
    prefer_batches()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder, Traffic(folder), "native", budget_ns=0) as place:
            return measure(place)


if __name__ == "__main__":
    alone.main(__doc__, figures)
