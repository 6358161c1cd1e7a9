"""Ten minutes at 70 % of what the native server can do: does the tail drift, does memory grow?

The configuration is the default one. Load comes in windows of 10 s, Poisson, one after the other, with connections of
their own and ids that nobody has sent before; at the end of each a scraper reads ``/metrics``. Event time runs on, so
windows of features lose events as they gain others.

Some memory fills by design, once. The idempotency table and the index of recent decisions, for outcomes, keep the last
two million; the arena of the windows grows until each customer's busiest month has been seen; the drift watch and the
allocator's reserves settle within a minute. So the warm-up lasts until the decisions that are kept have all been
replaced once, and at least ``WARM_UP_SECONDS``. Memory is read when a window is over. The slope is that of Theil and
Sen, the median of the slopes of all pairs of windows, which a few disturbed windows do not move; its 95 % interval
comes from blocks of a minute's residuals drawn anew, because a busy neighbour stays for more than one window.
``python -m benchmarks.soak [--minutes 10] [--json]``.
"""

import argparse
import json
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from benchmarks import alone
from benchmarks.native import CONNECTIONS, GRACE_NS, Place, Traffic, service
from fraudgate import load
from fraudgate.limits import IDEMPOTENCY_ENTRIES_MAX, OUTCOME_INDEX_ENTRIES_MAX, SECOND_NS
from fraudgate.scheduling import prefer_batches

MINUTES = 10.0
WINDOW_SECONDS = 10.0
SHARE = 0.7
WARM_UP_SECONDS, WARM_UP_SEEDS = 60.0, 1_000_000
SATURATED_SECONDS, SATURATED_RUNS, IN_FLIGHT = 3.0, 3, 256
EVENT_NOW = "2200-01-01T00:00:00+00:00"
"""After every event: at full rate ten minutes are a decade of the simulated town's."""
DECISIONS_KEPT = max(IDEMPOTENCY_ENTRIES_MAX, OUTCOME_INDEX_ENTRIES_MAX)
BLOCK_WINDOWS = 6
RESAMPLES = 2_000

Floats = npt.NDArray[np.float64]


def steepness(minutes: Floats, values: Floats) -> float:
    """The median of the slopes of all pairs, per minute."""
    i, j = np.triu_indices(len(values), 1)
    return float(np.median((values[j] - values[i]) / (minutes[j] - minutes[i])))


def slope(minutes: Floats, values: Floats, seed: int = 1) -> tuple[float, float, float]:
    """The slope per minute and its 95 % interval. minutes: ascending, [n]; values: [n], n >= 2."""
    best = steepness(minutes, values)
    residuals = values - best * minutes
    size, source = min(BLOCK_WINDOWS, len(values)), np.random.default_rng(seed)
    blocks = -(-len(values) // size)
    starts = source.integers(0, len(values), (RESAMPLES, blocks, 1))
    drawn = ((starts + np.arange(size)) % len(values)).reshape(RESAMPLES, -1)[:, : len(values)]
    low, high = np.percentile([steepness(minutes, residuals[each]) for each in drawn], (2.5, 97.5))
    return best, best + float(low), best + float(high)


@dataclass(slots=True)
class Soak:
    """What the windows have seen so far."""

    minutes: list[float] = field(default_factory=list)
    """When each ended, since the first began."""
    p99_ms: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    decided: int = 0
    refused: int = 0

    @property
    def growth(self) -> float:
        """Of resident memory, from the first minute to the last, medians of their windows, relative."""
        first, last = self.resident_bytes[:BLOCK_WINDOWS], self.resident_bytes[-BLOCK_WINDOWS:]
        return float(np.median(last) / np.median(first)) - 1


def send(place: Place, pace: load.Pace) -> load.LoadReport:
    """One run of load, of which no call may be lost; refusals are answers."""
    destination = load.Destination(place.server.target, CONNECTIONS)
    report = load.Run(destination, pace, place.feed.workload(), GRACE_NS).run()
    place.feed.advance(report.sent)
    place.server.check_alive()
    if report.lost_calls:
        raise RuntimeError(f"{place.server.name}: lost {report.lost}")
    return report


def saturation(place: Place) -> float:
    """Decisions a second, closed loop: the median of a few runs after one that warms up."""
    pace = load.Pace(int(SATURATED_SECONDS * SECOND_NS), concurrency=IN_FLIGHT)
    reports = [send(place, pace) for _ in range(1 + SATURATED_RUNS)][1:]
    return float(np.median([report.answered_per_second * report.decided.count / report.answered for report in reports]))


def scrape(place: Place) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{place.ops}/metrics", timeout=5) as answer:
        answer.read()


def window(place: Place, rate: float, seed: int, into: Soak, started: float) -> None:
    report = send(place, load.Pace(int(WINDOW_SECONDS * SECOND_NS), rate=rate, seed=seed))
    scrape(place)
    into.minutes.append((monotonic() - started) / 60)
    into.p99_ms.append(report.decided.percentile(99) / 1e6)
    into.resident_bytes.append(place.server.resident_bytes() or 0)
    into.decided += report.decided.count
    into.refused += report.refused.count
    print(
        f"  {into.minutes[-1]:5.2f} min: p99 {into.p99_ms[-1]:6.2f} ms, {into.resident_bytes[-1] / 2**20:7.2f} MiB,"
        f" {report.sent:,} sent, {report.refused.count:,} refused",
        file=sys.stderr,
        flush=True,
    )


def warm_up(place: Place, rate: float) -> float:
    """Windows until what fills by design is full; the minutes that took."""
    warming, started = Soak(), monotonic()
    while warming.decided < 2 * DECISIONS_KEPT or monotonic() - started < WARM_UP_SECONDS:
        window(place, rate, WARM_UP_SEEDS + len(warming.minutes), warming, started)
    return warming.minutes[-1]


def measure(place: Place, minutes: float) -> dict[str, float]:
    rate = SHARE * saturation(place)
    print(f"  {rate:,.0f}/s; warm-up", file=sys.stderr)
    warm_up_minutes = warm_up(place, rate)
    print("  soak", file=sys.stderr)
    soak, started = Soak(), monotonic()
    while monotonic() - started < 60 * minutes:
        window(place, rate, len(soak.minutes), soak, started)
    minutes_at = np.array(soak.minutes)
    best, low, high = slope(minutes_at, np.array(soak.p99_ms))
    return {
        "soak_minutes": round(soak.minutes[-1], 1),
        "soak_warm_up_minutes": round(warm_up_minutes, 1),
        "soak_rate": round(rate),
        "soak_p99_ms": round(float(np.median(soak.p99_ms)), 2),
        "soak_p99_slope_ms_per_minute": round(best, 3),
        "soak_p99_slope_ms_per_minute_low": round(low, 3),
        "soak_p99_slope_ms_per_minute_high": round(high, 3),
        "soak_refused_share": round(soak.refused / (soak.decided + soak.refused), 5),
        "soak_rss_mib": round(soak.resident_bytes[-1] / 2**20, 1),
        "soak_rss_mib_per_minute": round(steepness(minutes_at, np.array(soak.resident_bytes) / 2**20), 3),
        "soak_rss_growth": round(soak.growth, 5),
    }


def figures(minutes: float = MINUTES) -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("soak"):
        return {}
    prefer_batches()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder, Traffic(folder), "native", {"event_time": {"now": EVENT_NOW}}) as place:
            return measure(place, minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after the warm-up (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = figures(args.minutes)
    print(json.dumps(results) if args.json else "\n".join(f"{key:36} {value:>12,}" for key, value in results.items()))


if __name__ == "__main__":
    main()
