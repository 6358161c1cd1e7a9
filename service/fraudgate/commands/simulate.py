"""``fraudgate simulate``: the whole service on a fake clock, with faults, and every invariant checked.

    fraudgate simulate --seed 7                          a million calls with bursts and faults
    fraudgate simulate --seed 7 --requests 20000 --profile burst --json
    fraudgate simulate --calibrate                       what the stages cost on this machine
    fraudgate simulate --compare --rate 2000             predicted latency beside that of a real server

Door, batcher, pipeline, idempotency, windows, rules, recorder, canary and rollback are the real ones; the clock, the
callers, and how long stores and engines take are not. The same seed gives the same calls, faults and answers, byte by
byte: the digest says so. An invariant that does not hold ends the run at that call, with the command that repeats it.

Profiles: calm (Poisson arrivals), burst (ten times the rate now and then, and an engine that is then too slow),
faults (stalls, slow and failing store and engine, unusable scores, a dead log writer, engines swapped), all.

Exit status 1: an invariant broke. 2: usage.
"""

import argparse
import json

from fraudgate.config import Config
from fraudgate.progress import Progress
from fraudgate.simulation.profiles import PROFILES

REQUESTS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate simulate``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (__doc__ or "").replace("``", "")
    parser.add_argument("--seed", type=_whole, default=1, metavar="N", help="of calls, faults and costs (1)")
    parser.add_argument("--requests", type=_count, default=REQUESTS, metavar="N", help=f"calls ({REQUESTS:,})")
    parser.add_argument("--profile", choices=[*PROFILES], default="all", help="what happens (all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--calibrate", action="store_true", help="measure what the stages cost here, and end")
    other.add_argument("--compare", action="store_true", help="predict and measure a real server's latency, and end")
    parser.add_argument("--rate", type=_positive, default=2_000.0, metavar="R", help="of --compare: calls a second")
    parser.add_argument("--duration", type=_positive, default=5.0, metavar="S", help="of --compare: seconds")


def run(args: argparse.Namespace) -> int:
    """Simulate and report; 1 where an invariant broke. Raises FraudgateError."""
    if args.calibrate:
        return _calibrate(args)
    return _compare(args) if args.compare else _simulate(args)


def _simulate(args: argparse.Namespace) -> int:
    from fraudgate.simulation import report
    from fraudgate.simulation.run import simulate

    with Progress("simulating", args.requests, "calls") as progress:
        result = simulate(args.seed, args.requests, args.profile, PROFILES[args.profile], tick=progress.reach)
    print(json.dumps(report.as_json(result), indent=2) if args.json else "\n".join(report.lines(result)))
    return 1 if result.broken is not None else 0


def _calibrate(args: argparse.Namespace) -> int:
    from fraudgate.simulation.calibration import as_json, calibrate, render

    costs = calibrate(Config())
    print(json.dumps(as_json(costs), indent=2) if args.json else "\n".join(render(costs)))
    return 0


def _compare(args: argparse.Namespace) -> int:
    from fraudgate.simulation.comparison import as_json, compare, render

    found = compare(args.rate, args.duration, args.seed)
    print(json.dumps(as_json(found), indent=2) if args.json else "\n".join(render(found)))
    return 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number under 2^63")
    return int(text)


def _count(text: str) -> int:
    if not 1 <= _whole(text) <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of calls from 1 to 100,000,000")
    return int(text)
