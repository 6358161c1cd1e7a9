"""Configuration: one TOML file, environment overrides ``FRAUDGATE_SECTION__KEY``, defaults that are right.

Unknown sections and keys are refused, with the nearest name as a hint.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from fraudgate import limits
from fraudgate.errors import ConfigError
from fraudgate.sections import (
    Admission,
    Batching,
    Budget,
    Caller,
    Drift,
    EventTime,
    FallbackPolicy,
    Features,
    Idempotency,
    Ingress,
    Ladder,
    Latency,
    Log,
    Logging,
    Model,
    Rules,
    Section,
    Server,
    State,
    Tier,
    Tls,
    Tracing,
    Trial,
)

ENVIRONMENT_PREFIX = "FRAUDGATE_"
OTHER_VARIABLES = frozenset({"FRAUDGATE_DATA", "FRAUDGATE_TRAIN_VENV"})
"""Variables with the prefix that are no settings."""


class Config(Section, forbid_unknown_fields=True, frozen=True):
    """Everything that can be set."""

    server: Server = Server()
    tls: Tls = Tls()
    ingress: Ingress = Ingress()
    batching: Batching = Batching()
    admission: Admission = Admission()
    callers: tuple[Caller, ...] = ()
    features: Features = Features()
    model: Model = Model()
    tier: Tier = Tier()
    trial: Trial = Trial()
    rules: Rules = Rules()
    idempotency: Idempotency = Idempotency()
    event_time: EventTime = EventTime()
    log: Log = Log()
    logging: Logging = Logging()
    latency: Latency = Latency()
    budget: Budget = Budget()
    state: State = State()
    drift: Drift = Drift()
    tracing: Tracing = Tracing()
    ladder: Ladder = Ladder()
    fallback: FallbackPolicy = FallbackPolicy()

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
        _check_callers(self.callers)
        if self.tier.low > self.tier.high:
            raise ConfigError(f"tier.low = {self.tier.low} is over tier.high = {self.tier.high}")
        _check_ladder(self.ladder, self.fallback)
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


def _check_ladder(ladder: Ladder, fallback: FallbackPolicy) -> None:
    if ladder.failures_max > ladder.window_runs:
        raise ConfigError(f"ladder.failures_max = {ladder.failures_max} is over window_runs = {ladder.window_runs}")
    if ladder.wait_seconds_min > ladder.wait_seconds_max:
        raise ConfigError(
            f"ladder.wait_seconds_min = {ladder.wait_seconds_min:g} is over wait_seconds_max = "
            f"{ladder.wait_seconds_max:g}"
        )
    if (fallback.policy == "approve_up_to") != bool(fallback.approve_up_to_minor):
        raise ConfigError('fallback.policy = "approve_up_to" and fallback.approve_up_to_minor > 0 need each other')


def _check_callers(callers: Sequence[Caller]) -> None:
    if len(callers) > limits.CALLERS_MAX:
        raise ConfigError(f"[[callers]]: {len(callers)} are over the {limits.CALLERS_MAX} there may be")
    for what, values in (
        ("name", [caller.name for caller in callers]),
        ("token_sha256", [caller.token_sha256.lower() for caller in callers]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"[[callers]]: two have the {what} {twice!r}")


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
        if not isinstance(form.get(section, {}), dict):
            raise ConfigError(f"[[{section}]] cannot be set from the environment, only in the file")
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
    match = re.search(r"unknown field `(.*?)`(?: - at `\$\.(\w+)(?:\[.*\])?`)?", message)
    if match is None:
        return ""
    known = _keys(match[2])
    nearest = difflib.get_close_matches(match[1], known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"


def _keys(section: str | None) -> tuple[str, ...]:
    if section is None:
        return Config.__struct_fields__
    return (Caller if section == "callers" else getattr(Config(), section)).__struct_fields__
