"""Engines that change under load, and what callers notice of it.

A native server at half of what it can do, one second of load after the other. In every other second it changes twice
between two published versions, each time opened anew, warmed up, compared and let into every decision: of ten seconds
each, the p99 of the worst with changes beside that of the worst without. Then rollbacks under the same load: from the
command to the last decision of the version that had to go, as a caller sees it.

The queue holds what comes within the budget at that rate, with and without changes alike: the default of 1,024 rows is
20 ms of 52,000/s, and a machine that stands still for longer fills it, whoever changes what. What waits in it can still
be decided within the budget, else the server would warn. Every call that is not decided is an error.
``python -m benchmarks.swap [--json]``.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import msgspec

from benchmarks import alone, traffic
from benchmarks.native import EVENT_NOW, GRACE_NS, Place, Traffic, interval, saturate, service
from fraudgate import load
from fraudgate.engines.repository import publish, read_files, read_manifest, resolve
from fraudgate.limits import BUDGET_NS, QUEUE_ROWS_MAX, SECOND_NS
from fraudgate.scheduling import prefer_batches
from fraudgate.v1 import models_pb2, models_pb2_grpc, scoring_pb2, scoring_pb2_grpc

MODEL, VERSIONS = "handbook", ("one", "other")
PUBLISHED = Path(__file__).parents[1] / "models" / "repository" / MODEL
PAIRS, WINDOWS, CHANGES = 5, 10, 2
"""100 changes in all."""
CHANGE_SECONDS = 0.3
ROLLBACKS = 5
CALL_SECONDS_MAX = 60.0


def publish_versions(root: Path) -> None:
    """The published model under two names: what a change costs does not depend on what the scores are."""
    directory = resolve(PUBLISHED.parent, MODEL)
    manifest = read_manifest(directory)
    files = read_files(directory, manifest)
    for version in VERSIONS:
        publish(root, msgspec.structs.replace(manifest, version=version), files)


class Operator:
    """Changes what a server decides with, back and forth."""

    def __init__(self, place: Place, channel: grpc.Channel) -> None:
        self._models = models_pb2_grpc.ModelServiceStub(channel)
        self._place = place
        self.live = 0
        self.failures = 0

    def change(self) -> None:
        """Let the other version decide, with the next batch that both have scored."""
        self.live = 1 - self.live
        request = models_pb2.PromoteModelRequest(
            name=MODEL, version=VERSIONS[self.live], stages_percent=[100], stage_rows_min=1, stage_seconds_min=0
        )
        self._models.PromoteModel(request, timeout=CALL_SECONDS_MAX)

    def rollback(self) -> None:
        self.live = 1 - self.live
        self._models.RollbackModel(models_pb2.RollbackModelRequest(), timeout=CALL_SECONDS_MAX)

    def confirm(self) -> None:
        """Count a failure unless the version asked for last is live."""
        self.failures += not self.is_done()

    def is_done(self) -> bool:
        """Whether the version asked for last is live."""
        models = self._models.ListModels(models_pb2.ListModelsRequest(), timeout=CALL_SECONDS_MAX).models
        return [model.version for model in models if model.live] == [VERSIONS[self.live]]

    def wait(self) -> None:
        """Until the version asked for last is live, which takes a row that both have scored."""
        end = time.monotonic() + CALL_SECONDS_MAX
        while time.monotonic() < end:
            if self.is_done():
                return
            time.sleep(0.02)
        raise RuntimeError(f"{VERSIONS[self.live]} is not live after {CALL_SECONDS_MAX:g} s")

    def change_within_a_second(self) -> None:
        for _ in range(CHANGES):
            time.sleep(CHANGE_SECONDS)
            self.change()


@dataclass(slots=True)
class Side:
    """The windows of one side of a pair."""

    tails_ms: list[float] = field(default_factory=list)
    """The p99 of each."""
    errors: int = 0
    """Calls that did not end with a decision."""

    def take(self, report: load.LoadReport) -> None:
        self.tails_ms.append(round(report.decided.percentile(99) / 1e6, 2))
        self.errors += report.sent - report.statuses.get("OK", 0)


def window(place: Place, rate: float, seed: int) -> load.LoadReport:
    """One second of load; unlike a benchmark of speed it reports errors, and does not end with them."""
    pace = load.Pace(SECOND_NS, rate=rate, seed=seed)
    report = load.Run(load.Destination(place.server.target), pace, place.feed.workload(), GRACE_NS).run()
    place.feed.advance(report.sent)
    return report


def pair(place: Place, rate: float, operator: Operator, seed: int) -> tuple[Side, Side]:
    """WINDOWS windows with changes and as many without, in turns: what else the machine does falls on both alike."""
    changing, without = Side(), Side()
    with ThreadPoolExecutor(1) as thread:
        for number in range(WINDOWS):
            without.take(window(place, rate, seed * WINDOWS + number))
            changes = thread.submit(operator.change_within_a_second)
            changing.take(window(place, rate, seed * WINDOWS + number))
            changes.result()
            operator.confirm()
    for name, side in (("with", changing), ("without", without)):
        print(f"  {name:7} changes: {side.errors} errors, p99 {side.tails_ms} ms", file=sys.stderr)
    return changing, without


def rollback_ms(place: Place, rate: float, operator: Operator, channel: grpc.Channel, number: int) -> float:
    """From the command to the last decision of the version that had to go, milliseconds."""
    operator.change()
    went = VERSIONS[operator.live]
    asker, done = scoring_pb2_grpc.ScoringServiceStub(channel), Event()
    answers: list[tuple[float, str]] = []

    def ask() -> None:
        for call, transaction in enumerate(traffic.transactions(4_000)):
            if done.is_set():
                break
            transaction.transaction_id = f"ask-{number}-{call}"
            with suppress(grpc.RpcError):  # a refusal under load says nothing of who decides
                answer = asker.Score(scoring_pb2.ScoreRequest(transaction=transaction), timeout=CALL_SECONDS_MAX)
                answers.append((time.monotonic(), answer.model.version))

    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(ask)
        operator.wait()
        loading = threads.submit(window, place, rate, number)
        time.sleep(0.5)
        started = time.monotonic()
        operator.rollback()
        loading.result()
        done.set()
        asking.result()
    of_went = [at for at, version in answers if version == went]
    if not of_went or answers[-1][1] == went:
        raise RuntimeError(f"{went} did not decide before its rollback, or still does a window after it")
    return max(0.0, of_went[-1] - started) * 1e3


def typical_ms(pairs: Sequence[tuple[Side, Side]]) -> float:
    """The p99 of the median window with changes, less that of the median window without."""
    changing = [tail_ms for side, _ in pairs for tail_ms in side.tails_ms]
    return statistics.median(changing) - statistics.median([tail for _, side in pairs for tail in side.tails_ms])


def queue_rows(rate: float) -> int:
    """What comes within the budget, rounded up to a power of two: at twice the rate, decided within the budget."""
    return max(QUEUE_ROWS_MAX, 1 << math.ceil(math.log2(rate * BUDGET_NS / SECOND_NS)))


def half_of_saturation(place: Place) -> float:
    """Calls a second."""
    saturate(place)  # warm
    return saturate(place).calls_per_second / 2


def measure(place: Place, operator: Operator, data: grpc.Channel) -> dict[str, float]:
    rate = half_of_saturation(place)
    for _ in VERSIONS:  # each is checked once: the checks are children of seconds, and no part of a change
        operator.change()
        window(place, rate, 0)
        operator.confirm()
    pairs = [pair(place, rate, operator, seed) for seed in range(1, PAIRS + 1)]
    worst = [(max(changing.tails_ms), max(without.tails_ms)) for changing, without in pairs]
    low, high = interval(worst)
    rollbacks = [rollback_ms(place, rate, operator, data, number) for number in range(ROLLBACKS)]
    return {
        "swap_p99_delta_ms": round(statistics.median(one - other for one, other in worst), 2),
        "swap_p99_delta_ms_low": round(low, 2),
        "swap_p99_delta_ms_high": round(high, 2),
        "swap_worst_p99_ms": round(statistics.median(one for one, _ in worst), 2),
        "swap_typical_p99_delta_ms": round(typical_ms(pairs), 2),
        "swap_rate": round(rate),
        "swap_changes": PAIRS * WINDOWS * CHANGES,
        "swap_errors": sum(changing.errors for changing, _ in pairs) + operator.failures,
        "rollback_ms": round(max(rollbacks), 2),
    }


def figures() -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed."""
    if not alone.has_wheel("swap"):
        return {}
    prefer_batches()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish_versions(folder / "models")
        sections: dict[str, dict[str, Any]] = {
            "model": {"repository": str(folder / "models"), "name": MODEL, "version": VERSIONS[0]},
            "event_time": {"now": EVENT_NOW},
        }
        made = Traffic(folder)
        with service(folder, made, "native", sections, budget_ns=0) as place:
            rows = queue_rows(half_of_saturation(place))
        print(f"  a queue of {rows:,} rows in both arms", file=sys.stderr)
        with (
            service(folder, made, "native", sections, budget_ns=0, queue_rows_max=rows) as place,
            grpc.insecure_channel(place.server.control) as control,
            grpc.insecure_channel(place.server.target) as data,
        ):
            return measure(place, Operator(place, control), data) | {"swap_queue_rows": rows}


if __name__ == "__main__":
    alone.main(__doc__, figures)
