"""``fraudgate model``: the verbs around a model repository. ``list`` is here: what it holds.

``check``, ``publish`` and ``compile`` are in ``commands/check.py``, ``publish.py`` and ``plan.py``; ``promote``,
``rollback`` and ``shadow``, which ask a running server, in ``commands/live.py``.
"""

import argparse
import json
from pathlib import Path

from fraudgate.commands import check, live, plan, publish
from fraudgate.engines.repository import ModelEntry, list_models
from fraudgate.errors import ConfigError

HELP = "list, check, publish and compile versions of a repository; change what a running server decides with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model``."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    lister = verbs.add_parser("list", help="every published version, and what is wrong with it")
    lister.add_argument("--repository", type=Path, default=Path("models/repository"), metavar="DIR")
    checker = verbs.add_parser("check", help=check.HELP)
    check.add_arguments(checker)
    publisher = verbs.add_parser("publish", help=publish.HELP, description=publish.HELP)
    publish.add_arguments(publisher)
    compiler = verbs.add_parser("compile", help=plan.HELP)
    plan.add_arguments(compiler)
    for verb in (lister, checker, publisher, compiler, *live.add_verbs(verbs)):
        verb.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON (stdout without FILE)")


def run(args: argparse.Namespace) -> int:
    """Run one verb; 1 when a check did not hold, or a version did not become live. Raises FraudgateError."""
    if args.verb == "compile":
        _write(*plan.compile_model(args), args.json)
        return 0
    if args.verb == "list":
        return _list(args)
    answering = {"check": check.run, "publish": publish.run}.get(args.verb, live.run)
    form, lines, status = answering(args)
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


def _write(data: object, lines: list[str], json_file: str | None) -> None:
    if json_file is not None:
        text = json.dumps(data, indent=2)
        if json_file == "-":
            print(text)
            return
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
