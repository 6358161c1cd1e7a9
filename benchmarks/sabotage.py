"""Spoilt models that ``fraudgate model check --against`` catches, of those that the tests name.

Each is published in a repository of its own and checked as a server checks a candidate, beside the sound version: in a
child process, with the quick effort. Caught is what the command refuses by the very check that has to find it; one that
is refused for another reason alone counts as let through. ``python -m benchmarks.sabotage [--json]``.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import alone
from fraudgate import cli
from tests.integration.sabotages import CATALOGUE, SOUND, Sabotage

SECONDS_MAX = 240.0


def check(directory: Path, live: Path, answer: Path) -> tuple[int, dict[str, Any]]:
    """The command's exit status, and what it says of each check, by name."""
    words = ["model", "check", str(directory), "--against", str(live), "--quick", "--json", str(answer)]
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        status = cli.main(words)
    return status, {result["check"]: result for result in json.loads(answer.read_text("utf-8"))["checks"]}


def is_caught(sabotage: Sabotage, directory: Path, live: Path, answer: Path) -> bool:
    """Whether the check that has to find it did."""
    status, results = check(directory, live, answer)
    result = results[sabotage.check]
    return status == 1 and not result["holds"] and not result["skipped"]


def measure(catalogue: Mapping[str, Sabotage]) -> dict[str, float]:
    """Sabotages, and those caught; each let through is named. RuntimeError where the sound version is refused too."""
    started, caught = monotonic(), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        live = SOUND.write(root / "live")
        status, results = check(live, live, root / "answer.json")
        if status != 0:
            wrong = {check: result["detail"] for check, result in results.items() if not result["holds"]}
            raise RuntimeError(f"the sound version is refused, so a refusal says nothing: {wrong}")
        for number, (what, sabotage) in enumerate(catalogue.items()):
            if monotonic() - started > SECONDS_MAX:
                raise RuntimeError(
                    f"{number} of {len(catalogue)} checked after {SECONDS_MAX:.0f} s: try a quieter machine"
                )
            if is_caught(sabotage, sabotage.write(root / str(number)), live, root / "answer.json"):
                caught += 1
            else:
                print(f"  sabotage: LET THROUGH by {sabotage.check!r}: {what}", file=sys.stderr)
    return {"sabotaged_caught": caught, "sabotaged_total": len(catalogue)}


def figures() -> dict[str, float]:
    """The figures of the results file."""
    return measure(CATALOGUE)


if __name__ == "__main__":
    alone.main(__doc__, figures)
