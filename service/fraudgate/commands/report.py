"""``fraudgate report``: latency percentiles from .hlog files, merged exactly, or from a running server."""

import argparse
import json
import sys
from pathlib import Path

from fraudgate.errors import ConfigError, FraudgateError
from fraudgate.latency.histogram import LatencyReport, StageLatency
from fraudgate.latency.report import merge_hlogs, render_table

HELP = "print latency percentiles per stage from .hlog files or a running server"
TARGET = "127.0.0.1:50052"
_TIMEOUT_S = 5.0


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


def run(args: argparse.Namespace) -> int:
    """Print the report; 0, or 2 when there is nothing to report from or nowhere to write to."""
    try:
        _write(_report(args), args)
    except (FraudgateError, OSError) as error:
        print(f"fraudgate report: {error}", file=sys.stderr)
        return 2
    return 0


def _write(report: LatencyReport, args: argparse.Namespace) -> None:
    if args.json is None:
        print(render_table(report), end="")
    elif args.json == "-":
        print(json.dumps(report.as_json(), indent=2))
    else:
        Path(args.json).write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


def _report(args: argparse.Namespace) -> LatencyReport:
    if args.json and args.json.endswith(".hlog"):
        raise ConfigError(f"--json {args.json} would overwrite a log; name the logs first: {args.json} --json")
    if bool(args.logs) == bool(args.target):
        raise ConfigError("name .hlog files, or --target [HOST:PORT] for a running server")
    return _live(args.target) if args.target else merge_hlogs(args.logs).report()


def _live(target: str) -> LatencyReport:
    import grpc  # 0.1 s that a report from files does not need

    from fraudgate.v1 import latency_pb2, latency_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        try:
            answer = stub.GetLatencyReport(latency_pb2.GetLatencyReportRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise FraudgateError(f"{target} does not answer: {error.code().name}: {error.details()}") from error
    names = StageLatency.__dataclass_fields__
    stages = tuple(StageLatency(**{name: getattr(stage, name) for name in names}) for stage in answer.stages)
    return LatencyReport(answer.budget_ns, answer.interval_ns, stages, answer.over_budget)
