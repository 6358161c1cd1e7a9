"""Ten faults, each really injected into a server under load, and whether what came late is explained by that fault.

A native server in a child process with its usual budget, open loop. Each fault strikes several times; from the server's
own count, ``fraudgate_over_budget_total{cause}``, comes how many transactions were over the budget meanwhile, and the
share that names the right cause. A fault that delays nothing explains nothing, and is an error.
``python -m benchmarks.faults [--json] [NAME...]``.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import grpc
import pyarrow as pa

from benchmarks import faulty_server, traffic
from benchmarks.swap import MODEL, VERSIONS, publish_versions
from benchmarks.unread import leave_unread
from fraudgate import load
from fraudgate.demo.server import Server, free_ports, to_toml
from fraudgate.limits import SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.v1 import models_pb2, models_pb2_grpc

RATE, BURST_RATE = 3_000.0, 27_000.0
"""Together ten times as much: nearly twice what the engine of known service time can do, and little for a generator."""
BURST_SECONDS = 0.4
CONNECTIONS = 4
FAULT_MS = 120.0
STRIKES = 5
PAUSE_SECONDS, SETTLED_SECONDS = 0.3, 0.5
HOGS_PER_CORE, HOG_SECONDS = 30, 3.0
LATE_MIN, STRIKES_MAX = 200, 100
"""A share of fewer transactions would be decided by one or two strikes."""
UNREAD_CALLS = 100
EVENT_NOW = "2031-01-01T00:00:00+00:00"
_OVER_BUDGET = re.compile(r'^fraudgate_over_budget_total\{cause="(\w+)"\} (\S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """A server that takes faults."""

    server: Server
    ops: int
    socket: str

    def strike(self, name: str, milliseconds: float = FAULT_MS) -> None:
        faulty_server.call(self.socket, name, milliseconds)

    def over_budget(self) -> Counter[str]:
        """By cause, since the start."""
        time.sleep(SETTLED_SECONDS)  # until they are settled, and older than the last text
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return Counter({cause: int(float(count)) for cause, count in _OVER_BUDGET.findall(text)})


@contextmanager
def serving(folder: Path, engine: str = "real", **batching: int) -> Iterator[Place]:
    """The server, with a batch log and two versions of the model. engine: see ``faulty_server``."""
    publish_versions(folder / "models")
    ports, path = free_ports(), str(folder / "faults")
    addresses = {"data": ports.data, "control": ports.control, "ops": ports.ops}
    config = folder / "fraudgate.toml"
    config.write_text(
        to_toml(
            {
                "server": {f"{name}_address": f"127.0.0.1:{port}" for name, port in addresses.items()},
                "model": {"repository": str(folder / "models"), "name": MODEL, "version": VERSIONS[0]},
                "batching": batching,
                "log": {"dir": str(folder / "log")},
                "event_time": {"now": EVENT_NOW},
            }
        ),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "benchmarks.faulty_server", path, engine, "serve", "--config", str(config)]
    with Server("faulty", [*command, "--frontend", "native"], ports, lambda _line: None) as server:
        asyncio.run(server.serving())
        yield Place(server, ports.ops, path)


class Load:
    """Open-loop load in this process, on threads of its own."""

    def __init__(self, place: Place) -> None:
        self._target, self._runs = place.server.target, 0
        self._rows: pa.RecordBatch = load.columns_of(simulate(traffic.SEED, 2_000, 2_000, 10))

    def send(self, rate: float, seconds: float) -> None:
        self._runs += 1
        workload = load.native().Workload(self._rows, f"{self._runs}", event_time_now=False)
        pace = load.Pace(int(seconds * SECOND_NS), rate=rate, seed=self._runs)
        load.Run(load.Destination(self._target, CONNECTIONS), pace, workload, 5 * SECOND_NS).run()

    @contextmanager
    def steadily(self) -> Iterator[None]:
        """At ``RATE`` meanwhile."""
        enough = Event()
        thread = Thread(target=self._send_until, args=(enough,))
        thread.start()
        time.sleep(PAUSE_SECONDS)
        try:
            yield
        finally:
            enough.set()
            thread.join()

    def _send_until(self, enough: Event) -> None:
        while not enough.is_set():
            self.send(RATE, 1.0)


def _steal(place: Place, _load: Load) -> None:
    os.kill(place.server.pid, signal.SIGSTOP)
    time.sleep(FAULT_MS / 1_000)
    os.kill(place.server.pid, signal.SIGCONT)


def _lock(place: Place, _load: Load) -> None:
    place.strike("lock")
    time.sleep(PAUSE_SECONDS)
    place.strike("interpreter")


def _swap(place: Place, _load: Load) -> None:
    place.strike("swap")
    with grpc.insecure_channel(place.server.control) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        listing = models_pb2.ListModelsRequest()
        models = stub.ListModels(listing, timeout=20).models
        other = next(version for version in VERSIONS if version not in [m.version for m in models if m.live])
        request = models_pb2.PromoteModelRequest(
            name=MODEL, version=other, stages_percent=[100], stage_rows_min=1, stage_seconds_min=0
        )
        with suppress(grpc.RpcError):  # a busy machine may have brought it back by itself meanwhile
            stub.PromoteModel(request, timeout=60)
        time.sleep(1)


def _neighbours(_place: Place, _load: Load) -> None:
    """Others on the same cores, each in a session of its own: the scheduler may give each session the same share."""
    count = HOGS_PER_CORE * (os.cpu_count() or 1)
    command = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(_end, subprocess.Popen(command, start_new_session=True))
        time.sleep(HOG_SECONDS)


def _end(hog: subprocess.Popen[bytes]) -> None:
    hog.kill()
    hog.wait()


def _burst(_place: Place, load: Load) -> None:
    load.send(BURST_RATE, BURST_SECONDS)


def _unread(place: Place, _load: Load) -> None:
    asyncio.run(leave_unread(place.server.target, UNREAD_CALLS, FAULT_MS / 1_000))


def _strike(name: str) -> Callable[[Place, Load], None]:
    return lambda place, _load: place.strike(name)


@dataclass(frozen=True, slots=True)
class Fault:
    """How it strikes, and the causes that name it."""

    strike: Callable[[Place, Load], None]
    causes: tuple[str, ...]
    strikes: int = STRIKES
    pause_seconds: float = PAUSE_SECONDS
    """After each strike."""


FAULTS = {
    "store": Fault(_strike("store"), ("store_slow",)),
    "lock": Fault(_lock, ("lock", "interpreter")),
    "steal": Fault(_steal, ("cpu_steal",), strikes=40),
    "swap": Fault(_swap, ("swap", "engine_opening")),
    "fsync": Fault(_strike("fsync_locked"), ("log_write",)),
    "burst": Fault(_burst, ("burst",), strikes=3, pause_seconds=3.0),  # a rate is unusual where another is usual
    "slow_client": Fault(_unread, ("slow_client",)),
    "spin": Fault(_strike("spin"), ("busy_spin",)),
    "gc": Fault(_strike("gc"), ("gc",)),  # the last of its server: its garbage stays
    "neighbour": Fault(_neighbours, ("cpu_wait", "front_wait"), strikes=1),
}
UNBOUND = {"burst": "known", "neighbour": "real"}
"""On a server of their own that refuses nothing, and with which engine: with its budget it would refuse at the door
what could come late, and a burst over what the real engine can do would be a fight for these CPUs besides."""
QUEUE_ROWS_MAX = 16_384


def measure(place: Place, load: Load, fault: Fault, strikes: int, late_min: int = 0) -> Counter[str]:
    """Transactions over the budget by cause while the fault strikes so often, or more often until ``late_min`` are."""
    before, struck = place.over_budget(), 0
    with load.steadily():
        while struck < strikes or (struck < STRIKES_MAX and (place.over_budget() - before).total() < late_min):
            fault.strike(place, load)
            time.sleep(fault.pause_seconds)
            struck += 1
    return place.over_budget() - before


def explained(late: Counter[str], causes: Sequence[str]) -> float:
    """The share that names one of these."""
    return sum(late[cause] for cause in causes) / max(late.total(), 1)


def figures(names: Sequence[str] = tuple(FAULTS)) -> dict[str, float]:
    """The figures of the results file. RuntimeError where a fault made nothing late."""
    found: dict[str, float] = {}
    alone = [name for name in names if name in UNBOUND]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as place:
        load = Load(place)
        load.send(RATE, 2.0)
        if "fsync" in names:
            late = measure(place, load, Fault(_strike("fsync"), ()), STRIKES)
            print(f"  the log's writer waits, nothing else: {dict(late)}", file=sys.stderr)
            found["late_while_log_writer_waits"] = late.total()
        for name in (name for name in FAULTS if name in names and name not in alone):
            if name == "gc":
                place.strike("garbage")
                time.sleep(1)
            found |= _shares(name, place, load)
    for name in alone:
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(Path(folder), UNBOUND[name], budget_ns=0, queue_rows_max=QUEUE_ROWS_MAX) as place,
        ):
            load = Load(place)
            load.send(RATE, 8.0)
            found |= _shares(name, place, load)
    shares = [share for key, share in found.items() if key.startswith("explained_")]
    return {"explained_share_min": min(shares), **found}


def _shares(name: str, place: Place, load: Load) -> dict[str, float]:
    fault = FAULTS[name]
    late = measure(place, load, fault, fault.strikes, LATE_MIN)
    share = explained(late, fault.causes)
    print(f"  {name:12} {late.total():6,} late, {share:7.2%} explained: {dict(late)}", file=sys.stderr)
    if not late:
        raise RuntimeError(f"{name}: nothing came late")
    return {f"late_{name}": late.total(), f"explained_{name}": round(share, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *FAULTS], metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = figures(args.names or tuple(FAULTS))
    print(json.dumps(results) if args.json else "\n".join(f"{key:34} {value:>12,}" for key, value in results.items()))


if __name__ == "__main__":
    main()
