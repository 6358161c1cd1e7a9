"""``fraudgate load``: open-loop load, or saturation, and what a caller then sees.

    fraudgate load --rate 2000                           Poisson arrivals on the local server for 10 s
    fraudgate load --rate 2000 --arrivals burst --out run.hlog && fraudgate report run.hlog
    fraudgate load --concurrency 128 --json              as fast as the server answers, 128 calls at a time
    fraudgate load --rate 500 --transactions week.parquet --event-time data

Open loop: calls leave at times fixed beforehand, whatever the server does, and latency counts from the time at which a
call was *meant* to leave. A server that stalls for a second is seen to make every caller of that second wait.

Arrivals: poisson (independent callers), constant (evenly spaced), burst (Poisson, but for a tenth of every second ten
times as dense; the mean is --rate). The same --seed gives the same times and the same transactions.

Every call is a new transaction, RUN-NUMBER, from the project's simulator or from a Parquet file, begun anew when its
rows have run out (with --event-time data each time later by the span of the data).

Exit status 1: calls were lost (neither answer nor status), or the generator could not keep its own schedule. A refusal
is an answer: it is counted by status and its latency told apart. 2: usage, or nobody listens. Ctrl-C ends a run early;
what it has measured is reported.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from time import monotonic, time_ns

from fraudgate.errors import ConfigError
from fraudgate.latency.histogram import summarise
from fraudgate.latency.report import render_table
from fraudgate.limits import BUDGET_NS, MILLISECOND_NS, SECOND_NS
from fraudgate.load import (
    ARRIVALS,
    LAG_NS_MAX,
    PATH,
    TAGS,
    Destination,
    LoadReport,
    Pace,
    Run,
    native,
    parquet_rows,
    simulated_rows,
)
from fraudgate.progress import Progress
from fraudgate.sections import Server

HELP = "send load to a running server and measure what a caller sees"
_RUN = re.compile(r"[A-Za-z0-9._-]{1,40}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate load``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (__doc__ or "").replace("``", "")
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--rate", type=_positive, metavar="R", help="open loop: calls a second, on average")
    pace.add_argument("--concurrency", type=_count, metavar="N", help="closed loop: calls under way at all times")
    parser.add_argument("--duration", type=_span_ns, default="10", metavar="S", help="seconds of sending (10)")
    parser.add_argument("--arrivals", choices=ARRIVALS, default=ARRIVALS[0], help="of an open loop (poisson)")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of arrivals and simulated traffic (1)")
    target = Server().data_address
    parser.add_argument("--target", default=target, metavar="H:P", help=f"HOST:PORT or unix:PATH ({target})")
    parser.add_argument("--connections", type=_count, default=4, metavar="N", help="connections (4)")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="use TLS; PEM certificates to trust")
    parser.add_argument("--path", default=PATH, metavar="METHOD", help=f"the method to call ({PATH})")
    parser.add_argument("--transactions", type=Path, metavar="FILE", help="Parquet, as 'fraudgate features load'")
    parser.add_argument("--event-time", choices=("now", "data"), default="now", help="the wall clock, or the rows' own")
    parser.add_argument("--run", dest="run_name", metavar="NAME", help="what transaction ids begin with (the time)")
    parser.add_argument("--timeout", type=_span_ns, metavar="S", help="seconds: the deadline that calls carry (none)")
    parser.add_argument("--grace", type=_span_ns, default="5", metavar="S", help="seconds to wait for last answers (5)")
    parser.add_argument(
        "--lag-ms-max",
        type=_positive,
        default=LAG_NS_MAX / MILLISECOND_NS,
        metavar="MS",
        help=f"how late the generator may send 1 %% of calls before the run fails ({LAG_NS_MAX / MILLISECOND_NS:g})",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a histogram log (.hlog) for 'fraudgate report'")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON (stdout without FILE)")


def run(args: argparse.Namespace) -> int:
    """Send the load and report; 1 if the run does not count. Raises FraudgateError."""
    for path in (args.out, Path(args.json) if args.json not in (None, "-") else None):
        if path and not path.parent.is_dir():
            raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    report = _measure(args)
    lag_ns_max = round(args.lag_ms_max * MILLISECOND_NS)
    _write(report, args, lag_ns_max)
    problems = report.problems(lag_ns_max)
    for line in (*report.notes(), *problems):
        print(f"fraudgate load: {line}", file=sys.stderr)
    return 1 if problems else 0


def _measure(args: argparse.Namespace) -> LoadReport:
    destination = Destination(
        args.target, args.connections, args.path, args.timeout, _read(args.tls_ca) if args.tls_ca else None
    )
    pace = Pace(args.duration, args.rate, args.arrivals, args.seed, args.concurrency)
    ingress = native()
    rows = parquet_rows(args.transactions) if args.transactions else simulated_rows(args.seed)
    workload = ingress.Workload(rows, _run_name(args.run_name), event_time_now=args.event_time == "now")
    run = Run(destination, pace, workload, args.grace)
    with _progress(pace) as progress:
        started = monotonic()
        if pace.rate:
            return run.run(progress.reach)
        return run.run(lambda _answered: progress.reach(min(round(monotonic() - started), _progress_total(pace))))


def _progress_total(pace: Pace) -> int:
    """What a run's progress counts to: calls of an open loop, seconds of a closed one."""
    seconds = pace.duration_ns / SECOND_NS
    return max(1, round(seconds * pace.rate if pace.rate else seconds))


def _progress(pace: Pace) -> Progress:
    return Progress("load", _progress_total(pace), "calls" if pace.rate else "seconds")


def _write(report: LoadReport, args: argparse.Namespace, lag_ns_max: int) -> None:
    form = {**report.as_json(), "problems": report.problems(lag_ns_max)}
    try:
        if args.out:
            report.write_log(args.out)
        if args.json not in (None, "-"):
            Path(args.json).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot write: {error.strerror}") from error
    print(json.dumps(form, indent=2) if args.json == "-" else "\n".join(_lines(report)))


def _lines(report: LoadReport) -> list[str]:
    distributions = {tag: getattr(report, name) for name, tag in TAGS.items()}
    asked = f"{report.pace.rate:,g}/s asked, " if report.pace.rate else ""
    calls = f"{report.sent:,} sent, {report.answered:,} answered, {report.lost_calls:,} lost"
    return [
        f"{report.destination.target}, {report.destination.connections} connections: {report.pace}",
        "",
        render_table(summarise(distributions, BUDGET_NS, report.sending_ns)),
        f"calls      {calls}",
        f"rate       {asked}{report.sent_per_second:,.1f}/s sent, {report.answered_per_second:,.1f}/s answered",
        *(
            f"{title:10} {', '.join(f'{name} {count:,}' for name, count in counts.items())}"
            for title, counts in _counts(report)
            if counts
        ),
        f"generator  {report.cpu_us_per_call:.1f} us of CPU a call, {report.cpu_share:.0%} of one core",
    ]


def _counts(report: LoadReport) -> list[tuple[str, dict[str, int]]]:
    return [("statuses", report.statuses), ("decisions", report.decisions), ("fallbacks", report.fallbacks)]


def _run_name(asked: str | None) -> str:
    name = f"{time_ns():x}" if asked is None else asked
    if not _RUN.fullmatch(name):
        raise ConfigError(f"--run {name!r}: 1 to 40 letters, digits, dots, dashes or underscores")
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _span_ns(text: str) -> int:
    return max(1, round(_positive(text) * SECOND_NS))


def _count(text: str) -> int:
    return _whole(text, 1, 1 << 20)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**63 - 1)


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least:,} to {most:,}")
    return int(text)
