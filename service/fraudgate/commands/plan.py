"""``fraudgate model compile DIR``: a published graph to a plan of TensorRT, which lies outside the repository.

A version never changes after it is published, and a plan is of one GPU and one TensorRT: it is made where it is used.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

import msgspec

from fraudgate.engines.plan import MODULES, Plan, compile_plan, plan_name, write_plan
from fraudgate.engines.providers import engine_cache, make_private
from fraudgate.engines.repository import MODEL, Manifest, read_files, read_manifest
from fraudgate.errors import ConfigError
from fraudgate.limits import SECOND_NS

HELP = "compile a version to a plan of TensorRT"
TIMINGS = "tensorrt.timings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model compile``."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="models/repository/<model>/<version>")
    parser.add_argument(
        "--target", choices=MODULES, required=True, help="rtx compiles without a GPU, tensorrt for the GPU that is here"
    )
    parser.add_argument("--compute-capability", metavar="N.N", help="rtx: the GPU that will run it, as 8.9 or 89")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the plan (default: MODEL-VERSION-TARGET.plan)")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="tensorrt: default in the user's cache")


def compile_model(args: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """Compile and write the plan; what to say of it, as JSON and as lines. Raises FraudgateError."""
    if not args.directory.is_dir():
        raise ConfigError(f"no directory {args.directory}: name models/repository/<model>/<version>")
    manifest = read_manifest(args.directory)
    out = args.out or Path(plan_name(manifest, args.target))
    if out.resolve().is_relative_to(args.directory.resolve()):
        raise ConfigError(f"{out} lies in the version's own directory, which never changes: choose another --out")
    print(f"compiling {manifest.name}/{manifest.version} for {args.target}", file=sys.stderr)
    start_ns, cpu_start_ns = perf_counter_ns(), process_time_ns()
    try:
        plan = _compile(args, manifest)
        wall_seconds = (perf_counter_ns() - start_ns) / SECOND_NS
        cpu_seconds = (process_time_ns() - cpu_start_ns) / SECOND_NS
        write_plan(out, plan)
    except OSError as error:
        raise ConfigError(f"cannot read or write {error.filename}: {error.strerror}") from error
    told = {"plan": str(out), "bytes": len(plan.data), "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}
    return told | _record(plan), _lines(out, plan, wall_seconds, cpu_seconds)


def _compile(args: argparse.Namespace, manifest: Manifest) -> Plan:
    timings = args.timing_cache
    if args.target == "tensorrt" and timings is None:
        timings = make_private(engine_cache()) / TIMINGS
    model = read_files(args.directory, manifest)[MODEL]
    return compile_plan(model, manifest, args.target, _dotted(args.compute_capability), timings)


def _dotted(capability: str | None) -> str | None:
    """89 as 8.9, 120 as 12.0; what has a dot already stays."""
    if capability is None or not capability.isdigit():
        return capability
    return f"{capability[:-1]}.{capability[-1]}"


def _record(plan: Plan) -> dict[str, Any]:
    record: dict[str, Any] = msgspec.to_builtins(plan.record)
    return record


def _lines(out: Path, plan: Plan, wall_seconds: float, cpu_seconds: float) -> list[str]:
    record = plan.record
    layers = ", ".join(record.integer_layers) or "the builder lists no layers"
    return [
        f"plan     {out}, {len(plan.data):,} bytes, SHA-256 {record.plan_digest}",
        f"target   {record.target} {record.runtime}, compute capability {record.compute_capability}",
        f"model    SHA-256 {record.model_digest}",
        f"int8     {layers}",
        f"took     {wall_seconds:.2f} s, {cpu_seconds:.2f} s of CPU",
    ]
