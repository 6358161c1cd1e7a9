"""Overload: more calls than there is an engine for, open loop, Poisson and in bursts of ten times the rate.

First an engine of known service time, 2 ms a batch and so 16,000 rows a second, at twice that: what is answered, how
late, and what is refused, how fast. Then the engine as it is: what a refusal costs beside an echo, and what is left of
the peak past saturation. Every call carries a deadline of the budget. ``python -m benchmarks.overload [--json]``.

Generator and server share the machine's cores, and the generator comes first: see its own lag beside the latencies. On
a machine with more cores give each its own: ``--server-cpus 0,1 --load-cpus 2-7``. ``--only real``: a part of three.
"""

import json
import math
import os
import re
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from pathlib import Path

from benchmarks import alone, native
from benchmarks.native import Place, Traffic
from fraudgate import config, load
from fraudgate.latency.histogram import Distribution
from fraudgate.limits import BATCH_ROWS_MAX, BUDGET_NS, SECOND_NS
from fraudgate.scheduling import prefer_batches

CAPACITY = BATCH_ROWS_MAX * 500.0
"""Rows a second of ``overload_server``'s engine."""
SECONDS, ROUNDS, CONNECTIONS = 5.0, 3, 8
REFUSALS_PER_SECOND_MAX = config.Config().admission.refusals_per_second_max
"""Of one connection; past it the server does not read it for a while, which is counted."""
PAUSES = "connections_paused"

UNREAD = {"never sent: no connection took it", "no answer by the end"}
"""What callers without deadlines of their own see of a connection that is not read."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """One run at more than there is room for."""

    goodput: float  # decisions within the budget, a second
    p99_ms: float  # of decisions
    refused_p99_ms: float  # of refusals and of what expired, as callers see it
    refused_share: float
    expired_share: float  # admitted, and not decided by its deadline; within refused_share
    lag_p99_ms: float  # of the generator
    cpu_us_per_call: float  # of the server
    unanswered: int  # on connections that were left unread


def press(place: Place, rate: float, arrivals: str, seed: int, seconds: float = SECONDS) -> Overloaded:
    """One run, open loop; calls may be refused, but none may be lost. As many connections as are never paused."""
    connections = max(CONNECTIONS, math.ceil(rate / REFUSALS_PER_SECOND_MAX))
    return _run(place, load.Pace(int(seconds * SECOND_NS), rate=rate, arrivals=arrivals, seed=seed), connections)


def _run(place: Place, pace: load.Pace, connections: int = CONNECTIONS, unread: bool = False) -> Overloaded:
    """``unread``: the connections may be left unread, and the generator gives no call up by itself."""
    parts = _parts(pace, connections)
    before_ns = native.cpu_ns(place)
    with ThreadPoolExecutor(len(parts)) as threads:
        reports = list(threads.map(lambda part: _report(place, *part), parts))
    used_ns = native.cpu_ns(place) - before_ns
    for report in reports:
        place.feed.advance(report.sent)
        others = set(report.statuses) - {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        lost = {why for why in report.lost if not (unread and why in UNREAD)}
        if lost or others:
            raise RuntimeError(f"{place.server.name}: lost {report.lost}, statuses {report.statuses}")
    decided, refused, lag = (_added(reports, name) for name in ("decided", "refused", "lag"))
    answered = max(sum(report.answered for report in reports), 1)
    return Overloaded(
        goodput=decided.at_most(BUDGET_NS) * SECOND_NS / max(report.sending_ns for report in reports),
        p99_ms=decided.percentile(99) / 1e6,
        refused_p99_ms=refused.percentile(99) / 1e6,
        refused_share=refused.count / answered,
        expired_share=sum(report.statuses.get("DEADLINE_EXCEEDED", 0) for report in reports) / answered,
        lag_p99_ms=lag.percentile(99) / 1e6,
        cpu_us_per_call=used_ns / 1_000 / answered,
        unanswered=sum(report.lost_calls for report in reports),
    )


def _parts(pace: load.Pace, connections: int) -> list[tuple[load.Pace, int]]:
    """A generator is one thread: where it has many CPUs, as many share the work as have four each."""
    count = min(max(len(os.sched_getaffinity(0)) // 4, 1), connections)
    part = replace(
        pace,
        rate=pace.rate and pace.rate / count,
        concurrency=pace.concurrency and math.ceil(pace.concurrency / count),
    )
    return [(replace(part, seed=pace.seed + 1_000 * i), math.ceil(connections / count)) for i in range(count)]


def _report(place: Place, pace: load.Pace, connections: int) -> load.LoadReport:
    destination = load.Destination(place.server.target, connections, timeout_ns=BUDGET_NS)
    return load.Run(destination, pace, place.feed.workload(), native.GRACE_NS).run()


def _added(reports: Sequence[load.LoadReport], name: str) -> Distribution:
    values: Distribution = reduce(add, (getattr(report, name) for report in reports))
    return values


def _ask(place: Place, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{place.ops}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def counted(place: Place, name: str) -> int:
    """A total of the server's, since its start."""
    found = re.search(rf"^fraudgate_{name}_total (\S+)", _ask(place, "/metrics"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the server does not count {name}")
    return int(float(found[1]))


def refused_p99_ms(place: Place) -> float:
    """From the server's own stamps: of a call that was refused, from when its bytes were read to the refusal's written.

    What it waited unread in the kernel is in the callers' view alone, ``refused_p99_ms``.
    """
    stages = {stage["stage"]: stage for stage in json.loads(_ask(place, "/latency"))["stages"]}
    return float(stages["refuse"]["p99_ns"]) / 1e6


def _saturate(place: Place, seconds: float = 2.0) -> Overloaded:
    """Closed loop: as many calls as it takes."""
    return _run(place, load.Pace(int(seconds * SECOND_NS), concurrency=native.IN_FLIGHT))


def refusal(refusing: Place, echo: Place) -> dict[str, float]:
    """What a refusal costs, beside an echo: medians of pairs."""
    for place in (refusing, echo):
        _saturate(place, 0.5)  # warm; and the queue of the one is full from here on
    pairs = [(_saturate(refusing).cpu_us_per_call, _saturate(echo).cpu_us_per_call) for _ in range(native.PAIRS)]
    return {
        "refusal_cpu_us": round(statistics.median(mine for mine, _ in pairs), 2),
        "refusal_echo_cpu_us": round(statistics.median(other for _, other in pairs), 2),
        "refusal_ratio_to_echo": round(statistics.median(mine / other for mine, other in pairs), 3),
    }


def _medians(rounds: Sequence[Overloaded], prefix: str) -> dict[str, float]:
    names = [each.name for each in fields(Overloaded)]
    medians = {name: statistics.median(getattr(each, name) for each in rounds) for name in names}
    return {f"{prefix}_{name}": round(value, 4) for name, value in medians.items()}


def known(place: Place) -> dict[str, float]:
    """Twice the capacity of the engine of known service time."""
    press(place, 2 * CAPACITY, "poisson", 0, 1.0)  # warm
    found: dict[str, float] = {}
    for arrivals, prefix in (("poisson", "overload"), ("burst", "overload_burst")):
        found |= _medians([press(place, 2 * CAPACITY, arrivals, seed) for seed in range(1, ROUNDS + 1)], prefix)
    return found | {
        "overload_refuse_p99_ms": refused_p99_ms(place),
        "expired_reached_engine": counted(place, "expired_reached_engine"),
    }


def real(place: Place) -> dict[str, float]:
    """The engine as it is: the peak, and what is left of it past saturation."""
    _saturate(place)  # warm
    peak = statistics.median(_saturate(place).goodput for _ in range(ROUNDS))
    before = counted(place, PAUSES)
    found: dict[str, float] = {"overload_real_peak": round(peak)}
    for times, prefix in ((1.2, "overload_real_1_2x"), (2.0, "overload_real_2x")):
        found |= _medians([press(place, times * peak, "poisson", seed) for seed in range(1, ROUNDS + 1)], prefix)
        found[f"{prefix}_share_of_peak"] = round(found[f"{prefix}_goodput"] / peak, 3)
    return found | {"overload_real_pauses": counted(place, PAUSES) - before} | offending(place, 2 * peak)


def offending(place: Place, rate: float) -> dict[str, float]:
    """Too much on two connections: how often those are not read for a while, and what others notice of it."""
    before, pace = counted(place, PAUSES), load.Pace(int(SECONDS * SECOND_NS), rate=rate)
    others = load.Pace(int(SECONDS * SECOND_NS), rate=rate / 20, seed=2)
    with ThreadPoolExecutor(1) as thread:
        offender = thread.submit(_run, place, pace, 2, unread=True)
        beside = _run(place, others)
        found = offender.result()
    return {
        "overload_offending_pauses": counted(place, PAUSES) - before,
        "overload_offending_unanswered": found.unanswered,
        "overload_offending_refused_per_second": round(found.refused_share * rate),
        "overload_beside_goodput_share": round(beside.goodput / (rate / 20), 3),
        "overload_beside_p99_ms": round(beside.p99_ms, 3),
    }


@dataclass(frozen=True, slots=True)
class Cpus:
    """Who runs where; empty: wherever the kernel likes."""

    server: Set[int] = frozenset()
    load: Set[int] = frozenset()

    @contextmanager
    def serving(self, *servers: AbstractContextManager[Place]) -> Iterator[list[Place]]:
        """Servers on CPUs of their own, and the generator of the load on its own."""
        with ExitStack() as stack:
            with alone.pinned(self.server):
                places = [stack.enter_context(server) for server in servers]
            with alone.pinned(self.load):
                yield places


PARTS = ("known", "refusal", "real")


def figures(only: Sequence[str] = PARTS, cpus: Cpus = Cpus()) -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("overload"):
        return {}
    prefer_batches()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = Traffic(folder)
        if "known" in only:
            with cpus.serving(native.service(folder, made, "native", module="benchmarks.overload_server")) as (slow,):
                found |= known(slow)
        if "refusal" in only:
            with cpus.serving(native.echo(made, "refuse"), native.echo(made)) as (refusing, echo):
                found |= refusal(refusing, echo)
        if "real" in only:
            with cpus.serving(native.service(folder, made, "native")) as (service,):
                found |= real(service)
    return found


def main() -> None:
    parser = alone.parser(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated (default: all)")
    for who in ("server", "load"):
        parser.add_argument(
            f"--{who}-cpus", type=alone.cpus, default=frozenset(), metavar="0,2-5", help="where it runs"
        )
    args = parser.parse_args()
    alone.show(figures(args.only or PARTS, Cpus(args.server_cpus, args.load_cpus)), args.json)


if __name__ == "__main__":
    main()
