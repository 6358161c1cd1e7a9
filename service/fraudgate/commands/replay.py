"""``fraudgate replay --batches LOG_DIR``: prove that the logged batches follow from arrivals alone, and with
``--decisions`` that their decisions follow from the logged features, engines and rules.

Exit status 0: everything came out as logged. 1: something did not, or the log holds none. 2: unreadable log, or an
engine or rules that decided are not at hand.
A gap (batches dropped or rotated away) is reported and does not fail the proof: what is logged on either side of it
is proved by itself.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from fraudgate.audit.decisions import DecisionReplay, replay_decisions
from fraudgate.audit.log_file import open_log
from fraudgate.audit.replay import CompositionReplay, Difference, replay_composition
from fraudgate.errors import ConfigError

HELP = "prove from a batch log that the batches were composed by arrival order and stamps alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate replay``."""
    parser.add_argument(
        "--batches", type=Path, required=True, metavar="LOG_DIR", help="the batch log: its directory, or one file"
    )
    parser.add_argument("--decisions", action="store_true", help="decide every row again, too, and compare the bits")
    parser.add_argument(
        "--repository", type=Path, default=Path("models/repository"), metavar="DIR", help="of the engines that decided"
    )
    parser.add_argument(
        "--rules",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="rules that decided, other than packaged",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write what was found as JSON (stdout without FILE)"
    )


def run(args: argparse.Namespace) -> int:
    """Replay, print what was found, and return the exit status. SnapshotError: the log is unreadable."""
    found = replay_composition(args.batches)
    form, lines, same = _as_json(found), _lines(found), found.same
    if args.decisions:
        decided = _replay_decisions(args)
        form["decisions"], same = _decisions_json(decided), same and decided.same
        lines += _decision_lines(decided)
    if args.json is not None:
        _write_json(form, args.json)
    if args.json != "-":
        print("\n".join(lines))
    return 0 if same else 1


def _replay_decisions(args: argparse.Namespace) -> DecisionReplay:
    from fraudgate.commands.deciders import Deciders  # brings the runtime: half a second that the other proof needs not

    names = next((file.feature_names for file in open_log(args.batches)), [])
    return replay_decisions(args.batches, Deciders(args.repository, args.rules, names).open)


def _write_json(form: dict[str, object], file: str) -> None:
    text = json.dumps(form, indent=2)
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


def _decisions_json(found: DecisionReplay) -> dict[str, object]:
    difference = found.first_difference
    return {**asdict(found), "same": found.same, "first_difference": difference and difference._asdict()}


def _decision_lines(found: DecisionReplay) -> list[str]:
    models = ", ".join(f"{model} {rows:,}" for model, rows in sorted(found.models.items()))
    counted = f"{found.rows:,} rows: {models}; {found.unscored:,} had no score, {found.retries:,} were retries"
    if not found.rows:
        return ["the log holds no decisions: nothing is proved of them"]
    if found.first_difference is None:
        return [f"same: every decision, score and rule bit is as logged ({counted})"]
    first = found.first_difference
    return [
        f"DIFFERENT: {found.differing:,} rows are not decided as logged ({counted})",
        f"first difference: {first.transaction_id} in batch {first.sequence} of run {first.run}, by {first.model}",
        f"  logged   {first.logged}",
        f"  replayed {first.replayed}",
    ]


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
