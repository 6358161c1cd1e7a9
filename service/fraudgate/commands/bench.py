"""``fraudgate bench compare A B``: is the latency of B worse than that of A?

for i in 1 2 3 4 5; do ... fraudgate load --out a/$i.hlog; ... fraudgate load --out b/$i.hlog; done
fraudgate bench compare a b --stage client
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from fraudgate.errors import ConfigError
from fraudgate.latency.comparison import ALPHA, INTERVALS_MIN, RUNS_MIN, TAIL_VALUES_MIN, Comparison, Run, compare
from fraudgate.latency.report import read_hlog
from fraudgate.limits import MILLISECOND_NS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"At least {RUNS_MIN} runs a side, best taken in turns; else {INTERVALS_MIN} intervals a side, of which blocks "
        f"are compared. On each side at least {TAIL_VALUES_MIN} values beyond the percentile. Exit status: 0 not "
        "worse, 1 worse (of two sides that are alike at most one comparison in 100 says so), 2 too few to tell."
    )
    parser.add_argument("what", choices=("compare",), help="compare: is B worse than A?")
    side = "a .hlog file, several with commas between them, or a directory of them; one file is one run"
    parser.add_argument("a", metavar="A", help=side)
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument("--stage", default="total", help="what is compared (default: %(default)s; of a load: client)")
    parser.add_argument(
        "--percentile", type=_percent, default=99.0, metavar="P", help="which percentile of it (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON to stdout")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 0, or 1 when B is worse. Raises FraudgateError."""
    compared = compare(_side(args.a, args.stage), _side(args.b, args.stage), args.percentile)
    if args.json:
        print(json.dumps({"stage": args.stage, **asdict(compared), "worse": compared.worse}, indent=2))
    else:
        print(_text(compared, args.stage))
    return int(compared.worse)


def _text(compared: Comparison, stage: str) -> str:
    a, b, low, high = (ns / MILLISECOND_NS for ns in (compared.a_ns, compared.b_ns, compared.low_ns, compared.high_ns))
    verdict = "B is worse" if compared.worse else "B is not shown to be worse"
    share = 100 * (1 - 2 * ALPHA)
    return (
        f"{stage} p{compared.percent:g}: A {a:.3f} ms, B {b:.3f} ms, difference {b - a:+.3f} ms "
        f"({share:g} % interval {low:+.3f} to {high:+.3f})\n"
        f"{verdict}: {compared.units}, p = {compared.p_value:.4f}"
    )


def _side(text: str, stage: str) -> list[Run]:
    """The runs of one side: their intervals of ``stage``."""
    paths = sorted(Path(text).glob("*.hlog")) if Path(text).is_dir() else [Path(path) for path in text.split(",")]
    if not paths:
        raise ConfigError(f"{text}: no .hlog in this directory")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{text}: a log is named twice; it would count as two runs")
    runs: list[Run] = []
    for path in paths:
        intervals = read_hlog(path)
        found = [interval.distribution for interval in intervals if interval.stage == stage]
        if not found:
            stages = ", ".join(sorted({interval.stage for interval in intervals}))
            raise ConfigError(f"{path}: no stage {stage!r}; --stage one of {stages}")
        runs.append(found)
    return runs


def _percent(text: str) -> float:
    percent = float(text)
    if not 0 < percent < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return percent
