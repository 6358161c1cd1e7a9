"""The sections of the configuration: every setting, its default and its bounds."""

from typing import Annotated, Literal, get_args

import msgspec

from fraudgate import limits
from fraudgate.breaker import BreakerSettings
from fraudgate.engines.bounds import BOUNDS

_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Span = Annotated[int, msgspec.Meta(ge=0, le=10 * 366 * limits.DAY_SECONDS)]
_DriftRows = Annotated[int, msgspec.Meta(ge=1_000, le=1_000_000)]
_Patience = Annotated[float, msgspec.Meta(gt=0, le=limits.DAY_SECONDS)]
_Wait = Annotated[float, msgspec.Meta(ge=0, le=limits.DAY_SECONDS)]
_BREAKER = BreakerSettings()


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A section of the file."""


class Server(Section, forbid_unknown_fields=True, frozen=True):
    """Addresses. An address other than loopback needs [tls], or ``insecure``."""

    data_address: str = "127.0.0.1:50051"
    control_address: str = "127.0.0.1:50052"
    ops_address: str = "127.0.0.1:8080"
    frontend: Literal["auto", "native", "aio"] = "auto"
    """auto = native where fraudgate-ingress is installed, else aio."""
    insecure: bool = False
    streams_max: _Positive = 4_096
    """Concurrent calls of one connection."""
    drain_notice_seconds: _Wait = 0.0
    drain_max_seconds: Annotated[float, msgspec.Meta(gt=0, le=limits.DAY_SECONDS)] = (
        limits.DRAIN_NS_MAX / limits.SECOND_NS
    )


class Tls(Section, forbid_unknown_fields=True, frozen=True):
    """PEM files of the data plane; ``client_ca`` asks clients for a certificate."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""


class Ingress(Section, forbid_unknown_fields=True, frozen=True):
    """What the native front end lets a peer do to it. Streams of a connection: ``server.streams_max``."""

    threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """That read and write; 0 = one for each CPU but the scoring loop's, at most 3: more would wait for that loop."""
    connections_max: _Positive = 16_384
    header_list_bytes_max: _Positive = 16_384
    reset_streams_max: _Positive = 1_024
    """Resets of streams for which a connection is closed: those not yet handled, beyond ``server.streams_max`` (rapid
    resets), and over its life those that it made necessary (refused streams, stream errors)."""
    handshake_seconds_max: _Patience = 5.0
    """From accepting a connection to its HTTP/2 preface; of TLS again as long."""
    message_seconds_max: _Patience = 10.0
    """From a call's headers to the end of its message."""
    keepalive_seconds: _Patience = 60.0
    """A peer that is silent for so long is sent a ping."""
    keepalive_seconds_max: _Patience = 20.0
    """How long the ping may stay unanswered."""
    write_stall_seconds_max: _Patience = 10.0
    """How long a peer may leave its answers unread once the socket is full."""


class Batching(Section, forbid_unknown_fields=True, frozen=True):
    """The gate."""

    policy: Literal["fixed", "eager"] = "fixed"
    gate_ns: int = limits.GATE_NS
    queue_rows_max: int = limits.QUEUE_ROWS_MAX
    budget_ns: _NotNegative = limits.BUDGET_NS
    """0 = no budget: a measuring aid, never for payments."""


class Features(Section, forbid_unknown_fields=True, frozen=True):
    """The store."""

    schema: str = "handbook"
    """A packaged schema's name, or a path that ends in .toml."""
    history: str = ""
    """A Parquet file of past events to load at start."""
    lateness_seconds_max: _Span = limits.LATENESS_SECONDS_MAX


class Model(Section, forbid_unknown_fields=True, frozen=True):
    """The engine."""

    repository: str = "models/repository"
    name: str = "handbook"
    version: str = ""
    """Empty = the newest."""
    provider: Literal["cpu", "cuda", "tensorrt", "tensorrt-plan", "rtx-plan"] = "cpu"
    """cpu, cuda and tensorrt are of ONNX Runtime; the others run a plan that ``fraudgate model compile`` has made."""
    allow_fallback: bool = False
    """Of cuda and tensorrt: run on the CPU where they are not at hand."""
    cache_dir: str = ""
    """Where the tensorrt provider keeps compiled engines and timings; empty = the user's cache."""
    plan_dir: str = ""
    """Where the plans lie, under the names that ``fraudgate model compile`` gives; empty = the working directory."""


class Tier(Section, forbid_unknown_fields=True, frozen=True):
    """A larger engine for the scores within a band."""

    name: str = ""
    """Empty = there is none."""
    version: str = ""
    """Empty = the newest."""
    low: _Share = 0.02
    high: _Share = 0.5
    wait_ns_max: _NotNegative = limits.BUDGET_NS // 2
    """A batch whose oldest row has waited longer is left to the small engine."""


class Trial(Section, forbid_unknown_fields=True, frozen=True):
    """What an engine in the shadow, or deciding as a canary, may do before it goes. See ``engines.trial.Bounds``."""

    rows_min: _Positive = BOUNDS.rows_min
    difference_mean_max: _Share = BOUNDS.difference_mean_max
    flips_share_max: _Share = BOUNDS.flips_share_max
    correlation_min: _Share = BOUNDS.correlation_min
    distinct_share_min: _Share = BOUNDS.distinct_share_min
    run_ns_max: _Positive = BOUNDS.run_ns_max


class Rules(Section, forbid_unknown_fields=True, frozen=True):
    """The rule set."""

    file: str = ""
    """Empty = the packaged default."""


class Idempotency(Section, forbid_unknown_fields=True, frozen=True):
    """Retries."""

    enabled: bool = True
    entries_max: int = limits.IDEMPOTENCY_ENTRIES_MAX
    lifetime_seconds: _Positive = limits.IDEMPOTENCY_LIFETIME_NS // limits.SECOND_NS


class EventTime(Section, forbid_unknown_fields=True, frozen=True):
    """Which event times are accepted."""

    future_max_seconds: _Span = limits.EVENT_TIME_FUTURE_NS_MAX // limits.SECOND_NS
    now: str = ""
    """An ISO 8601 instant that stands for the wall clock in a replay; empty = the wall clock."""


class Log(Section, forbid_unknown_fields=True, frozen=True):
    """The batch log."""

    dir: str = ""
    """Empty = no log."""
    rotate_bytes: _Positive = 64 << 20


class Logging(Section, forbid_unknown_fields=True, frozen=True):
    """What the process says on standard error; see ``ops.logs``."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Tracing(Section, forbid_unknown_fields=True, frozen=True):
    """OpenTelemetry traces, of the extra [otel]; see ``ops.tracing``."""

    endpoint: str = ""
    """A collector's OTLP over HTTP, such as http://127.0.0.1:4318; empty = no traces."""
    sampled_share: _Share = 0.0
    """Of the transactions whose caller has not decided that by its traceparent."""
    slow_ns_min: _NotNegative = limits.BUDGET_NS
    """Every transaction that takes longer is traced."""


class Latency(Section, forbid_unknown_fields=True, frozen=True):
    """What is kept of latency."""

    hlog_dir: str = ""
    """Where histogram logs for ``fraudgate report`` go; empty = log.dir, and nowhere without that."""
    interval_seconds: _Patience = 60.0
    """Each so often an interval is added to the log; the drain adds the last."""


class Budget(Section, forbid_unknown_fields=True, frozen=True):
    """What each stage may take of ``batching.budget_ns``."""

    file: str = ""
    """A budget file; empty = the packaged one."""


class State(Section, forbid_unknown_fields=True, frozen=True):
    """Snapshots."""

    dir: str = ""
    """Where the drain writes windows, outcomes and the idempotency table, and the start reads them; empty = nowhere."""


class Drift(Section, forbid_unknown_fields=True, frozen=True):
    """Live transactions against the model's reference, or against the first live ones where it has none."""

    enabled: bool = True
    window_rows: _DriftRows = 10_000
    """The last transactions, which are compared."""
    reference_rows: _DriftRows = 20_000
    """The first transactions, which are the reference of a model that has none."""


class Ladder(Section, forbid_unknown_fields=True, frozen=True):
    """When store, engines and rules count as away beyond the batch that they fail, and when they are asked again."""

    enabled: bool = True
    """false: each is asked by every batch, and a batch that the store fails ends INTERNAL."""
    failures_max: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = _BREAKER.failures_max
    """Runs in a row that failed or took too long."""
    window_runs: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = _BREAKER.window_runs
    failures_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = _BREAKER.failures_share
    """So many of the last ``window_runs`` have the same effect."""
    wait_seconds_min: _Patience = _BREAKER.wait_ns_min / limits.SECOND_NS
    """How long it is not asked, the first time; each further time twice as long."""
    wait_seconds_max: _Patience = _BREAKER.wait_ns_max / limits.SECOND_NS
    good_runs: _Positive = _BREAKER.good_runs
    """Batches that must succeed, one after the other, before all ask it again."""
    store_ns_max: _Positive = limits.BUDGET_NS
    engine_ns_max: _Positive = limits.BUDGET_NS
    """What one run may take; of the large engine too. They run in this process: one that is slow because the host is
    busy is better than none, one that takes the whole budget is not."""


class FallbackPolicy(Section, forbid_unknown_fields=True, frozen=True):
    """What decides while the rules cannot be asked. A score that asks for more is heard."""

    policy: Literal["review", "approve_up_to"] = "review"
    approve_up_to_minor: _NotNegative = 0
    """With "approve_up_to": amounts up to this one, in minor units of the schema's currency, are approved."""


class Admission(Section, forbid_unknown_fields=True, frozen=True):
    """Who is let in when not everybody can be answered in time. See ``batching.admission``."""

    callers_required: bool = False
    """Refuse calls without a token; else they are one caller, anonymous, of normal priority and a share of 1."""
    headroom_high: _Share = 0.9
    """The part of the budget that rows of this priority may be predicted to use."""
    headroom_normal: _Share = 0.7
    headroom_low: _Share = 0.4
    refusals_per_second_max: _Positive = 20_000
    """Of one connection of the native front end; past it, the connection is not read for 5 ms, then 10, up to 100."""


Rpc = Literal["Score", "ScoreBatch", "ScoreStream"]
RPCS: tuple[Rpc, ...] = get_args(Rpc)


class Caller(Section, forbid_unknown_fields=True, frozen=True):
    """One of ``[[callers]]``: who shows this bearer token."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    token_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]
    """SHA-256 of the token, in hex: the file holds no secret."""
    priority: Literal["high", "normal", "low"] = "normal"
    share: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    """Of the queue under pressure, beside the shares of the others."""
    may: tuple[Rpc, ...] = RPCS
