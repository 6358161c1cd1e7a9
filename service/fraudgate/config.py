"""Configuration: one TOML file, environment overrides ``FRAUDGATE_SECTION__KEY``, defaults that are right.

Unknown sections and keys are refused, with the nearest name as a hint.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fraudgate import limits
from fraudgate.engines.bounds import BOUNDS
from fraudgate.errors import ConfigError

ENVIRONMENT_PREFIX = "FRAUDGATE_"
OTHER_VARIABLES = frozenset({"FRAUDGATE_DATA", "FRAUDGATE_TRAIN_VENV"})
"""Variables with the prefix that are no settings."""


_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Span = Annotated[int, msgspec.Meta(ge=0, le=10 * 366 * limits.DAY_SECONDS)]
_DriftRows = Annotated[int, msgspec.Meta(ge=1_000, le=1_000_000)]
_Patience = Annotated[float, msgspec.Meta(gt=0, le=limits.DAY_SECONDS)]
_Wait = Annotated[float, msgspec.Meta(ge=0, le=limits.DAY_SECONDS)]


class _Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A section of the file."""


class Server(_Section, forbid_unknown_fields=True, frozen=True):
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


class Tls(_Section, forbid_unknown_fields=True, frozen=True):
    """PEM files of the data plane; ``client_ca`` asks clients for a certificate."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""


class Ingress(_Section, forbid_unknown_fields=True, frozen=True):
    """What the native front end lets a peer do to it. Streams of a connection: ``server.streams_max``."""

    connections_max: _Positive = 16_384
    header_list_bytes_max: _Positive = 16_384
    reset_streams_max: _Positive = 1_024
    """Resets of streams for which a connection is closed: those not yet handled (rapid resets), and over its life those
    that it made necessary (refused streams, stream errors)."""
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


class Batching(_Section, forbid_unknown_fields=True, frozen=True):
    """The gate."""

    policy: Literal["fixed", "eager"] = "fixed"
    gate_ns: int = limits.GATE_NS
    queue_rows_max: int = limits.QUEUE_ROWS_MAX
    budget_ns: _NotNegative = limits.BUDGET_NS
    """0 = no budget: a measuring aid, never for payments."""


class Features(_Section, forbid_unknown_fields=True, frozen=True):
    """The store."""

    schema: str = "handbook"
    """A packaged schema's name, or a path that ends in .toml."""
    history: str = ""
    """A Parquet file of past events to load at start."""
    lateness_seconds_max: _Span = limits.LATENESS_SECONDS_MAX


class Model(_Section, forbid_unknown_fields=True, frozen=True):
    """The engine."""

    repository: str = "models/repository"
    name: str = "handbook"
    version: str = ""
    """Empty = the newest."""
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    allow_fallback: bool = False
    cache_dir: str = ""
    """Where the tensorrt provider keeps compiled engines and timings; empty = the user's cache."""


class Tier(_Section, forbid_unknown_fields=True, frozen=True):
    """A larger engine for the scores within a band."""

    name: str = ""
    """Empty = there is none."""
    version: str = ""
    """Empty = the newest."""
    low: _Share = 0.02
    high: _Share = 0.5
    wait_ns_max: _NotNegative = limits.BUDGET_NS // 2
    """A batch whose oldest row has waited longer is left to the small engine."""


class Trial(_Section, forbid_unknown_fields=True, frozen=True):
    """What an engine in the shadow, or deciding as a canary, may do before it goes. See ``engines.trial.Bounds``."""

    rows_min: _Positive = BOUNDS.rows_min
    difference_mean_max: _Share = BOUNDS.difference_mean_max
    flips_share_max: _Share = BOUNDS.flips_share_max
    correlation_min: _Share = BOUNDS.correlation_min
    distinct_share_min: _Share = BOUNDS.distinct_share_min
    run_ns_max: _Positive = BOUNDS.run_ns_max


class Rules(_Section, forbid_unknown_fields=True, frozen=True):
    """The rule set."""

    file: str = ""
    """Empty = the packaged default."""


class Idempotency(_Section, forbid_unknown_fields=True, frozen=True):
    """Retries."""

    enabled: bool = True
    entries_max: int = limits.IDEMPOTENCY_ENTRIES_MAX
    lifetime_seconds: _Positive = limits.IDEMPOTENCY_LIFETIME_NS // limits.SECOND_NS


class EventTime(_Section, forbid_unknown_fields=True, frozen=True):
    """Which event times are accepted."""

    future_max_seconds: _Span = limits.EVENT_TIME_FUTURE_NS_MAX // limits.SECOND_NS
    now: str = ""
    """An ISO 8601 instant that stands for the wall clock in a replay; empty = the wall clock."""


class Log(_Section, forbid_unknown_fields=True, frozen=True):
    """The batch log."""

    dir: str = ""
    """Empty = no log."""
    rotate_bytes: _Positive = 64 << 20


class State(_Section, forbid_unknown_fields=True, frozen=True):
    """Snapshots."""

    dir: str = ""
    """Where the drain writes windows, outcomes and the idempotency table, and the start reads them; empty = nowhere."""


class Drift(_Section, forbid_unknown_fields=True, frozen=True):
    """Live transactions against the model's reference, or against the first live ones where it has none."""

    enabled: bool = True
    window_rows: _DriftRows = 10_000
    """The last transactions, which are compared."""
    reference_rows: _DriftRows = 20_000
    """The first transactions, which are the reference of a model that has none."""


class Config(_Section, forbid_unknown_fields=True, frozen=True):
    """Everything that can be set."""

    server: Server = Server()
    tls: Tls = Tls()
    ingress: Ingress = Ingress()
    batching: Batching = Batching()
    features: Features = Features()
    model: Model = Model()
    tier: Tier = Tier()
    trial: Trial = Trial()
    rules: Rules = Rules()
    idempotency: Idempotency = Idempotency()
    event_time: EventTime = EventTime()
    log: Log = Log()
    state: State = State()
    drift: Drift = Drift()

    def check(self) -> None:
        """Raise ConfigError for values that cannot work together."""
        batching = self.batching
        if batching.gate_ns < 1:
            raise ConfigError("batching.gate_ns must be at least 1")
        if 0 < batching.budget_ns < batching.gate_ns + limits.RUNNING_BATCH_NS:
            raise ConfigError(
                f"batching.budget_ns = {batching.budget_ns} leaves no room for the gate and one batch: "
                f"at least {batching.gate_ns + limits.RUNNING_BATCH_NS}, or 0 for none"
            )
        if batching.queue_rows_max < limits.BATCH_ROWS_MAX:
            raise ConfigError(f"batching.queue_rows_max must be at least {limits.BATCH_ROWS_MAX}")
        if bool(self.tls.cert) != bool(self.tls.key) or (self.tls.client_ca and not self.tls.cert):
            raise ConfigError("[tls] needs both cert and key; client_ca needs them too")
        if not (self.tls.cert or self.server.insecure or is_loopback(self.server.data_address)):
            raise ConfigError(
                f"server.data_address = {self.server.data_address!r} is not loopback: set tls.cert and tls.key, or "
                "server.insecure = true (--insecure) if something else encrypts"
            )
        for name in ("data_address", "control_address", "ops_address"):
            _check_address(name, getattr(self.server, name))
        for name in ("control_address", "ops_address"):
            if not (self.server.insecure or is_loopback(getattr(self.server, name))):
                raise ConfigError(f"server.{name} is loopback only; set server.insecure = true to open it")
        if self.tier.low > self.tier.high:
            raise ConfigError(f"tier.low = {self.tier.low} is over tier.high = {self.tier.high}")
        self.event_now_ns()

    def event_now_ns(self) -> int | None:
        """``event_time.now`` in nanoseconds since 1970, or None for the wall clock."""
        if not self.event_time.now:
            return None
        try:
            instant = datetime.fromisoformat(self.event_time.now)
        except ValueError as error:
            raise ConfigError(f"event_time.now = {self.event_time.now!r}: {error}") from error
        if instant.tzinfo is None:
            raise ConfigError(f"event_time.now = {self.event_time.now!r} needs a time zone, such as Z")
        return int(instant.timestamp()) * limits.SECOND_NS


def is_loopback(address: str) -> bool:
    """True for an address that only this machine can reach."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")


def _check_address(name: str, address: str) -> None:
    port = address.rpartition(":")[2]
    is_path = address.startswith("unix:") and name != "ops_address"
    if not is_path and not (port.isdecimal() and int(port) <= 65_535):
        raise ConfigError(f"server.{name} = {address!r} is not HOST:PORT with a port of 0 to 65535")


def load(path: Path | None, environment: Mapping[str, str] | None = None, insecure: bool = False) -> Config:
    """Read the file and the environment. Raises ConfigError, naming file, key and a hint.

    ``insecure`` sets ``server.insecure``, as the flag of that name does.
    """
    form: dict[str, Any] = {}
    source = "the environment"
    if path is not None:
        source = str(path)
        try:
            form = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML: {error}") from error
    _convert(form, source, strict=True)
    overrides = _overrides(os.environ if environment is None else environment)
    for section, values in overrides.items():
        form[section] = {**form.get(section, {}), **values}
    if insecure:
        form["server"] = {**form.get("server", {}), "insecure": True}
    config = _convert(form, "the environment" if overrides else source, strict=not overrides)
    config.check()
    return config


def _overrides(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in OTHER_VARIABLES:
            continue
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not separator:
            raise ConfigError(f"environment variable {name}: expected {ENVIRONMENT_PREFIX}SECTION__KEY")
        found.setdefault(section, {})[key] = value
    return found


def _convert(form: dict[str, Any], source: str, strict: bool) -> Config:
    try:
        return msgspec.convert(form, Config, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}{_hint(str(error))}") from error


def _hint(message: str) -> str:
    match = re.search(r"unknown field `(.*?)`(?: - at `\$\.(\w+)`)?", message)
    if match is None:
        return ""
    known = _keys(match[2])
    nearest = difflib.get_close_matches(match[1], known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"


def _keys(section: str | None) -> tuple[str, ...]:
    if section is None:
        return Config.__struct_fields__
    return tuple(getattr(Config(), section).__struct_fields__)
