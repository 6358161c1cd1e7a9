"""The SLO file: what the service promises, from which alerts and dashboard are made."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from fraudgate.errors import ConfigError
from fraudgate.limits import MILLISECOND_NS
from fraudgate.ops.buckets import BOUNDS_NS, le

_Objective = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Reason = Annotated[str, msgspec.Meta(pattern="^[a-z_]+$")]


class Latency(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A share of the decisions, and within what time."""

    objective: _Objective
    within_ms: float

    @property
    def le(self) -> str:
        """The bucket of ``within_ms``."""
        return le(round(self.within_ms * MILLISECOND_NS))


class Availability(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A share of the transactions that end with a decision."""

    objective: _Objective
    callers_fault: list[_Reason] = []
    """Reasons of refusals that are not counted."""


class Slo(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    window_days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    latency: Latency
    availability: Availability

    @classmethod
    def load(cls, path: Path) -> "Slo":
        """Raises ConfigError, naming the file and the key."""
        try:
            slo = msgspec.convert(tomllib.loads(path.read_text("utf-8")), cls)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML: {error}") from error
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: {error}") from error
        if round(slo.latency.within_ms * MILLISECOND_NS) not in BOUNDS_NS:
            bounds = ", ".join(f"{bound / MILLISECOND_NS:g}" for bound in BOUNDS_NS)
            raise ConfigError(f"{path}: latency.within_ms = {slo.latency.within_ms:g} is no bucket bound: {bounds}")
        return slo
