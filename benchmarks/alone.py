"""What the benchmarks that can be run by themselves share: ``python -m benchmarks.NAME [--json]``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager

from fraudgate import load
from fraudgate.errors import ConfigError


def main(doc: str | None, figures: Callable[[], Mapping[str, float]]) -> None:
    """Print the figures, a line each or as JSON."""
    args = parser(doc).parse_args()
    show(figures(), args.json)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line that all of them have."""
    common = argparse.ArgumentParser(description=doc)
    common.add_argument("--json", action="store_true", help="print JSON")
    return common


def show(results: Mapping[str, float], as_json: bool) -> None:
    print(json.dumps(results) if as_json else "\n".join(f"{key:34} {value:>12,}" for key, value in results.items()))


def cpus(text: str) -> frozenset[int]:
    """CPUs as taskset(1) and Linux name them: ``0,1`` or ``2-7,12``. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


@contextmanager
def pinned(to: Set[int]) -> Iterator[None]:
    """This thread, and the processes and threads that it starts meanwhile, on these CPUs; on all as before if none."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def has_wheel(name: str) -> bool:
    """Whether fraudgate-ingress is installed; says that this benchmark is skipped where it is not."""
    try:
        load.native()
    except ConfigError as error:
        print(f"  {name}: skipped, {error}", file=sys.stderr)
        return False
    return True
