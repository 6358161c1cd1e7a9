"""The budget file: what each stage of a decision may take of the whole budget."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from fraudgate.errors import ConfigError
from fraudgate.limits import BUDGET_NS, MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

STAGES = ("queue", "features", "inference", "guardrails", "respond")
"""Together they are a decision, from its arrival to its bytes."""

_UNITS_NS = {"ns": 1, "us": MICROSECOND_NS, "ms": MILLISECOND_NS, "s": SECOND_NS}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ns|us|ms|s)")


@dataclass(frozen=True, slots=True)
class Budget:
    """``allowed_ns`` by stage, in the order of ``STAGES``; their sum is at most ``total_ns``."""

    total_ns: int
    allowed_ns: Mapping[str, int]

    @classmethod
    def load(cls, path: Path | str, total_ns: int = BUDGET_NS) -> "Budget":
        """Read a budget file. Raises ConfigError, naming it."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"budget file {path}: cannot be read: {error}") from error
        return cls.parse(text, f"budget file {path}", total_ns)

    @classmethod
    def parse(cls, text: str, source: str, total_ns: int = BUDGET_NS) -> "Budget":
        """Raises ConfigError, naming ``source``: not TOML, a stage unknown or missing, or stages that do not fit."""
        try:
            form = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: is not TOML: {error}") from error
        stages = form.get("stages")
        if set(form) != {"stages"} or not isinstance(stages, dict):
            raise ConfigError(f"{source}: must hold one table, [stages], with {', '.join(STAGES)}")
        return cls._fitting(_durations(stages, source), source, total_ns)

    @classmethod
    def _fitting(cls, given_ns: Mapping[str, int], source: str, total_ns: int) -> "Budget":
        missing = [stage for stage in STAGES if stage not in given_ns]
        if missing:
            raise ConfigError(f"{source}: [stages] lacks {', '.join(missing)}: a stage without an allowance has no end")
        sum_ns = sum(given_ns.values())
        if sum_ns > total_ns:
            raise ConfigError(
                f"{source}: the stages do not fit: together {sum_ns / MILLISECOND_NS:g} ms of a budget of"
                f" {total_ns / MILLISECOND_NS:g} ms"
            )
        return cls(total_ns, {stage: given_ns[stage] for stage in STAGES})

    @classmethod
    def default(cls, total_ns: int = BUDGET_NS) -> "Budget":
        """The packaged one, in proportion where the whole budget is smaller."""
        text = files("fraudgate.latency").joinpath("budget.toml").read_text("utf-8")
        packaged = cls.parse(text, "the packaged budget")
        if total_ns >= packaged.total_ns:
            return cls(total_ns, packaged.allowed_ns)
        allowed_ns = {stage: ns * total_ns // packaged.total_ns for stage, ns in packaged.allowed_ns.items()}
        return cls(total_ns, allowed_ns)


def _durations(stages: Mapping[str, Any], source: str) -> dict[str, int]:
    """Nanoseconds by stage."""
    durations_ns: dict[str, int] = {}
    for key, value in stages.items():
        stage = key.removesuffix("_ns")
        if stage not in STAGES:
            raise ConfigError(f"{source}: unknown stage {key!r}; there are {', '.join(STAGES)}")
        if stage in durations_ns:
            raise ConfigError(f"{source}: {stage} is given twice")
        durations_ns[stage] = _duration_ns(value, key, source)
    return durations_ns


def _duration_ns(value: object, key: str, source: str) -> int:
    if key.endswith("_ns"):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ConfigError(f"{source}: {key} = {value!r} is not a positive integer of nanoseconds")
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    duration_ns = round(float(match[1]) * _UNITS_NS[match[2]]) if match else 0
    if duration_ns < 1:
        raise ConfigError(f'{source}: {key} = {value!r} is not a duration such as "20ms", "500us" or "0.5 s"')
    return duration_ns
