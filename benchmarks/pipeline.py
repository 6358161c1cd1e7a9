"""The pipeline's own cost at full batches: from 32 requests to 32 serialised answers.

The store holds 40 days of history, so every window is full. All is in it: RecordBatch, validation, idempotency, exact
windows, packing, INT8 inference, rules, recording and rendering. CPU time of this thread, median over rounds. With the
wheel fraudgate-ingress its codec and kernels are used, and decoding the requests is in the time, too; the reference in
Python alone is reported beside it, from decoded requests.
``python -m benchmarks.pipeline [--json] [--log] [--reference] [--profile]``.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import statistics
import tempfile
from functools import partial
from time import monotonic_ns, thread_time_ns

import msgspec

from benchmarks import traffic
from fraudgate import config, sections, wheel
from fraudgate.assembly import Parts, assemble
from fraudgate.frontend.codec import Renderer, request_batch, request_columns
from fraudgate.frontend.native_columns import NativeColumns, record_batch
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.pipeline import Pipeline
from fraudgate.v1 import scoring_pb2

ROUNDS, BATCHES = 9, 400
NO_DEADLINES = [0] * BATCH_ROWS_MAX


def settings(log_dir: str = "") -> config.Config:
    """The defaults, and a batch log where asked for. No budget: a pause of the machine refuses nothing."""
    return msgspec.structs.replace(
        config.load(None), log=sections.Log(dir=log_dir), batching=sections.Batching(budget_ns=0)
    )


class Reference:
    """Codec and features in Python."""

    def __init__(self, parts: Parts) -> None:
        self._renderer = Renderer(parts.editions)

    async def score(self, pipeline: Pipeline, bodies: list[bytes]) -> int:
        """Decide one batch; CPU nanoseconds, without decoding the requests."""
        decoded = [scoring_pb2.ScoreRequest.FromString(body).transaction for body in bodies]
        started_ns = thread_time_ns()
        columns = request_columns(decoded, [monotonic_ns()] * BATCH_ROWS_MAX, NO_DEADLINES)
        answers = await pipeline.score(request_batch(columns), columns=columns)
        self._renderer.render(answers, [transaction.transaction_id for transaction in decoded])
        return thread_time_ns() - started_ns


class Native:
    """Codec and kernels of the native front end, on this thread."""

    def __init__(self, parts: Parts) -> None:
        self._crate = wheel.module()
        self._renderer = self._crate.Renderer(Renderer(parts.editions).tail)

    async def score(self, pipeline: Pipeline, bodies: list[bytes]) -> int:
        """Decide one batch; CPU nanoseconds, decoding included."""
        started_ns = thread_time_ns()
        decoded = list(map(self._crate.decode_request, bodies))
        made = self._crate.Columns(decoded, [monotonic_ns()] * BATCH_ROWS_MAX, NO_DEADLINES)
        columns = NativeColumns(made)
        answers = await pipeline.score(partial(record_batch, made), columns=columns)
        self._renderer.render(answers.tobytes(), columns.transaction_id)
        return thread_time_ns() - started_ns


async def _run(parts: Parts, way: Reference | Native, batches: list[list[bytes]]) -> int:
    """Score these batches; CPU nanoseconds."""
    return sum([await way.score(parts.pipeline, bodies) for bodies in batches])


def measure(log_dir: str = "", profile: bool = False, reference: bool = False) -> dict[str, float]:
    """CPU microseconds per decision: median, least and most of the rounds."""
    history, following = traffic.history_and((ROUNDS + 2) * BATCHES * BATCH_ROWS_MAX)
    made = traffic.requests(following)
    chunks = [made[i : i + BATCH_ROWS_MAX] for i in range(0, len(made), BATCH_ROWS_MAX)]
    parts = assemble(settings(log_dir), lambda _line: None)
    parts.store.bulk_load(history.to_batches(65_536))
    way = Native(parts) if wheel.INSTALLED and not reference else Reference(parts)
    asyncio.run(_run(parts, way, chunks[:BATCHES]))
    gc.collect()  # as the service does when it starts
    gc.freeze()
    gc.disable()
    costs = []
    for i in range(1, ROUNDS + 1):
        costs.append(asyncio.run(_run(parts, way, chunks[i * BATCHES : (i + 1) * BATCHES])))
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(asyncio.run, _run(parts, way, chunks[-BATCHES:]))
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    if parts.log is not None:
        parts.log.close()
    per_decision = [cost / (BATCHES * BATCH_ROWS_MAX) / 1_000 for cost in costs]
    return {"median": statistics.median(per_decision), "min": min(per_decision), "max": max(per_decision)}


def figures() -> dict[str, float]:
    """The figures of the results file: without and with the batch log."""
    plain = measure()
    reference = measure(reference=True)
    with tempfile.TemporaryDirectory() as folder:
        logged = measure(folder)
    return {
        "pipeline_cpu_us_per_decision": round(plain["median"], 2),
        "pipeline_cpu_us_per_decision_min": round(plain["min"], 2),
        "pipeline_reference_cpu_us_per_decision": round(reference["median"], 2),
        "pipeline_logged_cpu_us_per_decision": round(logged["median"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--log", action="store_true", help="with the batch log on")
    parser.add_argument("--reference", action="store_true", help="in Python alone, whatever is installed")
    parser.add_argument("--profile", action="store_true", help="print a profile of one more round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(folder if args.log else "", args.profile, args.reference)
    if args.json:
        print(json.dumps({"pipeline_cpu_us_per_decision": round(costs["median"], 2)}))
    else:
        print(f"pipeline: {costs['median']:.2f} us CPU per decision ({costs['min']:.2f} to {costs['max']:.2f})")


if __name__ == "__main__":
    main()
