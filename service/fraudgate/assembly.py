"""Puts the parts of a service together from its configuration, in the order in which they need each other."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from fraudgate import state, wheel
from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.edition_file import note_edition
from fraudgate.breaker import BreakerSettings
from fraudgate.clock import Clock, monotonic_ns, time_ns
from fraudgate.config import Config
from fraudgate.drift.kept import LiveReference
from fraudgate.drift.watch import DriftWatch
from fraudgate.editions import Editions
from fraudgate.engines.base import Engine
from fraudgate.engines.fleet import Event, Fleet, Loaded
from fraudgate.engines.repository import DRIFT
from fraudgate.engines.routes import Route
from fraudgate.errors import ConfigError, FeaturesRefused
from fraudgate.features import snapshot
from fraudgate.features.currency import EXPONENTS
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema, Hours, Weekend
from fraudgate.fleet_assembly import Engines
from fraudgate.frontend.codec import Renderer, request_batch, request_columns
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleSet
from fraudgate.guardrails.static_policy import StaticPolicy
from fraudgate.idempotency import IdempotencyTable
from fraudgate.ladder import Ladder, LadderSettings
from fraudgate.latency.budget import Budget
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.overruns import Overruns
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.timeline import Timeline
from fraudgate.limits import BATCH_ROWS_MAX, BUDGET_NS, EVENT_TIME_NS_MIN, SECOND_NS, SLABS
from fraudgate.pipeline import Live, Pipeline
from fraudgate.progress import Progress
from fraudgate.tensors import Slab
from fraudgate.v1 import scoring_pb2
from fraudgate.validation import Validator

Say = Callable[[str], None]
WARM_UP_BATCHES = 16
_WARM_UP_ENTRIES = 4_096
HISTORY_ROWS = 65_536
"""Rows of a history file that are in memory at once."""


@dataclass(slots=True)
class Parts:
    """A service, put together and not yet listening."""

    config: Config
    schema: FeatureSchema
    store: EmbeddedStore
    engines: Engines
    fleet: Fleet
    slabs: Sequence[Slab]
    rules: RuleSet
    editions: Editions
    idempotency: IdempotencyTable | None
    recorder: Recorder
    counters: Counters
    budget: Budget
    timeline: Timeline
    exemplars: Exemplars
    overruns: Overruns
    log: BatchLog | None
    drift: DriftWatch | None
    ladder: Ladder
    pipeline: Pipeline

    @property
    def engine(self) -> Engine:
        """The one that is live."""
        return self.fleet.live.engine


def assemble(config: Config, say: Say) -> Parts:
    """Load the schema, engine, rules, store and log. Raises FraudgateError, saying what to do."""
    schema = FeatureSchema.of(config.features.schema)
    slabs = [Slab(len(schema.names)) for _ in range(SLABS)]
    rules = RuleSet.load(config.rules.file or DEFAULT_RULES, schema.names)
    editions = Editions()
    idempotency = _load_idempotency(config, editions, say)  # before an engine: it brings editions with their numbers
    engines = Engines(config, schema, slabs, rules, editions)
    loaded = engines.load(config.model.name, config.model.version)
    event_clock = _event_clock(config)
    store = load_store(config, schema, event_clock, say)
    recorder, counters = Recorder(monotonic_ns(), config.batching.budget_ns), Counters()
    counters.add_source(wheel.counts)
    budget, timeline = load_budget(config), Timeline()
    exemplars, overruns = _watched(recorder, counters, timeline, budget, editions)
    log = _open_log(config, schema, loaded.engine, rules, timeline)
    if log is not None:
        editions.tell(partial(note_edition, Path(config.log.dir), log.run))
    drift = load_drift(config, schema, loaded, say)
    ladder = load_ladder(config, schema, counters, say)
    large = engines.large(monotonic_ns, ladder.large)
    future_ns = config.event_time.future_max_seconds * SECOND_NS
    pipeline = Pipeline(
        live=_live(loaded, (large.tier,) if large is not None else (), rules),
        store=store,
        slabs=slabs,
        validator=Validator(EXPONENTS.keys()),
        idempotency=idempotency,
        recorder=recorder,
        counters=counters,
        log=log,
        clock=monotonic_ns,
        event_time_ns_max=lambda: event_clock() + future_ns,
        budget_ns=config.batching.budget_ns,
        drift=drift,
        ladder=ladder,
    )

    def serve(live: Loaded, routes: tuple[Route, ...]) -> None:
        pipeline.live = _live(live, routes, rules)
        if drift is not None:
            drift.follow(live.name, live.scores)

    def tell(event: Event) -> None:
        say(f"model {event.model}: {event.what}")
        timeline.note("swap", event.now_ns, event.now_ns, f"{event.model}: {event.what}")

    fleet = Fleet(loaded, serve, monotonic_ns, tell, engines.bounds(), large)
    return Parts(
        config=config,
        schema=schema,
        store=store,
        engines=engines,
        fleet=fleet,
        slabs=slabs,
        rules=rules,
        editions=editions,
        idempotency=idempotency,
        recorder=recorder,
        counters=counters,
        budget=budget,
        timeline=timeline,
        exemplars=exemplars,
        overruns=overruns,
        log=log,
        drift=drift,
        ladder=ladder,
        pipeline=pipeline,
    )


def _watched(
    recorder: Recorder, counters: Counters, timeline: Timeline, budget: Budget, editions: Editions
) -> tuple[Exemplars, Overruns]:
    """Who is told of every decided batch."""
    overruns = Overruns(timeline, budget, counters)
    exemplars = Exemplars(timeline, editions, budget=budget, progress=overruns.progress)
    recorder.watchers += [exemplars.record_batch, overruns.runs.record_batch, overruns.record_batch]
    recorder.spent_watchers.append(overruns.record_spent)
    return exemplars, overruns


def load_budget(config: Config) -> Budget:
    """What each stage may take; without a budget of the service, of the usual one. Raises ConfigError."""
    total_ns = config.batching.budget_ns or BUDGET_NS
    return Budget.load(config.budget.file, total_ns) if config.budget.file else Budget.default(total_ns)


def _live(loaded: Loaded, routes: tuple[Route, ...], rules: RuleSet) -> Live:
    member = loaded.member
    return Live(member.inference, member.thresholds, rules, member.edition, routes)


def load_drift(config: Config, schema: FeatureSchema, loaded: Loaded, say: Say) -> DriftWatch | None:
    """The drift watch, on the model's own reference or that of an earlier process; None when switched off.

    Raises SnapshotError.
    """
    settings = config.drift
    if not settings.enabled:
        return None
    kept = state.restore_drift(Path(config.state.dir), schema.names) if config.state.dir else None
    reference = loaded.reference or kept
    if isinstance(reference, LiveReference):
        say(f"restored drift: {reference.reference.rows:,} transactions of before are the reference")
    elif reference is None:
        say(f"drift: the model has no {DRIFT}, so the first {settings.reference_rows:,} transactions are the reference")
    return DriftWatch(
        schema.names,
        reference,
        engine=loaded.name,
        calendar=[feature.name for feature in schema.features if isinstance(feature, Weekend | Hours)],
        window_rows=settings.window_rows,
        reference_rows=settings.reference_rows,
    )


def load_ladder(config: Config, schema: FeatureSchema, counters: Counters, say: Say) -> Ladder:
    """The degradation ladder as it is configured."""
    given, fallback = config.ladder, config.fallback
    breaker = BreakerSettings(
        failures_max=given.failures_max,
        window_runs=given.window_runs,
        failures_share=given.failures_share,
        wait_ns_min=round(given.wait_seconds_min * SECOND_NS),
        wait_ns_max=round(given.wait_seconds_max * SECOND_NS),
        good_runs=given.good_runs,
    )
    settings = LadderSettings(breaker, given.store_ns_max, given.engine_ns_max) if given.enabled else None
    approves = fallback.policy == "approve_up_to"
    policy = StaticPolicy(schema.currency, fallback.approve_up_to_minor if approves else None)
    return Ladder(schema, counters, monotonic_ns, settings, policy, lambda change: say(f"ladder: {change}"))


def load_store(config: Config, schema: FeatureSchema, event_clock: Clock, say: Say) -> EmbeddedStore:
    """Restored from its snapshot, or loaded from history, or cold."""
    lateness = config.features.lateness_seconds_max
    directory = Path(config.state.dir) if config.state.dir else None
    if directory is not None and (directory / snapshot.FILE_NAME).exists():
        store = EmbeddedStore.restore(directory, schema, lateness_seconds_max=lateness)
        say(f"restored {store!r}")
        return store
    store = EmbeddedStore(schema, lateness_seconds_max=lateness)
    if config.features.history:
        load_history(store, Path(config.features.history))
    else:
        store.set_coverage_start(event_clock())
        say(
            "cold store: no snapshot and no history, so decisions say FALLBACK_STALE_FEATURES until windows have filled"
        )
    return store


def load_history(store: EmbeddedStore, path: Path) -> int:
    """Bulk-load a Parquet file of events, with progress; returns the rows loaded. Errors name the file."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"history {path} is not a readable Parquet file: {error}") from error
    with file, Progress("loading history", file.metadata.num_rows, "events") as progress:
        try:
            return store.bulk_load(file.iter_batches(HISTORY_ROWS), progress.reach)
        except FeaturesRefused as error:
            raise FeaturesRefused(f"history {path}: {error}") from error


async def warm_up(parts: Parts) -> int:
    """Run made-up batches through the whole way, on a store, table and recorder that are thrown away.

    Returns how long a full batch takes, nanoseconds, median.
    """
    live = parts.pipeline.live
    pipeline = Pipeline(
        live=replace(live, routes=tuple(copy(route) for route in live.routes)),  # what they count here is made up
        store=EmbeddedStore(parts.schema, coverage_start_ns=0),
        slabs=parts.slabs,
        validator=Validator(EXPONENTS.keys()),
        idempotency=IdempotencyTable(_WARM_UP_ENTRIES),
        recorder=Recorder(monotonic_ns()),
        counters=Counters(),
        log=None,
        clock=monotonic_ns,
        event_time_ns_max=time_ns,
        budget_ns=0,
    )
    renderer = Renderer(parts.editions)
    took_ns = []
    for number in range(WARM_UP_BATCHES):
        started_ns = monotonic_ns()
        transactions = [_made_up(number, row) for row in range(BATCH_ROWS_MAX)]
        columns = request_columns(transactions, [started_ns] * BATCH_ROWS_MAX, [0] * BATCH_ROWS_MAX)
        answers = await pipeline.score(request_batch(columns), columns=columns)
        renderer.render(answers, [transaction.transaction_id for transaction in transactions])
        took_ns.append(monotonic_ns() - started_ns)
    return int(median(took_ns))


def _made_up(number: int, row: int) -> scoring_pb2.Transaction:
    transaction = scoring_pb2.Transaction(
        transaction_id=f"warm-up-{number}-{row}",
        amount_minor=100 * row,
        currency="EUR",
        attributes={"warm-up": row % 2},
    )
    transaction.customer_id = transaction.terminal_id = f"warm-up-{row}"
    transaction.event_time.seconds = EVENT_TIME_NS_MIN // SECOND_NS + number
    return transaction


def _event_clock(config: Config) -> Clock:
    fixed_ns = config.event_now_ns()
    return time_ns if fixed_ns is None else lambda: fixed_ns


def _load_idempotency(config: Config, editions: Editions, say: Say) -> IdempotencyTable | None:
    settings = config.idempotency
    if not settings.enabled:
        say("idempotency is off: the caller guarantees unique transactions; a retry counts twice")
        return None
    try:
        table = IdempotencyTable(settings.entries_max, settings.lifetime_seconds * SECOND_NS)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.state.dir:
        restored = state.restore(Path(config.state.dir), table, editions, monotonic_ns(), time_ns())
        if restored:
            say(f"restored {restored:,} stored decisions for retries")
    return table


def _open_log(
    config: Config, schema: FeatureSchema, engine: Engine, rules: RuleSet, timeline: Timeline
) -> BatchLog | None:
    if not config.log.dir:
        return None
    metadata = {
        "gate_policy": config.batching.policy,
        "gate_ns": str(config.batching.gate_ns),
        "batch_rows_max": str(BATCH_ROWS_MAX),
        "feature_names": ",".join(schema.names),
        "schema_fingerprint": schema.fingerprint,
        "ruleset_version": rules.version,
        "model": f"{engine.info.model} {engine.info.engine_digest}",
    }
    return BatchLog(config.log.dir, metadata, rotate_bytes=config.log.rotate_bytes, timeline=timeline)
