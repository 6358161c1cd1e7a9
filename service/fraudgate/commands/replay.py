"""``fraudgate replay --batches LOG_DIR``: prove that the logged batches follow from arrivals alone.

Exit status 0: every logged batch was composed again. 1: one was not, or the log holds none. 2: unreadable log.
A gap (batches dropped or rotated away) is reported and does not fail the proof: what is logged on either side of it
is proved by itself.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from fraudgate.audit.replay import CompositionReplay, Difference, replay_composition
from fraudgate.errors import ConfigError

HELP = "prove from a batch log that the batches were composed by arrival order and stamps alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate replay``."""
    parser.add_argument(
        "--batches", type=Path, required=True, metavar="LOG_DIR", help="the batch log: its directory, or one file"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write what was found as JSON (stdout without FILE)"
    )


def run(args: argparse.Namespace) -> int:
    """Replay, print what was found, and return the exit status. SnapshotError: the log is unreadable."""
    found = replay_composition(args.batches)
    if args.json is not None:
        _write_json(found, args.json)
    if args.json != "-":
        print("\n".join(_lines(found)))
    return 0 if found.same else 1


def _write_json(found: CompositionReplay, file: str) -> None:
    text = json.dumps(_as_json(found), indent=2)
    if file == "-":
        print(text)
        return
    try:
        Path(file).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {file}: cannot write: {error.strerror}") from error


def _as_json(found: CompositionReplay) -> dict[str, object]:
    difference = found.first_difference
    return {
        **asdict(found),
        "same": found.same,
        "missing": found.missing,
        "gaps": [gap._asdict() for gap in found.gaps],
        "first_difference": difference and difference._asdict(),
    }


def _lines(found: CompositionReplay) -> list[str]:
    lines = [_verdict(found)]
    if found.first_difference:
        lines += _difference_lines(found.first_difference)
    lines += [
        f"gap: {gap.batches} batches from {gap.first_sequence} on are not in the log (run {gap.run}); "
        "its two sides are proved separately"
        for gap in found.gaps
    ]
    lines += [f"cut: {name} ends in {size} bytes of an unfinished write" for name, size in found.cut_files.items()]
    if found.unended_runs:
        lines.append(
            f"not ended: {found.unended_runs} runs still write or were killed; their last batches may be missing"
        )
    return lines


def _verdict(found: CompositionReplay) -> str:
    counted = f"{found.batches:,} batches, {found.rows:,} entries, {found.segments:,} segments"
    if not found.batches:
        return "the log holds no batches: nothing is proved"
    if found.differing:
        return f"DIFFERENT: {found.differing:,} batches are not composed as logged ({counted})"
    return f"same: every batch is composed as logged ({counted})"


def _difference_lines(difference: Difference) -> list[str]:
    return [
        f"first difference: batch {difference.sequence} of run {difference.run}",
        f"  logged   {_listed(difference.logged_ids)}",
        f"  replayed {_listed(difference.replayed_ids)}",
    ]


def _listed(ids: list[str]) -> str:
    shown = ids if len(ids) <= 4 else [*ids[:2], "...", *ids[-2:]]
    return f"{len(ids):2d} entries: {' '.join(shown)}"
