"""The grpc.aio front end over a real connection, beside an echo that does nothing: CPU of the server's whole process.

Both servers stand at once and are loaded in turn, pair by pair, closed loop; the medians and the median of the pairs'
ratios are reported. ``python -m benchmarks.aio [--json]``.
"""

import argparse
import asyncio
import gc
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import grpc
import uvloop

from benchmarks import traffic
from fraudgate.demo.replay import SCORE, Call, raw_call
from fraudgate.demo.server import Ports, Server, free_ports, serve_command, to_toml
from fraudgate.scheduling import prefer_batches

PAIRS = 5
IN_FLIGHT = 128
CALLS_PER_ROUND = 8_000
STARTS = 5


@dataclass(slots=True)
class Round:
    """One server under load."""

    cpu_us_per_call: float
    calls_per_second: float


def service_command(folder: Path, ports: Ports, **sections: Mapping[str, str | int | float | bool]) -> list[str]:
    """The command line of a service on these ports, with its configuration in ``folder``."""
    addresses = {"data": ports.data, "control": ports.control, "ops": ports.ops}
    server = {f"{name}_address": f"127.0.0.1:{port}" for name, port in addresses.items()}
    path = folder / f"{ports.data}.toml"
    # A pause of a shared machine is no refusal: without a budget each call does the whole work.
    path.write_text(to_toml({"server": server, "batching": {"budget_ns": 0}, **sections}), encoding="utf-8")
    return serve_command(path, "aio")


def echo_command(ports: Ports) -> list[str]:
    return [sys.executable, "-m", "benchmarks.echo_server", str(ports.data)]


async def load(score: Call, requests: Iterator[bytes], calls: int) -> float:
    """Send ``calls`` requests, ``IN_FLIGHT`` at a time; the seconds it took. Every call must be answered OK."""
    mine = itertools.islice(requests, calls)

    async def worker() -> None:
        for request in mine:
            await score(request)

    started = monotonic()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return monotonic() - started


async def measure_round(server: Server, score: Call, requests: Iterator[bytes]) -> Round:
    cpu = server.cpu_seconds() or 0.0
    seconds = await load(score, requests, CALLS_PER_ROUND)
    used = (server.cpu_seconds() or 0.0) - cpu
    return Round(used * 1e6 / CALLS_PER_ROUND, CALLS_PER_ROUND / seconds)


@asynccontextmanager
async def running(name: str, command: list[str], ports: Ports) -> AsyncIterator[tuple[Server, Call]]:
    """A server that serves, and a way to call it."""
    with Server(name, command, ports, lambda _line: None) as server:
        await server.serving()
        async with grpc.aio.insecure_channel(server.target) as channel:
            yield server, raw_call(channel, SCORE)


async def measure_pairs(folder: Path) -> list[tuple[Round, Round]]:
    """(service, echo) rounds, in turn."""
    made = traffic.requests(traffic.transactions((PAIRS + 1) * CALLS_PER_ROUND))
    ours, theirs = iter(made), itertools.cycle(made[:CALLS_PER_ROUND])
    gc.freeze()
    gc.disable()
    async with AsyncExitStack() as stack:
        ports = free_ports()
        service = await stack.enter_async_context(running("service", service_command(folder, ports), ports))
        ports = free_ports()
        echo = await stack.enter_async_context(running("echo", echo_command(ports), ports))
        await load(service[1], ours, CALLS_PER_ROUND)
        await load(echo[1], theirs, CALLS_PER_ROUND)
        return [(await measure_round(*service, ours), await measure_round(*echo, theirs)) for _ in range(PAIRS)]


async def measure_startup(folder: Path) -> float:
    """Seconds from process start to SERVING, model warm, empty store: the median of ``STARTS``."""
    times = []
    for _ in range(STARTS):
        ports = free_ports()
        command = service_command(folder, ports)
        with Server("service", command, ports, lambda _line: None) as server:
            times.append(await server.serving())
    return statistics.median(times)


def figures() -> dict[str, float]:
    """The figures of the results file."""
    prefer_batches()
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pairs = runner.run(measure_pairs(Path(name)))
        startup = runner.run(measure_startup(Path(name)))
    median = statistics.median
    return {
        "aio_cpu_us_per_decision": round(median(ours.cpu_us_per_call for ours, _ in pairs), 1),
        "aio_echo_cpu_us_per_call": round(median(echo.cpu_us_per_call for _, echo in pairs), 1),
        "aio_ratio_to_echo": round(median(ours.cpu_us_per_call / echo.cpu_us_per_call for ours, echo in pairs), 3),
        "aio_decisions_per_second": round(median(ours.calls_per_second for ours, _ in pairs)),
        "aio_echo_calls_per_second": round(median(echo.calls_per_second for _, echo in pairs)),
        "startup_seconds": round(startup, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = figures()
    print(json.dumps(results) if args.json else "\n".join(f"{key:28} {value:>10,}" for key, value in results.items()))


if __name__ == "__main__":
    main()
