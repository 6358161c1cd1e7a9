"""The canonical benchmarks: ``python -m benchmarks [NAME ...]``; without names all that ``make bench`` runs.

Prints the headline numbers and merges them into ``benchmarks/results/latest.json``, each with its commit, date
and machine. Machines differ and are shared: compare figures of one run with each other, and ratios between runs.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

RESULTS = Path(__file__).parent / "results" / "latest.json"
BENCHMARKS = (
    "pipeline",
    "native",
    "native_connections",
    "aio",
    "features",
    "rules",
    "engine",
    "precision",
    "recorder",
    "batch_log",
)
"""Run by default, in this order. Each module has ``figures() -> dict[str, float]``."""
OTHERS = ("faults", "freeze", "gpu", "invariance", "overload", "sabotage", "simulate", "soak", "swap", "watching")
GOALS = {
    "pipeline_cpu_us_per_decision": ("<=", 12.0),
    "native_cpu_us_per_decision": ("<=", 24.0),
    "native_over_echo_us": ("<=", 8.0),
    "native_decisions_per_second": (">=", 40_000.0),
    "native_saturated_p99_ms": ("<=", 50.0),
    "native_times_cheaper_than_aio": (">=", 9.0),
    "python_cpu_us_per_batch": ("<=", 160.0),
    "native_p99_ms_at_10k": ("<=", 8.0),
    "native_p999_ms_at_10k": ("<=", 15.0),
    "native_lone_p50_ms": ("<=", 0.7),
    "native_idle_connection_bytes": ("<=", 15_000.0),
    "aio_ratio_to_echo": ("<=", 1.25),
    "aio_decisions_per_second": (">=", 4_000.0),
    "recording_us_per_decision": ("<=", 1.0),
    "startup_seconds": ("<=", 1.5),
    "bulk_load_events_per_second": (">=", 500_000.0),
    "invariance_differing_bits": ("<=", 0.0),
    "model_auc_roc": (">=", 0.878),
    "model_average_precision": (">=", 0.702),
    "model_card_precision_100": (">=", 0.297),
    "int8_auc_loss": ("<=", 0.0003),
    "int8_ap_loss": ("<=", 0.0002),
    "inference_cpu_us_per_batch": ("<=", 16.0),
    "inference_ratio_to_xgboost": ("<=", 0.25),
    "sabotaged_caught": (">=", 54.0),
    "simulate_seconds_per_million": ("<=", 30.0),
    "int8_ratio_to_fp32": ("<=", 1.05),
    "int8_speedup_width_512": (">=", 1.9),
    "swap_p99_delta_ms": ("<=", 1.0),
    "swap_errors": ("<=", 0.0),
    "rollback_ms": ("<=", 1_000.0),
    "explained_share_min": (">=", 0.95),
    "overload_goodput": (">=", 14_400.0),
    "overload_p99_ms": ("<=", 50.0),
    "overload_burst_p99_ms": ("<=", 50.0),
    "overload_refuse_p99_ms": ("<=", 1.0),
    "expired_reached_engine": ("<=", 0.0),
    "refusal_ratio_to_echo": ("<=", 0.7),
    "overload_real_1_2x_p99_ms": ("<=", 50.0),
    "overload_real_2x_p99_ms": ("<=", 50.0),
    "overload_real_2x_share_of_peak": (">=", 0.6),
    "usual_p99_ratio": ("<=", 1.05),
    "watching_p99_ratio": ("<=", 1.05),
    "scraping_p99_ratio": ("<=", 1.05),
    "gpu_cuda_differing_bits": ("<=", 0.0),
    "gpu_tensorrt_differing_bits": ("<=", 0.0),
    "gpu_tensorrt_plan_differing_bits": ("<=", 0.0),
    "freeze_p999_error": ("<=", 0.05),
    "freeze_undecided": ("<=", 0.0),
    "soak_minutes": (">=", 10.0),
    "soak_p99_slope_ms_per_minute_low": ("<=", 0.0),
    "soak_rss_growth": ("<=", 0.01),
}


def machine() -> str:
    """Cores, processor and system, in a line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def commit() -> str:
    """The commit that was measured; a + marks changes on top of it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    others = [line for line in dirty.stdout.splitlines() if not line.endswith(str(RESULTS.name))]
    return head.stdout.strip() + ("+" if others else "")


def merge(figures: Mapping[str, float], path: Path = RESULTS) -> None:
    """Put these figures into the results file, beside what is there."""
    stamp = {"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results |= {key: {"value": value, **stamp} for key, value in figures.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n", encoding="utf-8")


def line(key: str, value: float) -> str:
    """A figure with its goal, where it has one."""
    text = f"  {key:<36} {value:>14,}"
    if key not in GOALS:
        return text
    relation, goal = GOALS[key]
    met = value <= goal if relation == "<=" else value >= goal
    return f"{text}   goal {relation} {goal:,g}  {'met' if met else 'MISSED'}"


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS, *OTHERS], metavar="NAME", help=", ".join(BENCHMARKS + OTHERS)
    )
    parser.add_argument("--minutes", type=float, help="how long soak lasts after its warm-up (default: 10)")
    args = parser.parse_args()
    options = {"soak": {"minutes": args.minutes}} if args.minutes else {}
    for name in args.names or BENCHMARKS:
        started = monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures = importlib.import_module(f"benchmarks.{name}").figures(**options.get(name, {}))
        merge(figures)
        print(f"{name} ({monotonic() - started:.0f} s)")
        print("\n".join(line(key, value) for key, value in figures.items()), flush=True)
    print(f"written to {RESULTS}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
