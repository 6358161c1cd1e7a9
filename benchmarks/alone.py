"""What the benchmarks that can be run by themselves share: ``python -m benchmarks.NAME [--json]``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping

from fraudgate import load
from fraudgate.errors import ConfigError


def main(doc: str | None, figures: Callable[[], Mapping[str, float]]) -> None:
    """Print the figures, a line each or as JSON."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = figures()
    print(json.dumps(results) if args.json else "\n".join(f"{key:34} {value:>12,}" for key, value in results.items()))


def has_wheel(name: str) -> bool:
    """Whether fraudgate-ingress is installed; says that this benchmark is skipped where it is not."""
    try:
        load.native()
    except ConfigError as error:
        print(f"  {name}: skipped, {error}", file=sys.stderr)
        return False
    return True
