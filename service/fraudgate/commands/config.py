"""``fraudgate config``: what is set, and whether it holds together."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fraudgate import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("show", "check"), help="show: every key with its value; check: say if it holds"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration; the environment overrides it")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE, or to stdout")


def run(args: argparse.Namespace) -> int:
    """Print the effective configuration, or that it is good. Raises ConfigError where it is not."""
    settings = config.load(args.config)
    form = msgspec.to_builtins(settings)
    if args.json == "-":
        print(json.dumps(form, indent=2))
    elif args.json is not None:
        Path(args.json).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")
    elif args.what == "check":
        print("the configuration is good")
    else:
        print("\n\n".join(text for name, values in form.items() for text in _sections(name, values)))
    return 0


def _sections(name: str, values: dict[str, object] | list[dict[str, object]]) -> Iterator[str]:
    """TOML: a table, or an array of them."""
    head = f"[[{name}]]" if isinstance(values, list) else f"[{name}]"
    for table in values if isinstance(values, list) else [values]:
        yield "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in table.items())])
