"""``fraudgate model list`` and ``fraudgate model check DIR``: what the repository holds, and whether it may be served.

``fraudgate model compile DIR`` is ``commands/plan.py``.

check, in order, each needing the ones before it:

    manifest     every field, and the directory's two names
    digests      SHA-256 of every file; none missing, none foreign
    schema       the fingerprint is that of a packaged feature schema, or of --schema
    engine       static quantisation, shapes, provider, a warm-up run
    golden       the expected bits on this host, or close to them
    invariance   every golden row in 20 contexts, bit for bit
    latency      the run at 32 rows
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from fraudgate.commands import plan
from fraudgate.engines import golden
from fraudgate.engines.invariance import check_invariance
from fraudgate.engines.onnxruntime import PROVIDERS, OnnxEngine
from fraudgate.engines.repository import GOLDEN, MODEL, Manifest, ModelEntry, list_models, read_files, read_manifest
from fraudgate.errors import ConfigError, EngineRefused, FraudgateError
from fraudgate.features.schema import SCHEMAS_DIRECTORY, FeatureSchema
from fraudgate.limits import ENGINE_BUDGET_NS, INLINE_ENGINE_NS_MAX, MICROSECOND_NS
from fraudgate.tensors import Slab

HELP = "list the model repository, check that a version may be served here, or compile one"
LATENCY_RUNS = 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model``."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    lister = verbs.add_parser("list", help="every published version, and what is wrong with it")
    lister.add_argument("--repository", type=Path, default=Path("models/repository"), metavar="DIR")
    checker = verbs.add_parser("check", help="check one version's directory on this host")
    checker.add_argument("directory", type=Path, metavar="DIR", help="models/repository/<model>/<version>")
    checker.add_argument("--schema", metavar="NAME|FILE", help="the feature schema to serve it with")
    checker.add_argument("--provider", choices=PROVIDERS, default="cpu")
    compiler = verbs.add_parser("compile", help=plan.HELP)
    plan.add_arguments(compiler)
    for verb in (lister, checker, compiler):
        verb.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON (stdout without FILE)")


def run(args: argparse.Namespace) -> int:
    """List, check or compile; 1 when a check did not hold. FraudgateError: there is nothing to list or check."""
    if args.verb == "compile":
        _write(*plan.compile_model(args), args.json)
        return 0
    return _list(args) if args.verb == "list" else _check(args)


def _list(args: argparse.Namespace) -> int:
    if not args.repository.is_dir():
        raise ConfigError(f"no model repository at {args.repository}: name one with --repository")
    entries = list_models(args.repository)
    lines = [_entry_line(entry) for entry in entries] or [f"{args.repository} holds no models"]
    _write([_entry_json(entry) for entry in entries], lines, args.json)
    return 0


def _entry_line(entry: ModelEntry) -> str:
    known = ""
    if manifest := entry.manifest:
        known = f"{manifest.precision}  {manifest.published_at:%Y-%m-%d %H:%M}  {manifest.engine_digest[:12]}  "
    return f"{entry.name}/{entry.version}  {known}{entry.problem or 'ok'}"


def _entry_json(entry: ModelEntry) -> dict[str, object]:
    known: dict[str, object] = {}
    if manifest := entry.manifest:
        known = {
            "engine_digest": manifest.engine_digest,
            "precision": manifest.precision,
            "schema_fingerprint": manifest.schema_fingerprint,
            "published_at": manifest.published_at.isoformat(),
        }
    return {"name": entry.name, "version": entry.version, **known, "problem": entry.problem}


@dataclass(slots=True)
class _Subject:
    """What is checked; each check fills in what the later ones need."""

    directory: Path
    schema: str | None
    provider: str
    manifest: Manifest = field(init=False)
    files: dict[str, bytes] = field(init=False)
    engine: OnnxEngine = field(init=False)
    rows: golden.Golden = field(init=False)


class _Result(NamedTuple):
    check: str
    holds: bool
    detail: str


def _check(args: argparse.Namespace) -> int:
    if not args.directory.is_dir():
        raise ConfigError(f"no directory {args.directory}: name models/repository/<model>/<version>")
    results = check_model(args.directory, args.schema, args.provider)
    holds = all(result.holds for result in results)
    lines = [f"{'ok' if result.holds else 'NO':2}  {result.check:10}  {result.detail}" for result in results]
    _write({"holds": holds, "checks": [result._asdict() for result in results]}, lines, args.json)
    return 0 if holds else 1


def check_model(directory: Path, schema: str | None = None, provider: str = "cpu") -> list[_Result]:
    """The checks in order, up to the first that does not hold: the later ones need it."""
    subject = _Subject(directory, schema, provider)
    results = []
    for name, check in _CHECKS.items():
        try:
            results.append(_Result(name, True, check(subject)))
        except FraudgateError as error:
            results.append(_Result(name, False, str(error)))
            break
    return results


def _manifest(subject: _Subject) -> str:
    subject.manifest = manifest = read_manifest(subject.directory)
    return f"{manifest.name}/{manifest.version} {manifest.precision}, published {manifest.published_at:%Y-%m-%d %H:%M}"


def _digests(subject: _Subject) -> str:
    subject.files = read_files(subject.directory, subject.manifest)
    return f"{len(subject.files)} files, engine {subject.manifest.engine_digest}"


def _schema(subject: _Subject) -> str:
    schemas = [_named(subject.schema)] if subject.schema else _packaged()
    for schema in schemas:
        if schema.fingerprint == subject.manifest.schema_fingerprint:
            return f"{schema.name} {schema.fingerprint}"
    names = ", ".join(f"{schema.name} {schema.fingerprint[:12]}" for schema in schemas)
    raise EngineRefused(f"trained on schema {subject.manifest.schema_fingerprint}, which is not: {names}")


def _named(name: str) -> FeatureSchema:
    return FeatureSchema.load(name) if Path(name).suffix == ".toml" else FeatureSchema.named(name)


def _packaged() -> list[FeatureSchema]:
    return [FeatureSchema.load(path) for path in sorted(SCHEMAS_DIRECTORY.glob("*.toml"))]


def _engine(subject: _Subject) -> str:
    subject.engine = engine = OnnxEngine(subject.files[MODEL], subject.manifest, subject.provider)
    return f"ONNX Runtime {engine.info.runtime} on {engine.info.provider}, {engine.features} features -> 32 scores"


def _golden(subject: _Subject) -> str:
    if GOLDEN not in subject.files:
        raise EngineRefused(f"there is no {GOLDEN}: publish the model with golden rows")
    subject.rows = golden.decode(subject.files[GOLDEN])
    proved = golden.check(subject.engine, subject.rows)
    verdict = "the expected bits" if proved else "close, not bit-proved on this host"
    isa = subject.engine.info.isa
    return f"{len(subject.rows.features):,} rows finite and in 0..1; {verdict} ({isa})"


def _invariance(subject: _Subject) -> str:
    found = check_invariance(subject.engine, subject.rows.features.astype(np.float64))
    if found.differing_bits:
        raise EngineRefused(
            f"{found.differing_rows:,} of {found.rows:,} rows change with their batch: {found.differing_bits:,} bits"
        )
    return f"{found.rows:,} rows in {found.contexts:,} contexts, {found.places} places: 0 differing bits"


def _latency(subject: _Subject) -> str:
    runs_ns = _run_times_ns(subject.engine)
    p50_ns, p99_ns = (int(value) for value in np.percentile(runs_ns, [50, 99]))
    if p99_ns > ENGINE_BUDGET_NS:
        raise EngineRefused(f"p99 is {p99_ns / 1e6:.1f} ms, the engine budget {ENGINE_BUDGET_NS / 1e6:.0f} ms")
    place = "on the scoring loop" if p50_ns < INLINE_ENGINE_NS_MAX else "on the engine thread"
    return f"p50 {p50_ns / MICROSECOND_NS:.1f} us, p99 {p99_ns / MICROSECOND_NS:.1f} us at 32 rows: runs {place}"


def _run_times_ns(engine: OnnxEngine) -> list[int]:
    engine.bind([Slab(engine.features)])
    times_ns = [perf_counter_ns()]
    for _ in range(LATENCY_RUNS):
        engine.run(0)
        times_ns.append(perf_counter_ns())
    return [end_ns - start_ns for start_ns, end_ns in pairwise(times_ns)]


_CHECKS: dict[str, Callable[[_Subject], str]] = {
    "manifest": _manifest,
    "digests": _digests,
    "schema": _schema,
    "engine": _engine,
    "golden": _golden,
    "invariance": _invariance,
    "latency": _latency,
}


def _write(data: object, lines: list[str], json_file: str | None) -> None:
    if json_file is not None:
        text = json.dumps(data, indent=2)
        if json_file == "-":
            print(text)
            return
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
