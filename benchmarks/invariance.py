"""Batch invariance of published models: 10,000 rows, each alone and in 20 contexts; exit 1 when one bit differs.

python -m benchmarks.invariance [models/repository/<model>/<version> ...] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.engine import SEED, golden_rows, load, newest_versions
from fraudgate.engines.invariance import Invariance, check_invariance
from fraudgate.progress import Progress
from fraudgate.transaction import Float64

ROWS = 10_000
CONTEXTS_PER_ROW = 20


def subject_rows(rows: Float64, count: int) -> Float64:
    """``count`` rows: the golden ones, then rows whose features are drawn one by one from the golden columns."""
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, len(rows), (max(0, count - len(rows)), rows.shape[1]))
    return np.concatenate([rows[:count], np.take_along_axis(rows, drawn, axis=0)])


def measure(model_dir: Path, rows: int = ROWS, contexts_per_row: int = CONTEXTS_PER_ROW) -> Invariance:
    """What was tried on one published version, and what differed."""
    engine = load(model_dir)
    subjects = subject_rows(golden_rows(model_dir, engine.features), rows)
    with Progress(f"invariance of {engine.info.name}/{engine.info.version}", total=rows) as progress:
        found = check_invariance(engine, subjects, contexts_per_row, SEED, progress.reach)
        progress.reach(rows)
    return found


def figures() -> dict[str, float]:
    """The figures of the results file: every published model, the whole of it."""
    found = [measure(model_dir) for model_dir in newest_versions()]
    return {
        "invariance_contexts": sum(one.contexts for one in found),
        "invariance_differing_bits": sum(one.differing_bits for one in found),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--contexts", type=int, default=CONTEXTS_PER_ROW, help="contexts of each row")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    found = {str(model): measure(model, args.rows, args.contexts) for model in args.models or newest_versions()}
    if not found:
        parser.error("no model is published: name a directory")
    for model, one in found.items():
        print(f"{model}: {one.rows:,} rows, {one.contexts:,} contexts, {one.places} of 528 places, ", end="")
        print(f"{one.differing_bits:,} differing bits in {one.differing_rows:,} rows")
    differing_bits = sum(one.differing_bits for one in found.values())
    if args.json:
        contexts = sum(one.contexts for one in found.values())
        keys = {"invariance_contexts": contexts, "invariance_differing_bits": differing_bits}
        args.json.write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
    return 1 if differing_bits else 0


if __name__ == "__main__":
    raise SystemExit(main())
