"""The published model on each target that this machine has: the CPU, ONNX Runtime's GPU providers, and native plans.

Of each the time to open it from nothing, one run at 32 rows, how far its scores lie from the CPU's golden rows, whether
neighbours move them, and the whole service deciding on it. A target that cannot run says why, and has no figures.
``python -m benchmarks.gpu [--json]``.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter_ns, process_time_ns

import numpy as np

from benchmarks import alone, engine, native
from fraudgate.engines import cuda, golden
from fraudgate.engines.base import Engine
from fraudgate.engines.invariance import check_invariance
from fraudgate.engines.loading import opened
from fraudgate.engines.plan import PROVIDERS as PLAN_PROVIDERS
from fraudgate.engines.plan import compile_plan, plan_name, write_plan
from fraudgate.engines.repository import GOLDEN, MODEL, Version, read_version, resolve
from fraudgate.errors import EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.scheduling import prefer_batches
from fraudgate.tensors import Slab

TARGETS = ("cpu", "cuda", "tensorrt", "tensorrt-plan", "rtx-plan")
RUNS, INVARIANT_ROWS = 5_000, 1_000
RATE, SECONDS = 10_000.0, 3.0


def open_on(target: str, version: Version, folder: Path) -> Engine:
    """The version on a target, from nothing: a plan is compiled first. Raises EngineRefused."""
    if target in PLAN_PROVIDERS:
        kind = PLAN_PROVIDERS[target]
        capability = cuda.compute_capability() if kind == "rtx" else None
        plan = compile_plan(version.files[MODEL], version.manifest, kind, capability, folder / "timings")
        write_plan(folder / plan_name(version.manifest, kind), plan)
    return opened(version, version.manifest.schema_fingerprint, target, cache_dir=folder, plan_dir=folder)


def runs(engine: Engine, rows: golden.Golden) -> dict[str, float]:
    """One run at 32 rows: microseconds of wall time at the median and p99, and of CPU time."""
    slab = Slab(engine.features)
    slab.pack(rows.features[:BATCH_ROWS_MAX].astype(np.float64))
    engine.bind([slab])
    for _ in range(RUNS // 10):
        engine.run(0)
    used_ns, times_ns = process_time_ns(), []
    for _ in range(RUNS):
        start_ns = perf_counter_ns()
        engine.run(0)
        times_ns.append(perf_counter_ns() - start_ns)
    used_ns = process_time_ns() - used_ns
    p50, p99 = np.percentile(times_ns, (50, 99)) / 1_000
    return {"run_us_p50": float(p50), "run_us_p99": float(p99), "run_cpu_us": used_ns / RUNS / 1_000}


def against(expected: Engine, engine: Engine, rows: golden.Golden) -> dict[str, float]:
    """Scores of the golden rows beside the CPU's, and the bits that neighbours move."""
    features = rows.features.astype(np.float64)
    theirs, ours = golden.score(expected, features), golden.score(engine, features)
    thresholds = engine.info.thresholds
    flips = sum(int(((theirs >= edge) != (ours >= edge)).sum()) for edge in (thresholds.review, thresholds.decline))
    return {
        "score_difference_max": float(np.abs(theirs - ours).max()),
        "golden_flips": flips,
        "differing_bits": check_invariance(engine, features[:INVARIANT_ROWS]).differing_bits,
    }


def served(target: str, made: native.Traffic, folder: Path) -> dict[str, float]:
    """The whole service on a target: at saturation, and at 10,000/s, Poisson."""
    model: Mapping[str, str] = {"provider": target, "plan_dir": str(folder), "cache_dir": str(folder)}
    with native.service(folder, made, "native", {"model": model}, budget_ns=0) as place:
        native.saturate(place)  # warm
        most = native.saturate(place)
        p50, p99, p999 = native.open_loop(place, RATE, SECONDS, seed=1)
    return {
        "decisions_per_second": most.calls_per_second,
        "cpu_us_per_decision": most.cpu_us_per_call,
        "p50_ms_at_10k": p50,
        "p99_ms_at_10k": p99,
        "p999_ms_at_10k": p999,
    }


def measure(target: str, version: Version, folder: Path, made: native.Traffic | None) -> Iterator[tuple[str, float]]:
    """The figures of one target, as they come. Raises EngineRefused where this machine cannot run it."""
    start_ns = perf_counter_ns()
    found = open_on(target, version, folder)
    yield "open_seconds", (perf_counter_ns() - start_ns) / SECOND_NS
    start_ns = perf_counter_ns()
    opened(version, version.manifest.schema_fingerprint, target, cache_dir=folder, plan_dir=folder)
    yield "open_again_seconds", (perf_counter_ns() - start_ns) / SECOND_NS
    rows = golden.decode(version.files[GOLDEN])
    yield from runs(found, rows).items()
    yield from against(opened(version, version.manifest.schema_fingerprint), found, rows).items()
    if made:
        yield from served(target, made, folder).items()


def figures() -> dict[str, float]:
    """The figures of the results file, ``gpu_<target>_<figure>``, of the targets that are here."""
    prefer_batches()
    results: dict[str, float] = {}
    version = read_version(resolve(engine.REPOSITORY, engine.SERVED))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = native.Traffic(folder) if alone.has_wheel("gpu") else None
        for target in TARGETS:
            part = folder / target
            part.mkdir(mode=0o700)
            try:
                results |= _named(target, measure(target, version, part, made))
            except EngineRefused as refusal:
                print(f"  {target}: skipped, {refusal}", file=sys.stderr)
    return results


def _named(target: str, measured: Iterator[tuple[str, float]]) -> dict[str, float]:
    prefix = f"gpu_{target.replace('-', '_')}"
    return {f"{prefix}_{figure}": round(value, 7 if figure.startswith("score") else 3) for figure, value in measured}


if __name__ == "__main__":
    alone.main(__doc__, figures)
