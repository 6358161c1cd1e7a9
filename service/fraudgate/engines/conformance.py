"""The conformance suite: whether a model directory may be served on this host. Every check is one line.

    manifest     every field, and the directory's two names
    digests      SHA-256 of every file; none missing, none foreign
    schema       the fingerprint is that of a packaged feature schema, or of the one named; its features are the inputs
    metrics      what the manifest says of itself: floors reached, little lost by quantisation
    plan         a serialised TensorRT plan, where there is one, is taken by its runtime
    engine       static quantisation, shapes, provider, a warm-up run
    latency      the run at 32 rows, beside the budget and what was published
    precision    INT8 runs integer kernels
    golden       the expected bits on this host, or close to them
    parity       golden scores beside the FP32 network's, where they were published
    distinct     the output ranks: many different scores
    decisions    the thresholds stop some golden rows and let most pass
    extremes     a probability however large a feature; no score where one is not finite
    monotone     in the features whose schema declares it
    against      beside another version, on that version's golden rows, where one is named
    invariance   golden rows in many contexts, bit for bit
    memory       growth over many runs

A check runs when what it needs is there, whatever the others said; else it is skipped, and says for want of what.
``run`` checks in this process: for a directory that nobody vouches for, ``sandbox.check_model`` does it in a child.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from fraudgate.engines import golden, probes
from fraudgate.engines.base import Engine
from fraudgate.engines.graph import read_graph
from fraudgate.engines.kernels import INTEGER_KERNELS, optimised_operators
from fraudgate.engines.loading import opened, opened_unproved
from fraudgate.engines.repository import GOLDEN, MODEL, Manifest, Version, read_files, read_manifest, read_version
from fraudgate.errors import EngineRefused, FraudgateError
from fraudgate.features.schema import SCHEMAS_DIRECTORY, FeatureSchema
from fraudgate.limits import SECOND_NS

PLAN = "model.plan"
DETAIL_CHARACTERS_MAX = 1_000
LOSSES_MAX = {"auc_roc": 0.001, "average_precision": 0.001}
"""What quantisation may cost; the deviation of one week's AUC ROC is 0.015."""
QUANTISED_OPS = INTEGER_KERNELS | {"QuantizeLinear"}


class Effort(NamedTuple):
    """How much is tried."""

    invariance_rows: int
    contexts_per_row: int
    monotone_rows: int
    latency_runs: int
    memory_calls: int
    memory_ns_max: int


FULL = Effort(1 << 20, 20, 512, 2_000, 100_000, 30 * SECOND_NS)
QUICK = Effort(528, 11, 64, 500, 10_000, SECOND_NS // 2)
"""528 rows in 11 contexts: every place and every kind of neighbours still meet."""


class Request(Struct, frozen=True):
    """What to check. ``schema`` is a packaged name or a file, None any packaged one; ``against`` a directory."""

    directory: str
    schema: str | None = None
    provider: str = "cpu"
    quick: bool = False
    against: str | None = None
    plan_dir: str = ""
    """Where the plans lie, of a provider that runs them."""

    @property
    def effort(self) -> Effort:
        """How much it asks to be tried."""
        return QUICK if self.quick else FULL


class Result(NamedTuple):
    """The answer of one check."""

    check: str
    holds: bool
    detail: str
    skipped: bool = False
    """Not tried, for want of what an earlier check should have found."""


@dataclass(slots=True)
class Subject:
    """What is checked. A check fills in what later ones need; an attribute that is not set was not found."""

    request: Request
    manifest: Manifest = field(init=False)
    files: dict[str, bytes] = field(init=False)
    schema: FeatureSchema = field(init=False)
    engine: Engine = field(init=False)
    pace: str = field(init=False)
    """The engine's latency: set when it is fast enough for many runs."""
    rows: golden.Golden = field(init=False)


class Check(NamedTuple):
    """A check gives a line with its figures or raises EngineRefused; ``needs`` are attributes of the subject."""

    run: Callable[[Subject], str]
    needs: tuple[str, ...] = ()


def run(subject: Subject) -> Iterator[Result]:
    """The result of every check, as they end, in this process."""
    for name, check in CHECKS.items():
        missing = [need for need in check.needs if not hasattr(subject, need)]
        if missing:
            yield Result(name, False, f"skipped for want of {', '.join(missing)}", skipped=True)
            continue
        try:
            holds, detail = True, check.run(subject)
        except (FraudgateError, MemoryError) as error:
            holds, detail = False, str(error) or "out of memory"
        yield Result(name, holds, " ".join(detail.split())[:DETAIL_CHARACTERS_MAX])


def _manifest(subject: Subject) -> str:
    subject.manifest = manifest = read_manifest(Path(subject.request.directory))
    return f"{manifest.name}/{manifest.version} {manifest.precision}, published {manifest.published_at:%Y-%m-%d %H:%M}"


def _digests(subject: Subject) -> str:
    subject.files = read_files(Path(subject.request.directory), subject.manifest)
    return f"{len(subject.files)} files, engine {subject.manifest.engine_digest}"


def _schema(subject: Subject) -> str:
    named, manifest = subject.request.schema, subject.manifest
    schemas = [FeatureSchema.of(named)] if named else _packaged()
    schema = next((schema for schema in schemas if schema.fingerprint == manifest.schema_fingerprint), None)
    if schema is None:
        names = ", ".join(f"{schema.name} {schema.fingerprint[:12]}" for schema in schemas)
        raise EngineRefused(f"trained on schema {manifest.schema_fingerprint}, which is not: {names}")
    widths = [tensor.shape[-1:] for tensor in manifest.inputs]
    if widths != [(len(schema.names),)]:
        raise EngineRefused(f"schema {schema.name} has {len(schema.names)} features, the manifest's inputs {widths}")
    subject.schema = schema
    return f"{schema.name} {schema.fingerprint}"


def _packaged() -> list[FeatureSchema]:
    return [FeatureSchema.load(path) for path in sorted(SCHEMAS_DIRECTORY.glob("*.toml"))]


def _metrics(subject: Subject) -> str:
    metrics = subject.manifest.metrics
    served, floor, fp32 = metrics.get(subject.manifest.precision, {}), metrics.get("floor", {}), metrics.get("fp32", {})
    missed = [
        f"{name} {served.get(name)} is under its floor {least}"
        for name, least in floor.items()
        if not served.get(name, 0) >= least
    ]
    losses = {name: fp32[name] - served[name] for name in LOSSES_MAX if name in fp32 and name in served}
    missed += [
        f"{name} is {loss:.5f} under FP32, {LOSSES_MAX[name]} is allowed"
        for name, loss in losses.items()
        if not loss <= LOSSES_MAX[name]
    ]
    if missed:
        raise EngineRefused("; ".join(missed))
    told = ", ".join(f"{name} {-loss:+.5f}" for name, loss in losses.items()) or "nothing to compare"
    return f"{len(floor)} floors reached; against FP32: {told}"


def _plan(subject: Subject) -> str:
    if PLAN not in subject.files:
        return f"no {PLAN}"
    if subject.request.provider == "cpu" or find_spec("tensorrt") is None:
        return f"{PLAN} was not tried: that takes another provider than cpu, and a TensorRT runtime"
    tensorrt = import_module("tensorrt")
    plan = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(subject.files[PLAN])
    if plan is None:
        raise EngineRefused(f"TensorRT {tensorrt.__version__} does not take {PLAN}: build it for this version and GPU")
    return f"TensorRT {tensorrt.__version__} takes {PLAN}"


def _engine(subject: Subject) -> str:
    version, request = Version(subject.manifest, subject.files), subject.request
    subject.engine = engine = opened_unproved(version, request.provider, Path(request.plan_dir))
    return f"runtime {engine.info.runtime} on {engine.info.provider}, {engine.features} features -> 32 scores"


def _latency(subject: Subject) -> str:
    promised_us = subject.manifest.metrics.get("run_us", {}).get(subject.manifest.precision)
    on_cpu = subject.engine.info.provider == "cpu"
    runs = subject.request.effort.latency_runs
    subject.pace = probes.latency(subject.engine, runs, promised_us if on_cpu else None)
    return subject.pace


def _precision(subject: Subject) -> str:
    model, manifest = subject.files[MODEL], subject.manifest
    quantised = QUANTISED_OPS & read_graph(model).ops
    if manifest.precision == "fp32":
        if quantised:
            raise EngineRefused(f"the manifest says fp32, the graph has {', '.join(sorted(quantised))}")
        return "fp32, nothing quantised"
    if subject.request.provider != "cpu":
        return f"{', '.join(sorted(quantised))}; which kernels run on {subject.request.provider} is not known"
    kernels = set(optimised_operators(model, manifest.graph_optimisation))
    if not kernels & INTEGER_KERNELS:
        raise EngineRefused(f"the manifest says int8, no integer kernel runs: {', '.join(sorted(kernels))}")
    return f"int8 in {', '.join(sorted(kernels & INTEGER_KERNELS))}"


def _golden(subject: Subject) -> str:
    if GOLDEN not in subject.files:
        raise EngineRefused(f"there is no {GOLDEN}: publish the model with golden rows")
    rows, engine = golden.decode(subject.files[GOLDEN]), subject.engine
    if rows.features.shape[1] == engine.features:
        subject.rows = rows
    proved = golden.check(engine, rows)
    verdict = "the expected bits" if proved else "close, not bit-proved on this host"
    return f"{len(rows.features):,} rows finite and in 0..1; {verdict} ({engine.info.isa})"


def _monotone(subject: Subject) -> str:
    schema = subject.schema
    directions = {schema.names.index(name): 1 if way == "increasing" else -1 for name, way in schema.monotone.items()}
    return probes.monotone(subject.engine, subject.rows, directions, subject.request.effort.monotone_rows)


def _against(subject: Subject) -> str:
    request, fingerprint = subject.request, subject.manifest.schema_fingerprint
    if request.against is None:
        return "no other version was named"
    version = read_version(Path(request.against))
    other = opened(version, fingerprint, request.provider, plan_dir=Path(request.plan_dir))
    if GOLDEN not in version.files:
        raise EngineRefused(f"{request.against} has no {GOLDEN} to compare on")
    rows = golden.decode(version.files[GOLDEN])
    if rows.fp32 is not None and subject.rows.fp32 is None:
        raise EngineRefused(f"published without FP32 scores, which {other.info.model} has: leave them in")
    return probes.against(subject.engine, other, rows, request.effort.latency_runs)


def _invariance(subject: Subject) -> str:
    effort = subject.request.effort
    return probes.invariance(subject.engine, subject.rows, effort.invariance_rows, effort.contexts_per_row)


def _memory(subject: Subject) -> str:
    effort = subject.request.effort
    return probes.memory(subject.engine, effort.memory_calls, effort.memory_ns_max)


_ON_ROWS = ("engine", "rows")
CHECKS: dict[str, Check] = {
    "manifest": Check(_manifest),
    "digests": Check(_digests, ("manifest",)),
    "schema": Check(_schema, ("manifest",)),
    "metrics": Check(_metrics, ("manifest",)),
    "plan": Check(_plan, ("files",)),
    "engine": Check(_engine, ("files",)),
    "latency": Check(_latency, ("engine",)),
    "precision": Check(_precision, ("engine",)),
    "golden": Check(_golden, ("engine",)),
    "parity": Check(lambda subject: probes.parity(subject.engine, subject.rows), _ON_ROWS),
    "distinct": Check(lambda subject: probes.distinct(subject.engine, subject.rows), _ON_ROWS),
    "decisions": Check(lambda subject: probes.decisions(subject.engine, subject.rows), _ON_ROWS),
    "extremes": Check(lambda subject: probes.extremes(subject.engine, subject.rows), _ON_ROWS),
    "monotone": Check(_monotone, ("schema", *_ON_ROWS)),
    "against": Check(_against, _ON_ROWS),
    "invariance": Check(_invariance, (*_ON_ROWS, "pace")),
    "memory": Check(_memory, ("engine", "pace")),
}
