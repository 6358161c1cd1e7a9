"""The native front end over real connections, beside an echo of the same crate and beside the grpc.aio front end.

All servers stand at once and are loaded in turn, pair by pair, by the native load generator: closed loop for what a
decision costs, open loop with latency from the intended send time for how long a caller waits. The service holds 40
days of history and decides everything: validation, idempotency, windows, INT8 inference, rules, recording. Medians of
``PAIRS`` pairs; differences with a bootstrap interval. ``python -m benchmarks.native [--json]``.
"""

import asyncio
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import alone, traffic
from fraudgate import load
from fraudgate.demo.server import Ports, Server, free_ports, serve_command, to_toml
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.scheduling import prefer_batches
from fraudgate.simulator import simulate
from fraudgate.transaction import Fallback

PAIRS = 5
IN_FLIGHT, CONNECTIONS = 512, 4
SATURATED_SECONDS, OPEN_SECONDS, LONE_SECONDS = 2.0, 3.0, 2.0
OPEN_RATE, LONE_RATE = 10_000.0, 100.0
FOLLOWING_DAYS = 20
EVENT_NOW = "2031-01-01T00:00:00+00:00"
"""After every event that a run of any length can send."""
RESAMPLES = 10_000
GRACE_NS = 5 * SECOND_NS
H2LOAD_CALLS = 200_000
UNSCORED = {Fallback.RULES_ONLY.name, Fallback.STATIC_POLICY.name}
"""What an engine that does not score leaves, however fast: no figure of it counts."""

Sections = Mapping[str, Mapping[str, str | int | float | bool]]


@dataclass(frozen=True, slots=True)
class Saturated:
    """One server at its limit."""

    cpu_us_per_call: float
    calls_per_second: float
    p99_ms: float
    python_us_per_batch: float
    generator_us_per_call: float


class Feed:
    """Simulated transactions without end, in event order: each run goes on in event time where the last one stopped."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self._rows, self._sent, self._runs = rows, 0, 0
        times_ns = rows["event_time"].to_numpy()
        self._span_ns = int(times_ns[-1] - times_ns[0]) + SECOND_NS

    def workload(self) -> Any:
        """The transactions that follow, under ids that nobody has sent before."""
        self._runs += 1
        cycles, first = divmod(self._sent, len(self._rows))
        rest = self._later(self._rows.slice(first), cycles), self._later(self._rows.slice(0, first), cycles + 1)
        rows = pa.Table.from_batches(rest).combine_chunks().to_batches()[0]
        return load.native().Workload(rows, f"run{self._runs}", event_time_now=False)

    def _later(self, rows: pa.RecordBatch, cycles: int) -> pa.RecordBatch:
        times = pa.array(rows["event_time"].to_numpy() + cycles * self._span_ns)
        return rows.set_column(rows.schema.get_field_index("event_time"), "event_time", times)

    def advance(self, sent: int) -> None:
        self._sent += sent


class Traffic:
    """Simulated history, and feeds of what comes after it."""

    def __init__(self, folder: Path) -> None:
        table = simulate(traffic.SEED, traffic.CUSTOMERS, traffic.TERMINALS, traffic.HISTORY_DAYS + FOLLOWING_DAYS)
        times_ns = table["event_time"].cast("int64").to_numpy()
        day = times_ns[0] // traffic.DAY_NS * traffic.DAY_NS
        first = int(np.searchsorted(times_ns, day + traffic.HISTORY_DAYS * traffic.DAY_NS))
        self.history = folder / "history.parquet"
        pq.write_table(table.slice(0, first), self.history)
        self._rows: pa.RecordBatch = load.columns_of(table.slice(first))

    def feed(self) -> Feed:
        return Feed(self._rows)


@dataclass(frozen=True, slots=True)
class Place:
    """A running server, where its metrics are, and what it is fed."""

    server: Server
    ops: int
    feed: Feed


@contextmanager
def service(
    folder: Path,
    made: Traffic,
    frontend: str,
    others: Sections | None = None,
    module: str = "fraudgate",
    **batching: str | int,
) -> Iterator[Place]:
    """A whole service in a child process; ``module`` starts it."""
    ports = free_ports()
    addresses = {"data": ports.data, "control": ports.control, "ops": ports.ops}
    sections: Sections = {
        "server": {f"{name}_address": f"127.0.0.1:{port}" for name, port in addresses.items()},
        "features": {"history": str(made.history)},
        "event_time": {"now": EVENT_NOW},
        "batching": batching,
        **(others or {}),
    }
    path = folder / f"{ports.data}.toml"
    path.write_text(to_toml(sections), encoding="utf-8")
    command = [module if word == "fraudgate" else word for word in serve_command(path, frontend)]
    with Server(frontend, command, ports, lambda _line: None) as server:
        asyncio.run(server.serving())
        yield Place(server, ports.ops, made.feed())


@contextmanager
def echo(made: Traffic, *words: str) -> Iterator[Place]:
    """The transport alone, in a child process; see ``native_echo`` for ``words``."""
    ports: Ports = free_ports()
    command = [sys.executable, "-m", "benchmarks.native_echo", str(ports.data), *words]
    with Server("echo", command, ports, lambda _line: None) as server:
        asyncio.run(server.serving())
        yield Place(server, 0, made.feed())


def run(place: Place, pace: load.Pace) -> load.LoadReport:
    """One run of load, of which every call must be answered with a decision that an engine scored."""
    destination = load.Destination(place.server.target, CONNECTIONS)
    report = load.Run(destination, pace, place.feed.workload(), GRACE_NS).run()
    place.feed.advance(report.sent)
    if report.lost_calls or set(report.statuses) != {"OK"}:
        raise RuntimeError(f"{place.server.name}: lost {report.lost}, statuses {report.statuses}")
    if UNSCORED & report.fallbacks.keys():
        raise RuntimeError(f"{place.server.name}: decided without its engine, {report.fallbacks}")
    return report


def saturate(place: Place, in_flight: int = IN_FLIGHT) -> Saturated:
    """As many calls as it takes, closed loop: CPU of the server's whole process, and of its scoring thread."""
    before = cpu_ns(place), _thread_ns(place)
    pace = load.Pace(int(SATURATED_SECONDS * SECOND_NS), concurrency=in_flight)
    report = run(place, pace)
    used_ns, thread_ns = cpu_ns(place) - before[0], _thread_ns(place) - before[1]
    return Saturated(
        cpu_us_per_call=used_ns / 1_000 / report.answered,
        calls_per_second=report.answered_per_second,
        p99_ms=report.decided.percentile(99) / 1e6,
        # Batches that were not full count by their rows: a full one is 32 decisions.
        python_us_per_batch=thread_ns / 1_000 / report.answered * BATCH_ROWS_MAX if place.ops else 0.0,
        generator_us_per_call=report.cpu_us_per_call,
    )


def cpu_ns(place: Place) -> int:
    """CPU of the process, threads that have ended included: the scheduler's own sum, to the nanosecond."""
    return time.clock_gettime_ns(_cpu_clock(place.server.pid))


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) answers on Linux: CPUCLOCK_SCHED of a whole process."""
    return ~pid << 3 | 2


def _thread_ns(place: Place) -> int:
    """CPU of the main thread: the scoring loop."""
    pid = place.server.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def open_loop(place: Place, rate: float, seconds: float, seed: int) -> tuple[float, float, float]:
    """p50, p99 and p99.9 in milliseconds, Poisson arrivals."""
    report = run(place, load.Pace(int(seconds * SECOND_NS), rate=rate, arrivals="poisson", seed=seed))
    p50, p99, p999 = (report.decided.percentile(percent) / 1e6 for percent in (50, 99, 99.9))
    return p50, p99, p999


def interval(pairs: Sequence[tuple[float, float]], seed: int = 1) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median difference within pairs."""
    differences, source = [ours - echo for ours, echo in pairs], random.Random(seed)
    medians = sorted(statistics.median(source.choices(differences, k=len(pairs))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def costs(ours: Place, theirs: Place) -> dict[str, float]:
    """What a decision costs at saturation, beside the echo."""
    for place in (ours, theirs):
        saturate(place)  # warm
    pairs = [(saturate(ours), saturate(theirs)) for _ in range(PAIRS)]
    mine, echoes = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    low, high = interval([(each.cpu_us_per_call, other.cpu_us_per_call) for each, other in pairs])
    return {
        "native_cpu_us_per_decision": round(_median(mine, "cpu_us_per_call"), 2),
        "native_echo_cpu_us_per_call": round(_median(echoes, "cpu_us_per_call"), 2),
        "native_over_echo_us": round(
            statistics.median(each.cpu_us_per_call - other.cpu_us_per_call for each, other in pairs), 2
        ),
        "native_over_echo_us_low": round(low, 2),
        "native_over_echo_us_high": round(high, 2),
        "native_decisions_per_second": round(_median(mine, "calls_per_second")),
        "native_echo_calls_per_second": round(_median(echoes, "calls_per_second")),
        "native_saturated_p99_ms": round(_median(mine, "p99_ms"), 2),
        "python_cpu_us_per_batch": round(_median(mine, "python_us_per_batch"), 1),
        "native_generator_cpu_us_per_call": round(_median(mine, "generator_us_per_call"), 2),
    }


def tails(ours: Place, theirs: Place) -> dict[str, float]:
    """How long callers wait at 10,000/s, Poisson, beside the echo."""
    measure: Callable[..., tuple[float, float, float]] = partial(open_loop, rate=OPEN_RATE, seconds=OPEN_SECONDS)
    measure(ours, seed=0)  # warm
    pairs = [(measure(ours, seed=seed), measure(theirs, seed=seed)) for seed in range(1, PAIRS + 1)]
    (low, high), (low_999, high_999) = (interval([(mine[i], other[i]) for mine, other in pairs]) for i in (1, 2))
    return {
        "native_p99_ms_at_10k": round(statistics.median(mine[1] for mine, _ in pairs), 2),
        "native_p999_ms_at_10k": round(statistics.median(mine[2] for mine, _ in pairs), 2),
        "native_echo_p99_ms_at_10k": round(statistics.median(other[1] for _, other in pairs), 2),
        "native_echo_p999_ms_at_10k": round(statistics.median(other[2] for _, other in pairs), 2),
        "native_over_echo_p99_ms_low": round(low, 2),
        "native_over_echo_p99_ms_high": round(high, 2),
        "native_over_echo_p999_ms_low": round(low_999, 2),
        "native_over_echo_p999_ms_high": round(high_999, 2),
    }


def fixed_body(place: Place) -> float | None:
    """CPU per decision when h2load sends one body again and again; None where it is not installed.

    The service must not take a repeated id for a retry: ``idempotency.enabled = false``.
    """
    h2load = shutil.which("h2load")
    if h2load is None:
        return None
    body = traffic.requests(traffic.transactions(1))[0]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\0" + len(body).to_bytes(4, "big") + body)
        file.flush()
        headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        shape = ("-n", str(H2LOAD_CALLS), "-c", str(CONNECTIONS), "-m", "128", "-d", file.name)
        before = cpu_ns(place)
        url = f"http://{place.server.target}{load.PATH}"
        ended = subprocess.run([h2load, *shape, *headers, url], capture_output=True, text=True, check=True)
    if f" {H2LOAD_CALLS} succeeded" not in ended.stdout:
        raise RuntimeError(f"h2load: {ended.stdout}")
    return (cpu_ns(place) - before) / 1_000 / H2LOAD_CALLS


def _median(rounds: Sequence[Saturated], name: str) -> float:
    values: list[float] = [getattr(each, name) for each in rounds]
    return statistics.median(values)


def figures() -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("native"):
        return {}
    prefer_batches()
    one_at_a_time = load.Pace(int(LONE_SECONDS * SECOND_NS), concurrency=1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        made = Traffic(folder)
        ours = stack.enter_context(service(folder, made, "native", budget_ns=0))
        theirs = stack.enter_context(echo(made))
        found = costs(ours, theirs) | tails(ours, theirs)
        with service(folder, made, "aio", budget_ns=0) as aio:
            saturate(aio, 128)
            aio_us = statistics.median(saturate(aio, 128).cpu_us_per_call for _ in range(3))
        with service(folder, made, "native", {"idempotency": {"enabled": False}}, budget_ns=0) as one_body:
            fixed_us = fixed_body(one_body)
        with service(folder, made, "native", policy="eager") as eager:
            rare = [open_loop(eager, LONE_RATE, LONE_SECONDS, seed)[0] for seed in range(3)]
            lone = [run(eager, one_at_a_time).decided.percentile(50) / 1e6 for _ in range(3)]
    if fixed_us is not None:
        found["native_fixed_body_cpu_us_per_decision"] = round(fixed_us, 2)
    return found | {
        "native_times_cheaper_than_aio": round(aio_us / found["native_cpu_us_per_decision"], 2),
        "native_aio_cpu_us_per_decision": round(aio_us, 1),
        "native_lone_p50_ms": round(statistics.median(lone), 3),
        "native_rare_p50_ms": round(statistics.median(rare), 3),
    }


if __name__ == "__main__":
    alone.main(__doc__, figures)
