"""``fraudgate model check DIR``: the suite of ``engines.conformance`` in a child process, a line for each check.

A line begins with ok, NO, or -- where the check was skipped. Exit status 1 when one of them does not hold.
"""

import argparse
from pathlib import Path

from fraudgate.engines.conformance import Request, Result
from fraudgate.engines.onnxruntime import PROVIDERS
from fraudgate.engines.plan import PROVIDERS as PLAN_PROVIDERS
from fraudgate.engines.sandbox import Verdict, check_model
from fraudgate.errors import ConfigError

HELP = "check one version's directory on this host"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model check``."""
    add_common(parser)
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="a version to compare with, say the one that serves"
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs: two seconds instead of ten")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Declare what every verb that checks a directory asks for."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="models/repository/<model>/<version>")
    parser.add_argument("--schema", metavar="NAME|FILE", help="the feature schema to serve it with")
    parser.add_argument("--provider", choices=(*PROVIDERS, *PLAN_PROVIDERS), default="cpu")
    parser.add_argument(
        "--plan-dir", default="", metavar="DIR", help="where its plan lies, of tensorrt-plan and rtx-plan"
    )


def run(args: argparse.Namespace) -> tuple[dict[str, object], list[str], int]:
    """Check: the answer as JSON and as lines, and the exit status. Raises ConfigError."""
    for directory in filter(None, (args.directory, args.against)):
        need_directory(directory)
    against = str(args.against) if args.against else None
    request = Request(str(args.directory), args.schema, args.provider, args.quick, against, args.plan_dir)
    verdict = check_model(request)
    return form(verdict), lines(verdict), int(not verdict.holds)


def need_directory(directory: Path) -> None:
    """Raises ConfigError where there is none."""
    if not directory.is_dir():
        raise ConfigError(f"no directory {directory}: name models/repository/<model>/<version>")


def form(verdict: Verdict) -> dict[str, object]:
    """A verdict, JSON-able."""
    return {"holds": verdict.holds, "checks": [result._asdict() for result in verdict.results]}


def lines(verdict: Verdict) -> list[str]:
    """A verdict in words, a line a check."""
    width = max(len(result.check) for result in verdict.results)
    return [f"{_mark(result)}  {result.check:{width}}  {result.detail}" for result in verdict.results]


def _mark(result: Result) -> str:
    return "ok" if result.holds else "--" if result.skipped else "NO"
