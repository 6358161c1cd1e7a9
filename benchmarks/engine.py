"""CPU time of packing and scoring one full batch, for the newest version of each published model. Prints JSON.

python -m benchmarks.engine [models/repository/<model>/<version> ...]
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from time import process_time_ns

import numpy as np

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, list_models, read_files, read_manifest, resolve
from fraudgate.limits import BATCH_ROWS_MAX, SLABS
from fraudgate.tensors import Slab
from fraudgate.transaction import Float64

REPOSITORY = Path("models/repository")
SEED = 20180808


def newest_versions(repository: Path = REPOSITORY) -> list[Path]:
    """The directories that would be served, by model name."""
    return [resolve(repository, name) for name in sorted({entry.name for entry in list_models(repository)})]


def load(model_dir: Path) -> OnnxEngine:
    """The engine of a published version, on the schema that it names itself."""
    return OnnxEngine.load(model_dir, read_manifest(model_dir).schema_fingerprint)


def golden_rows(model_dir: Path, features: int) -> Float64:
    """The golden features of a version, float64[n, features]; seeded noise where it has none."""
    files = read_files(model_dir, read_manifest(model_dir))
    if GOLDEN in files:
        return golden.decode(files[GOLDEN]).features.astype(np.float64)
    return np.random.default_rng(SEED).normal(size=(1_024, features))


def measure(model_dirs: Iterable[Path], batches: int = 20_000, repeats: int = 5) -> dict[str, float]:
    """Microseconds of CPU per batch of 32 by model, the best of ``repeats``."""
    results = {}
    for model_dir in model_dirs:
        engine = load(model_dir)
        slabs = [Slab(engine.features) for _ in range(SLABS)]
        engine.bind(slabs)
        rows = golden_rows(model_dir, engine.features)[:BATCH_ROWS_MAX]
        for slab in slabs:
            slab.pack(rows)
        name = engine.info.name
        results[f"pack_{name}_cpu_us_per_batch"] = _best(_pack(slabs[0], rows), batches, repeats)
        results[f"engine_{name}_cpu_us_per_batch"] = _best(_run(engine), batches, repeats)
    return results


def _pack(slab: Slab, rows: Float64) -> Callable[[], object]:
    return lambda: slab.pack(rows)


def _run(engine: OnnxEngine) -> Callable[[], object]:
    return lambda: engine.run(0)


def _best(call: Callable[[], object], calls: int, repeats: int) -> float:
    return round(min(_cpu_us(call, calls) for _ in range(repeats)), 2)


def _cpu_us(call: Callable[[], object], calls: int) -> float:
    start_ns = process_time_ns()
    for _ in range(calls):
        call()
    return (process_time_ns() - start_ns) / calls / 1_000


def figures() -> dict[str, float]:
    """The figures of the results file."""
    return {key: round(value, 2) for key, value in measure(newest_versions()).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--batches", type=int, default=20_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.models or newest_versions(), args.batches), indent=2))


if __name__ == "__main__":
    main()
