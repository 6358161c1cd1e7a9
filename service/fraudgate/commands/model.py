"""``fraudgate model list`` and ``fraudgate model check DIR``: what the repository holds, and whether it may be served.

check runs the suite of ``engines.conformance`` in a child process and prints a line for each check: ok, NO, or -- where
it was skipped. ``compile`` is in ``commands/plan.py``; ``promote``, ``rollback`` and ``shadow``, which ask a running
server, are in ``commands/live.py``.
"""

import argparse
import json
from pathlib import Path

from fraudgate.commands import live, plan
from fraudgate.engines.conformance import Request, Result
from fraudgate.engines.onnxruntime import PROVIDERS
from fraudgate.engines.repository import ModelEntry, list_models
from fraudgate.engines.sandbox import check_model
from fraudgate.errors import ConfigError

HELP = "list, check and compile the versions of a repository; change what a running server decides with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model``."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    lister = verbs.add_parser("list", help="every published version, and what is wrong with it")
    lister.add_argument("--repository", type=Path, default=Path("models/repository"), metavar="DIR")
    checker = verbs.add_parser("check", help="check one version's directory on this host")
    checker.add_argument("directory", type=Path, metavar="DIR", help="models/repository/<model>/<version>")
    checker.add_argument("--schema", metavar="NAME|FILE", help="the feature schema to serve it with")
    checker.add_argument("--provider", choices=PROVIDERS, default="cpu")
    checker.add_argument(
        "--against", type=Path, metavar="DIR", help="a version to compare with, say the one that serves"
    )
    checker.add_argument("--quick", action="store_true", help="fewer runs: two seconds instead of ten")
    compiler = verbs.add_parser("compile", help=plan.HELP)
    plan.add_arguments(compiler)
    for verb in (lister, checker, compiler, *live.add_verbs(verbs)):
        verb.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON (stdout without FILE)")


def run(args: argparse.Namespace) -> int:
    """Run one verb; 1 when a check did not hold, or a version did not become live. Raises FraudgateError."""
    if args.verb == "compile":
        _write(*plan.compile_model(args), args.json)
        return 0
    if args.verb in ("list", "check"):
        return _list(args) if args.verb == "list" else _check(args)
    form, lines, status = live.run(args)
    _write(form, lines, args.json)
    return status


def _list(args: argparse.Namespace) -> int:
    if not args.repository.is_dir():
        raise ConfigError(f"no model repository at {args.repository}: name one with --repository")
    entries = list_models(args.repository)
    lines = [_entry_line(entry) for entry in entries] or [f"{args.repository} holds no models"]
    _write([_entry_json(entry) for entry in entries], lines, args.json)
    return 0


def _entry_line(entry: ModelEntry) -> str:
    known = ""
    if manifest := entry.manifest:
        known = f"{manifest.precision}  {manifest.published_at:%Y-%m-%d %H:%M}  {manifest.engine_digest[:12]}  "
    return f"{entry.name}/{entry.version}  {known}{entry.problem or 'ok'}"


def _entry_json(entry: ModelEntry) -> dict[str, object]:
    known: dict[str, object] = {}
    if manifest := entry.manifest:
        known = {
            "engine_digest": manifest.engine_digest,
            "precision": manifest.precision,
            "schema_fingerprint": manifest.schema_fingerprint,
            "published_at": manifest.published_at.isoformat(),
        }
    return {"name": entry.name, "version": entry.version, **known, "problem": entry.problem}


def _check(args: argparse.Namespace) -> int:
    for directory in filter(None, (args.directory, args.against)):
        if not directory.is_dir():
            raise ConfigError(f"no directory {directory}: name models/repository/<model>/<version>")
    against = str(args.against) if args.against else None
    verdict = check_model(Request(str(args.directory), args.schema, args.provider, args.quick, against))
    width = max(len(result.check) for result in verdict.results)
    lines = [f"{_mark(result)}  {result.check:{width}}  {result.detail}" for result in verdict.results]
    _write({"holds": verdict.holds, "checks": [result._asdict() for result in verdict.results]}, lines, args.json)
    return 0 if verdict.holds else 1


def _mark(result: Result) -> str:
    return "ok" if result.holds else "--" if result.skipped else "NO"


def _write(data: object, lines: list[str], json_file: str | None) -> None:
    if json_file is not None:
        text = json.dumps(data, indent=2)
        if json_file == "-":
            print(text)
            return
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
