"""Feature schemas: which numbers a model is given, in which order, declared in a TOML file and not in code.

    name = "handbook"
    currency = "EUR"                 # amounts and sums are in major units of it
    tick = "1s"                      # event times are truncated to it (default "1s")

    [[feature]]                      # in the order of the tensor
    name = "CUSTOMER_ID_NB_TX_1DAY_WINDOW"
    kind = "window"
    entity = "customer_id"
    aggregate = "count"
    width = "1d"

kinds and their keys:

    amount     amount_minor / 10^exponent of the schema's currency; 0 for a transaction in another currency
    weekend    1 on Saturday and Sunday (UTC), else 0
    hours      from, to: 1 when the UTC hour is in from..to, both included; from > to goes over midnight
    attribute  attribute, default: a request attribute; the default stands in where the request has none
    profile    entity, default: a static feature of an entity; the default stands in, flagged, where none was stored
    window     entity, aggregate (count | sum | mean | fraud_share), width [, label_delay, empty]: over the entity's
               events in (t - label_delay - width, t - label_delay]; empty (default 0) is the value of an empty window

Durations are an integer and a unit: ms, s, m, h or d.

A feature of any kind may say monotone = "increasing" or "decreasing": raising it alone must never lower the score, or
never raise it. It is a demand on the model that ``fraudgate model check`` holds it to, and changes no number that the
model is given: the fingerprint leaves it out.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from fraudgate.errors import SchemaError
from fraudgate.features.currency import EXPONENTS
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.transaction import ENTITIES

Aggregate = Literal["count", "sum", "mean", "fraud_share"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
Monotone = Literal["increasing", "decreasing"]
SCHEMAS_DIRECTORY = Path(__file__).parent / "schemas"

_UNITS_NS = {
    "ms": MILLISECOND_NS,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3_600 * SECOND_NS,
    "d": 86_400 * SECOND_NS,
}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_NS_MAX = 10 * 366 * _UNITS_NS["d"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Amount:
    """The transaction's amount in major units."""

    name: str


@dataclass(frozen=True, slots=True)
class Weekend:
    """1.0 on Saturday and Sunday, UTC."""

    name: str


@dataclass(frozen=True, slots=True)
class Hours:
    """1.0 when the UTC hour is in first..last, both included."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """A request attribute."""

    name: str
    attribute: str
    default: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A static feature of an entity, stored by ``put_profile``."""

    name: str
    entity: str
    default: float


@dataclass(frozen=True, slots=True)
class Window:
    """An aggregate over the entity's events in (t - label_delay - width, t - label_delay]."""

    name: str
    entity: str
    aggregate: Aggregate
    width_ns: int
    label_delay_ns: int
    empty: float


Feature = Amount | Weekend | Hours | Attribute | Profile | Window


@dataclass(frozen=True)
class FeatureSchema:
    """A parsed feature schema; ``features`` are in the order of the tensor."""

    name: str
    currency: str
    tick_ns: int
    features: tuple[Feature, ...]
    monotone: Mapping[str, Monotone] = field(default_factory=dict, hash=False)
    """Feature name -> which way the score goes with it, for the features that demand it."""

    @classmethod
    def load(cls, path: str | Path) -> "FeatureSchema":
        """Read a schema file. Raises SchemaError naming the file, the feature and what was probably meant."""
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path}: cannot be read: {error}") from error
        return cls.parse(text, str(path))

    @classmethod
    def named(cls, name: str) -> "FeatureSchema":
        """A schema that ships with the package, such as "handbook"."""
        packaged = sorted(path.stem for path in SCHEMAS_DIRECTORY.glob("*.toml"))
        if name not in packaged:
            raise SchemaError(f"no packaged feature schema {name!r}{_hint(name, packaged)}")
        return cls.load(SCHEMAS_DIRECTORY / f"{name}.toml")

    @classmethod
    def of(cls, name: str) -> "FeatureSchema":
        """A packaged schema by its name, or a file by a path that ends in .toml."""
        return cls.load(name) if name.endswith(".toml") else cls.named(name)

    @classmethod
    def parse(cls, text: str, file: str = "<schema>") -> "FeatureSchema":
        """Parse the text of a schema file; ``file`` is its name in messages."""
        try:
            return _schema(_Table(tomllib.loads(text), file))
        except tomllib.TOMLDecodeError as error:
            raise SchemaError(f"{file}: {error}") from error

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of the tensor."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def exponent(self) -> int:
        """Decimal places of the currency's minor unit."""
        return EXPONENTS[self.currency]

    @cached_property
    def entities(self) -> frozenset[str]:
        """The kinds of entity that some feature is drawn from."""
        return frozenset(feature.entity for feature in self.features if isinstance(feature, Profile | Window))

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The window features, in the order of the tensor."""
        return tuple(feature for feature in self.features if isinstance(feature, Window))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of what the schema says; comments, layout and spelling of durations do not change it."""
        features = [{"kind": type(feature).__name__.lower(), **asdict(feature)} for feature in self.features]
        meaning = {"name": self.name, "currency": self.currency, "tick_ns": self.tick_ns, "features": features}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Table:
    """A TOML table being read: every key is taken once, and what is left over is an error."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = dict(values)
        self.where = where
        self.known: list[str] = []

    def fail(self, message: str) -> SchemaError:
        return SchemaError(f"{self.where}: {message}")

    def take(self, key: str, kinds: tuple[type, ...], what: str, default: Any = None) -> Any:
        self.known.append(key)
        value = self.values.pop(key, default)
        if value is None:
            raise self.fail(f"key {key!r} is missing{_hint(key, self.values)}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.fail(f"{key} must be {what}, not {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return str(self.take(key, (str,), "a string", default))

    def name(self, key: str = "name") -> str:
        name = self.text(key)
        if not _NAME.fullmatch(name):
            raise self.fail(f"{key} {name!r} must be 1..64 letters, digits and underscores, and not begin with a digit")
        return name

    def choice(self, key: str, choices: Iterable[str]) -> Any:
        value, choices = self.text(key), list(choices)
        if value not in choices:
            raise self.fail(f"{key} {value!r} is not one of {', '.join(choices)}{_hint(value, choices)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = float(self.take(key, (int, float), "a number", default))
        if not abs(value) < float("inf"):
            raise self.fail(f"{key} must be finite")
        return value

    def hour(self, key: str) -> int:
        hour = int(self.take(key, (int,), "an hour, 0..23"))
        if not 0 <= hour <= 23:
            raise self.fail(f"{key} must be an hour, 0..23, not {hour}")
        return hour

    def duration_ns(self, key: str, tick_ns: int, least_ns: int, default: str | None = None) -> int:
        text = self.text(key, default)
        match = _DURATION.fullmatch(text)
        if not match:
            raise self.fail(f'{key} {text!r} is not a duration such as "90m": an integer and one of ms, s, m, h, d')
        duration_ns = int(match[1]) * _UNITS_NS[match[2]]
        if not least_ns <= duration_ns <= _DURATION_NS_MAX or duration_ns % tick_ns:
            raise self.fail(f"{key} {text!r} must be a whole number of ticks, at least {least_ns} ns, at most 10 years")
        return duration_ns

    def finish(self) -> None:
        for key in self.values:
            raise self.fail(f"unknown key {key!r}{_hint(key, self.known)}")


def _hint(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _schema(table: _Table) -> FeatureSchema:
    name = table.name()
    currency = table.text("currency")
    if currency not in EXPONENTS:
        raise table.fail(f"currency {currency!r} is not an ISO 4217 code{_hint(currency, EXPONENTS)}")
    tick_ns = table.duration_ns("tick", MILLISECOND_NS, MILLISECOND_NS, "1s")
    tables = table.take("feature", (list,), "an array of tables: [[feature]]")
    table.finish()
    features: dict[str, Feature] = {}
    monotone: dict[str, Monotone] = {}
    for number, values in enumerate(tables, 1):
        feature, direction = _feature(values, table.where, number, tick_ns)
        if feature.name in features:
            raise table.fail(f"feature {number}: the name {feature.name!r} is taken already")
        features[feature.name] = feature
        if direction:
            monotone[feature.name] = direction
    if not features:
        raise table.fail("a schema needs at least one [[feature]]")
    return FeatureSchema(name, currency, tick_ns, tuple(features.values()), monotone)


def _feature(values: Any, file: str, number: int, tick_ns: int) -> tuple[Feature, Monotone | None]:
    if not isinstance(values, dict):
        raise SchemaError(f"{file}: feature {number} must be a table")
    table = _Table(values, f"{file}: feature {values.get('name', number)!r}")
    name = table.name()
    kind = table.choice("kind", ("amount", "weekend", "hours", "attribute", "profile", "window"))
    feature = _of_kind(kind, name, table, tick_ns)
    direction = table.choice("monotone", get_args(Monotone)) if "monotone" in table.values else None
    table.finish()
    return feature, direction


def _of_kind(kind: str, name: str, table: _Table, tick_ns: int) -> Feature:
    match kind:
        case "amount":
            return Amount(name)
        case "weekend":
            return Weekend(name)
        case "hours":
            return Hours(name, table.hour("from"), table.hour("to"))
        case "attribute":
            return Attribute(name, table.text("attribute"), table.number("default"))
        case "profile":
            return Profile(name, table.choice("entity", ENTITIES), table.number("default"))
        case _:
            return Window(
                name,
                table.choice("entity", ENTITIES),
                table.choice("aggregate", AGGREGATES),
                table.duration_ns("width", tick_ns, tick_ns),
                table.duration_ns("label_delay", tick_ns, 0, "0s"),
                table.number("empty", 0.0),
            )
