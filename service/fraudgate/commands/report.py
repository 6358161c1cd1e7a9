"""``fraudgate report``: latency percentiles from .hlog files, merged exactly, or a running server's, with its engines
and its drift.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fraudgate.commands.control_plane import channel_to
from fraudgate.drift.watch import DriftReport, FeatureDrift
from fraudgate.engines.report import EngineState, FleetReport, TierReport, TrialReport
from fraudgate.errors import ConfigError, FraudgateError
from fraudgate.ladder import BreakerReport, LadderReport
from fraudgate.latency.budget import Budget
from fraudgate.latency.histogram import LatencyReport, StageLatency
from fraudgate.latency.page import to_html
from fraudgate.latency.report import aligned, percentile_text, render_budget, render_table
from fraudgate.latency.run import Run
from fraudgate.limits import MICROSECOND_NS

HELP = "print latency percentiles per stage from .hlog files, or from a running server with its engines and drift"
TARGET = "127.0.0.1:50052"
_TIMEOUT_S = 5.0


class Report(NamedTuple):
    """What there is to print; drift only of a running server that watches it, the fleet of any running one.

    The run only of logs, the budget of these or where one is named.
    """

    latency: LatencyReport
    run: Run | None = None
    budget: Budget | None = None
    drift: DriftReport | None = None
    fleet: FleetReport | None = None
    ladder: LadderReport | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        others = {"run": self.run, "fleet": self.fleet, "ladder": self.ladder, "drift": self.drift}
        return self.latency.as_json() | {name: each.as_json() for name, each in others.items() if each}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="*", metavar="LOG", help="histogram logs (.hlog); several are added up")
    parser.add_argument(
        "--target",
        nargs="?",
        const=TARGET,
        metavar="HOST:PORT",
        help=f"read the control plane of a running server instead (without HOST:PORT: {TARGET})",
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE, or to stdout")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page to FILE, from logs")
    parser.add_argument(
        "--hgrm", metavar="FILE", help="write the percentile distribution of --stage to FILE, from logs"
    )
    parser.add_argument("--stage", default="total", help="of --hgrm (default: %(default)s)")
    parser.add_argument(
        "--budget",
        metavar="FILE",
        help="what each stage is allowed (TOML); default: what the server was configured with",
    )
    parser.add_argument(
        "--core-hour-price", type=_price, metavar="PRICE", help="of one CPU core for an hour, for the page's cost"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0, or 2 when there is nothing to report from or nowhere to write to."""
    try:
        _write(_report(args), args)
    except (FraudgateError, OSError) as error:
        print(f"fraudgate report: {error}", file=sys.stderr)
        return 2
    return 0


def _write(report: Report, args: argparse.Namespace) -> None:
    _write_files(report, args)
    if args.json is None:
        print(render_table(report.latency), end="")
        if report.budget and (spent := render_budget(report.latency, report.budget)):
            print("", spent, sep="\n", end="")
        if report.run and report.run.has_counters:
            print("", *_run_lines(report.run), sep="\n")
        if report.fleet:
            print("", *_fleet_lines(report.fleet), sep="\n")
        if report.ladder:
            print("", _ladder_line(report.ladder), sep="\n")
        if report.drift:
            print("", *_drift_lines(report.drift), sep="\n")
    elif args.json == "-":
        print(json.dumps(report.as_json(), indent=2))
    else:
        Path(args.json).write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


def _write_files(report: Report, args: argparse.Namespace) -> None:
    """The page and the percentile distribution, where they are asked for."""
    if report.run is None:
        return
    if args.html:
        Path(args.html).write_text(to_html(report.run, args.core_hour_price), encoding="utf-8")
    if args.hgrm:
        values = report.run.merged.distributions.get(args.stage)
        if values is None:
            raise ConfigError(f"--stage {args.stage}: the logs hold {', '.join(report.run.merged.distributions)}")
        Path(args.hgrm).write_text(percentile_text(values), encoding="utf-8")


def _run_lines(run: Run) -> Iterator[str]:
    """What was counted, for a terminal."""
    refused = ", ".join(f"{n:,} {reason}" for reason, n in run.refusals.most_common()) or "nothing"
    yield f"goodput: {run.goodput:,.0f} decisions a second within the budget; refused: {refused}"
    yield f"CPU: {run.cpu_seconds_per_million:,.1f} s for a million decisions"
    yield f"ledger: {run.mismatches:,} decisions whose stages and whole differ by more than 50 us"
    late = ", ".join(f"{n:,} {cause}" for cause, n in run.over_budget.most_common()) or "nothing"
    yield f"over the budget because of: {late}"
    causes = Counter(event.cause for event in run.events).most_common()
    yield f"timeline: {', '.join(f'{n:,} {cause}' for cause, n in causes) or 'nothing'}"


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no price")
    return price


def _report(args: argparse.Namespace) -> Report:
    for option in ("json", "html", "hgrm"):
        path = getattr(args, option)
        if path and path.endswith(".hlog"):
            raise ConfigError(f"--{option} {path} would overwrite a log; name the logs first: {path} --{option}")
    if args.target and (args.html or args.hgrm):
        raise ConfigError("--html and --hgrm are made from .hlog files: set latency.hlog_dir on the server")
    if bool(args.logs) == bool(args.target):
        raise ConfigError("name .hlog files, or --target [HOST:PORT] for a running server")
    budget = Budget.load(args.budget) if args.budget else None
    if args.target:
        return _live(args.target)._replace(budget=budget)
    run = Run.load(args.logs, budget)
    return Report(run.report(), run, run.budget)


def _live(target: str) -> Report:
    from fraudgate.v1 import latency_pb2, latency_pb2_grpc

    with channel_to(target, f"{target} does not answer") as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        answer = stub.GetLatencyReport(latency_pb2.GetLatencyReportRequest(), timeout=_TIMEOUT_S)
    stages = tuple(StageLatency(**_fields(StageLatency, stage)) for stage in answer.stages)
    latency = LatencyReport(answer.budget_ns, answer.interval_ns, stages, answer.over_budget)
    drift = _drift(answer.drift) if answer.HasField("drift") else None
    fleet = _fleet(answer.fleet) if answer.HasField("fleet") else None
    ladder = _ladder(answer.ladder) if answer.HasField("ladder") else None
    return Report(latency, drift=drift, fleet=fleet, ladder=ladder)


def _drift(message: Any) -> DriftReport:
    features = tuple(FeatureDrift(**_fields(FeatureDrift, each)) for each in message.features)
    return DriftReport(**_fields(DriftReport, message) | {"features": features})


def _fleet(message: Any) -> FleetReport:
    return FleetReport(
        engines=tuple(EngineState(**_fields(EngineState, each)) for each in message.engines),
        rollbacks=message.rollbacks,
        shadow_skipped=message.shadow_skipped,
        trial=TrialReport(**_fields(TrialReport, message.trial)) if message.HasField("trial") else None,
        tier=TierReport(**_fields(TierReport, message.tier)) if message.HasField("tier") else None,
    )


def _ladder(message: Any) -> LadderReport:
    breakers = tuple(BreakerReport(**_fields(BreakerReport, each)) for each in message.breakers)
    return LadderReport(message.rung, breakers)


def _fields(kind: type[Any], message: Any) -> dict[str, Any]:
    """The fields of a message, which are called like those of the dataclass ``kind``."""
    return {name: getattr(message, name) for name in kind.__dataclass_fields__}


def _fleet_lines(report: FleetReport) -> Iterator[str]:
    """The engines for a terminal."""
    engines = ", ".join(f"{engine.model} {engine.state}" for engine in report.engines)
    yield f"engines: {engines}; {report.rollbacks} rolled back, {report.shadow_skipped:,} batches skipped in the shadow"
    if trial := report.trial:
        yield (
            f"on trial: {trial.model} for {trial.share_percent} % of the customers, {trial.rows:,} rows compared, "
            f"{trial.flips:,} decisions flipped, scores differ by {trial.difference_mean:.4f} on average"
        )
    if tier := report.tier:
        small_share = 1 - tier.large_share - tier.pressed_share
        small, large = (f"{ns / MICROSECOND_NS:.2f}" for ns in (tier.small_decision_ns, tier.large_decision_ns))
        yield from aligned(
            [
                ("tier", "rows", "share", "us per decision"),
                ("small", f"{tier.small_rows:,}", f"{small_share:.1%}", small),
                ("small, pressed", f"{tier.pressed_rows:,}", f"{tier.pressed_share:.1%}", small),
                ("large", f"{tier.large_rows:,}", f"{tier.large_share:.1%}", large),
            ]
        )


def _ladder_line(report: LadderReport) -> str:
    """The ladder for a terminal."""
    states = (
        f"{each.dependency} {each.state} ({each.changes:,} changes, {each.bad_runs:,} bad runs)"
        for each in report.breakers
    )
    return f"ladder: {report.rung}; {', '.join(states)}"


def _drift_lines(report: DriftReport) -> Iterator[str]:
    """The drift for a terminal."""
    whose = "published with the model" if report.source == "model" else "the first live ones"
    reference = f"{report.reference_rows:,} of {report.reference_rows_wanted:,} reference rows ({whose})"
    yield f"drift: the last {report.window_rows:,} transactions against {reference}"
    if report.features:
        rows = [(each.feature, f"{each.psi:.3f}", f"{each.ks:.3f}", each.verdict) for each in report.features]
        yield from aligned([("", "PSI", "KS", ""), *rows])
        yield f"drifted: {', '.join(report.drifted) or 'nothing'}"
    else:
        yield "too few transactions so far"
    if report.unscored_rows:
        yield f"{report.unscored_rows:,} transactions of the window have no score"
