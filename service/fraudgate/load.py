"""Load for a running server: transactions to send, a run of the native generator, and the report of what came back.

The generator itself is Rust, ``fraudgate_ingress.Load``. Times of a report are nanoseconds in
``fraudgate.latency.histogram``'s layout, counted from the instant at which each call was meant to be sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.rpc import code_pb2

from fraudgate import wheel
from fraudgate.errors import ConfigError, FraudgateError
from fraudgate.latency.histogram import Distribution, Filled
from fraudgate.latency.report import write_hlog
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.simulator.traffic import CURRENCY
from fraudgate.transaction import ENTITIES, Decision, Fallback
from fraudgate.v1.scoring_pb2 import DESCRIPTOR as SCORING

PATH = f"/{SCORING.package}.ScoringService/Score"
ARRIVALS = ("poisson", "constant", "burst")
CUSTOMERS, TERMINALS, DAYS = 5_000, 10_000, 10
"""The simulated town, about 95,000 transactions."""
LAG_NS_MAX = 10 * MILLISECOND_NS
POLL_SECONDS = 0.1

TAGS = {"decided": "client", "refused": "client_refused", "lag": "client_lag"}
"""Names in a histogram log, beside the server's own stages."""
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
STATUSES: dict[int, str] = {number: name for name, number in code_pb2.Code.items()}
UNKNOWN = "UNKNOWN"
"""A decision or fallback that this version does not know, 0 (unspecified) included."""


def native() -> Any:
    """The extension module. Raises ConfigError, saying what to install."""
    try:
        return wheel.module()
    except ImportError as error:
        raise ConfigError(
            "the load generator is native code: pip install fraudgate-ingress, or, in a checkout with a Rust toolchain,"
            f" pip install ./service/ingress ({error})"
        ) from error


def simulated_rows(seed: int) -> pa.RecordBatch:
    """Transactions of the project's simulator, in the columns that the generator takes."""
    return columns_of(simulate(seed, CUSTOMERS, TERMINALS, DAYS))


def parquet_rows(path: Path) -> pa.RecordBatch:
    """Transactions of a Parquet file with bulk load's columns. Raises ConfigError, naming the file."""
    try:
        with pq.ParquetFile(path) as file:
            wanted = {"event_time", "amount_minor", "currency", *ENTITIES}
            return columns_of(file.read([name for name in file.schema_arrow.names if name in wanted]))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ConfigError(f"{path} does not hold transactions: {error}") from error


def columns_of(table: pa.Table) -> pa.RecordBatch:
    """event_time and amount_minor as int64 (nanoseconds, minor units), currency and what is there of ENTITIES as utf8.

    A naive event_time is UTC; without a currency column it is the simulator's. Raises ValueError for rows that cannot
    be sent.
    """
    for name in ("event_time", "amount_minor"):
        if name not in table.column_names:
            raise ValueError(f"column {name!r} is missing; there are: {', '.join(table.column_names) or 'none'}")
    if not table.num_rows:
        raise ValueError("there are no rows")
    kind = table["event_time"].type
    if not pa.types.is_timestamp(kind):
        raise ValueError(f"column 'event_time' must be a timestamp, not {kind}")
    columns = {
        "event_time": table["event_time"].cast(pa.timestamp("ns", kind.tz)).cast(pa.int64()),
        "amount_minor": table["amount_minor"].cast(pa.int64()),
        "currency": table["currency"].cast(pa.utf8()) if "currency" in table.column_names else None,
        **{name: table[name].cast(pa.utf8()) for name in ENTITIES if name in table.column_names},
    }
    if columns["currency"] is None:
        columns["currency"] = pa.chunked_array([pa.repeat(CURRENCY, table.num_rows)])
    whole = {name: pa.concat_arrays(column.chunks) for name, column in columns.items()}
    for name in ("event_time", "amount_minor"):
        if whole[name].null_count:
            raise ValueError(f"column {name!r} has {whole[name].null_count} nulls")
    return pa.RecordBatch.from_arrays([*whole.values()], names=[*whole])


@dataclass(frozen=True)
class Pace:
    """How calls are paced: ``rate`` a second, whatever the server does, or ``concurrency`` under way at all times."""

    duration_ns: int
    rate: float | None = None
    arrivals: str = "poisson"
    seed: int = 1
    concurrency: int | None = None

    def __str__(self) -> str:
        how = f"{self.arrivals} arrivals at {self.rate:,g}/s" if self.rate else f"{self.concurrency:,} calls at a time"
        return f"{how} for {self.duration_ns / SECOND_NS:g} s"


@dataclass(frozen=True)
class Destination:
    """Where calls go: HOST:PORT or unix:PATH; ``tls_ca`` (PEM) asks for TLS."""

    target: str
    connections: int = 4
    path: str = PATH
    timeout_ns: int | None = None
    """Sent as the call's deadline; the server keeps it, the generator only waits."""
    tls_ca: bytes | None = None


class Run:
    """One run of the native generator."""

    def __init__(self, destination: Destination, pace: Pace, workload: Any, grace_ns: int) -> None:
        """``workload``: a ``fraudgate_ingress.Workload``. Raises ConfigError."""
        self._destination, self._pace = destination, pace
        try:
            self._load = native().Load(
                destination.target,
                workload,
                duration_ns=pace.duration_ns,
                rate=pace.rate,
                arrivals=pace.arrivals,
                seed=pace.seed,
                concurrency=pace.concurrency,
                connections=destination.connections,
                path=destination.path,
                timeout_ns=destination.timeout_ns,
                grace_ns=grace_ns,
                tls_ca=destination.tls_ca,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def run(self, tick: Callable[[int], None] = lambda _answered: None) -> "LoadReport":
        """Run to the end; ``tick`` is told the calls answered so far, again and again.

        A KeyboardInterrupt ends it early, a second one without waiting for answers. Raises FraudgateError where the
        server cannot be reached.
        """
        self._load.start()
        over = False
        while not over:
            try:
                over = self._load.wait(POLL_SECONDS)
                tick(self._load.answered)
            except KeyboardInterrupt:
                self._load.stop()
        try:
            return LoadReport.of(self._destination, self._pace, self._load.result())
        except ConnectionError as error:
            raise FraudgateError(f"{self._destination.target}: {error}") from error


@dataclass(frozen=True)
class LoadReport:
    """What a run has measured."""

    destination: Destination
    pace: Pace
    started_wall_ns: int
    sending_ns: int  # from the first intended send to the end of sending
    answering_ns: int  # from the first intended send to the last answer
    sent: int
    answered: int  # with a status, OK or not
    in_flight_max: int
    replayed: int  # answers that the server took from its memory of earlier ids
    statuses: dict[str, int]
    decisions: dict[str, int]
    fallbacks: dict[str, int]
    lost: dict[str, int]  # calls with neither answer nor status, by what happened
    decided: Distribution  # intended send to answer, status OK
    refused: Distribution  # intended send to status, any other status
    lag: Distribution  # how late the generator itself was
    held: int  # calls that waited because no connection had a free stream
    max_ns: dict[str, int]  # exact maxima of decided, refused, lag and held
    cpu_ns: int  # of the generator's thread

    @classmethod
    def of(cls, destination: Destination, pace: Pace, raw: Mapping[str, Any]) -> "LoadReport":
        """From ``fraudgate_ingress.Load.result()``."""
        spreads = {name: raw[name] for name in ("decided", "refused", "lag", "held")}
        numbers = ("started_wall_ns", "sending_ns", "answering_ns", "sent", "answered", "in_flight_max", "replayed")
        return cls(
            destination=destination,
            pace=pace,
            statuses=_named(raw["statuses"], STATUSES),
            decisions=_named(raw["decisions"], {each.value: each.name for each in Decision}),
            fallbacks=_named(raw["fallbacks"], {each.value: each.name for each in Fallback}),
            lost=dict(raw["lost"]),
            held=sum(spreads["held"][1]),
            max_ns={name: spread[2] for name, spread in spreads.items()},
            cpu_ns=raw["cpu_ns"],
            decided=_distribution(*spreads["decided"][:2]),
            refused=_distribution(*spreads["refused"][:2]),
            lag=_distribution(*spreads["lag"][:2]),
            **{name: raw[name] for name in numbers},
        )

    @property
    def lost_calls(self) -> int:
        return sum(self.lost.values())

    @property
    def sent_per_second(self) -> float:
        return self.sent * SECOND_NS / max(self.sending_ns, 1)

    @property
    def answered_per_second(self) -> float:
        """Over the time until the last answer, or the end of sending if that is later."""
        return self.answered * SECOND_NS / max(self.sending_ns, self.answering_ns, 1)

    @property
    def cpu_us_per_call(self) -> float:
        return self.cpu_ns / 1_000 / max(self.sent, 1)

    @property
    def cpu_share(self) -> float:
        """How much of one core the generator's thread used."""
        return self.cpu_ns / max(self.sending_ns, self.answering_ns, 1)

    def problems(self, lag_ns_max: int = LAG_NS_MAX) -> list[str]:
        """Why the run does not count, if it does not."""
        found = [f"{count:,} calls lost: {why}" for why, count in sorted(self.lost.items())]
        lag_ns = self.lag.percentile(99)
        if lag_ns > lag_ns_max:
            found.append(
                f"the generator could not keep its own schedule: 1 % of calls left {_ms(lag_ns):g} ms late or later "
                f"(allowed: {_ms(lag_ns_max):g} ms), which is part of the latency above; give it a lower rate or an "
                "idle core"
            )
        return found

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        found = []
        if self.cpu_share > 0.9:
            found.append(f"the generator used {self.cpu_share:.0%} of its core: the server may do more than this")
        if self.pace.concurrency and self.in_flight_max < self.pace.concurrency:
            found.append(f"no more than {self.in_flight_max:,} calls were under way: the server takes no more streams")
        if self.held:
            found.append(
                f"{self.held:,} calls waited up to {_ms(self.max_ns['held']):,.1f} ms for a connection with a free "
                "stream; their latency counts it"
            )
        if self.replayed:
            found.append(f"{self.replayed:,} answers were repeats of known ids: give each run a --run of its own")
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and numbers; milliseconds unless a name says otherwise."""
        pace = self.pace
        return {
            "target": self.destination.target,
            "connections": self.destination.connections,
            "arrivals": pace.arrivals if pace.rate else None,
            "seed": pace.seed if pace.rate else None,
            "concurrency": pace.concurrency,
            "duration_seconds": pace.duration_ns / SECOND_NS,
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost_calls,
            "lost_why": self.lost,
            "statuses": self.statuses,
            "decisions": self.decisions,
            "fallbacks": self.fallbacks,
            "replayed": self.replayed,
            "rate": {
                "asked": pace.rate,
                "sent": round(self.sent_per_second, 3),
                "answered": round(self.answered_per_second, 3),
            },
            "latency_ms": self._times("decided"),
            "refused_ms": self._times("refused"),
            "generator": {
                "lag_ms": self._times("lag"),
                "held": self.held,
                "held_ms_max": _ms(self.max_ns["held"]),
                "in_flight_max": self.in_flight_max,
                "cpu_us_per_call": round(self.cpu_us_per_call, 3),
                "cpu_share": round(self.cpu_share, 4),
            },
        }

    def write_log(self, path: Path) -> None:
        """Write a histogram log, as ``fraudgate report`` and HDR histogram's readers take it."""
        distributions = {tag: getattr(self, name) for name, tag in TAGS.items()}
        # A log's start is written in milliseconds; readers skip an interval that begins before it.
        start_ns = self.started_wall_ns // MILLISECOND_NS * MILLISECOND_NS
        write_hlog(path, distributions, start_ns, self.started_wall_ns + max(self.sending_ns, self.answering_ns))

    def _times(self, name: str) -> dict[str, float]:
        values: Distribution = getattr(self, name)
        times = {key: _ms(values.percentile(percent)) for key, percent in PERCENTILES.items()}
        return {**times, "max": _ms(self.max_ns[name])}


def _ms(ns: int) -> float:
    return round(ns / MILLISECOND_NS, 6)


def _distribution(cells: list[int], counts: list[int]) -> Distribution:
    return Distribution.of(Filled(np.array(cells, np.int64), np.array(counts, np.int64)))


def _named(counts: list[int], names: Mapping[int, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value, count in enumerate(counts):
        if count:
            name = names.get(value, UNKNOWN)
            found[name] = found.get(name, 0) + count
    return found
