"""What watching costs the watched: the p99 of scoring watched as usual, by a thousand viewers, by 100 scrapes a second.

A native server at a steady rate, rounds of all of them and of none in turns. As usual: one page of the dashboard, and a
scrape in every window, three times what Prometheus asks for. A flood is a thousand viewers that ask once a second
whatever they are told, which the dashboard's page does not do.
``python -m benchmarks.watching [--json]``.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import alone
from benchmarks.native import GRACE_NS, Place, Traffic, interval, saturate, service
from fraudgate import load
from fraudgate.limits import SECOND_NS
from fraudgate.scheduling import prefer_batches

PAIRS, WINDOW_SECONDS = 5, 5.0
SETTLE_SECONDS = 4.0
LOAD_SHARE = 0.15
"""Of what the server can do: the watchers' own process needs some of the machine, too."""
SIDES: dict[str, list[list[str]]] = {
    "none": [],
    "usual": [["/dashboard.json", "1", "--obey"], ["/metrics", "1", "--every", f"{WINDOW_SECONDS:g}"]],
    "watching": [["/dashboard.json", "1000", "--obey"]],
    "scraping": [["/metrics", "100"]],
    "flood": [["/dashboard.json", "1000"]],
}
"""The arguments of the ``benchmarks.watchers`` of each side."""


@contextmanager
def watched(port: int, watchers: Sequence[Sequence[str]]) -> Iterator[None]:
    """Watched by these, which have come when the block begins; what they got goes to standard error."""
    command = [sys.executable, "-m", "benchmarks.watchers", str(port)]
    processes = [
        subprocess.Popen([*command, *each], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for each in watchers
    ]
    try:
        if processes:
            time.sleep(SETTLE_SECONDS)
        yield
    finally:
        for each, process in zip(watchers, processes, strict=True):
            told, _ = process.communicate()
            print(f"  {' '.join(each)}: {told.strip()}", file=sys.stderr)


def window(place: Place, rate: float, seed: int) -> tuple[float, int]:
    """One window of load: the p99 of the decided, milliseconds, and how many calls ended otherwise."""
    pace = load.Pace(int(WINDOW_SECONDS * SECOND_NS), rate=rate, seed=seed)
    report = load.Run(load.Destination(place.server.target), pace, place.feed.workload(), GRACE_NS).run()
    place.feed.advance(report.sent)
    return report.decided.percentile(99) / 1e6, report.sent - report.statuses.get("OK", 0)


def tails_ms(place: Place, rate: float, seed: int) -> dict[str, float]:
    """The p99 of each side, and as ``errors`` the calls of all sides that ended without a decision."""
    found: dict[str, float] = {"errors": 0}
    for side in [*SIDES] if seed % 2 else [*SIDES][::-1]:
        with watched(place.ops, SIDES[side]):
            found[side], errors = window(place, rate, seed)
            found["errors"] += errors
    print(f"  p99 {found} ms", file=sys.stderr)
    return found


def compare(rounds: Sequence[Mapping[str, float]], rate: float) -> dict[str, float]:
    """Ratios to the unwatched window of the same round: medians and their bootstrap intervals."""
    unwatched = statistics.median(tails["none"] for tails in rounds)
    found: dict[str, float] = {"watching_rate": round(rate), "watching_p99_ms_without": round(unwatched, 2)}
    found["watching_errors"] = sum(tails["errors"] for tails in rounds)
    for side in [*SIDES][1:]:
        ratios = [tails[side] / tails["none"] for tails in rounds]
        low, high = interval([(ratio, 0.0) for ratio in ratios])
        found[f"{side}_p99_ratio"] = round(statistics.median(ratios), 3)
        found[f"{side}_p99_ratio_low"], found[f"{side}_p99_ratio_high"] = round(low, 3), round(high, 3)
    return found


def figures() -> Mapping[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("watching"):
        return {}
    prefer_batches()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder, Traffic(folder), "native", budget_ns=0) as place:
            saturate(place)  # warm
            rate = saturate(place).calls_per_second * LOAD_SHARE
            return compare([tails_ms(place, rate, seed) for seed in range(1, PAIRS + 1)], rate)


if __name__ == "__main__":
    alone.main(__doc__, figures)
