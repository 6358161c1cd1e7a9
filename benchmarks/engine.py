"""CPU time of packing and scoring one full batch, for the newest version of each published model. Prints JSON.

python -m benchmarks.engine [models/repository/<model>/<version> ...]
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import process_time_ns

import numpy as np

from benchmarks import trees
from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, list_models, read_files, read_manifest, resolve
from fraudgate.limits import BATCH_ROWS_MAX, SLABS
from fraudgate.tensors import Slab
from fraudgate.transaction import Float64

REPOSITORY = Path("models/repository")
SERVED = "handbook"
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


def beside_trees(model_dir: Path, batches: int = 4_000, pairs: int = 5) -> dict[str, float]:
    """One run at 32 rows of a version beside boosted trees on the same rows: medians of pairs taken in turns."""
    engine = load(model_dir)
    slab = Slab(engine.features)
    rows = golden_rows(model_dir, engine.features)
    engine.bind([slab])
    slab.pack(rows[:BATCH_ROWS_MAX])
    runs = _run(engine), trees.session(rows)
    costs = [[_cpu_us(run, batches) for run in runs] for _ in range(pairs)]
    mine, theirs = (median(column) for column in zip(*costs, strict=True))
    return {
        "inference_cpu_us_per_batch": mine,
        "inference_xgboost_cpu_us_per_batch": theirs,
        "inference_ratio_to_xgboost": median(one / other for one, other in costs),
    }


def quality(model_dir: Path) -> dict[str, float]:
    """What the manifest says of the benchmark's test week, INT8 as served, and what INT8 cost against FP32."""
    metrics = read_manifest(model_dir).metrics
    int8, fp32 = metrics["int8"], metrics["fp32"]
    return {
        "model_auc_roc": int8["auc_roc"],
        "model_average_precision": int8["average_precision"],
        "model_card_precision_100": int8["card_precision_100"],
        "int8_auc_loss": fp32["auc_roc"] - int8["auc_roc"],
        "int8_ap_loss": fp32["average_precision"] - int8["average_precision"],
    }


def figures() -> dict[str, float]:
    """The figures of the results file."""
    served = resolve(REPOSITORY, SERVED)
    return {
        **{key: round(value, 3) for key, value in (measure(newest_versions()) | beside_trees(served)).items()},
        **{key: round(value, 5) for key, value in quality(served).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--batches", type=int, default=20_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.models or newest_versions(), args.batches), indent=2))


if __name__ == "__main__":
    main()
