"""The native front end against the reference: two whole services, the same calls over real sockets, the same ends.

A failure names its seeds; FRAUDGATE_AGREE_SEEDS="7 23" runs those sequences alone. Batches are composed by time, so the
two sides have different ones; scores must not differ, and are compared bit by bit.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from fraudgate import state
from fraudgate.features import snapshot
from fraudgate.features.schema import FeatureSchema
from fraudgate.frontend.aio import SERVICE
from fraudgate.limits import MILLISECOND_NS
from fraudgate.transaction import ANSWER_DTYPE
from fraudgate.v1 import features_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import End, Running, end_of_error, publish_small_model, serve
from tests.native.sequences import (
    FUTURE_SECONDS_MAX,
    Author,
    GetFeatures,
    Operation,
    PutFeatures,
    ReportOutcome,
    Score,
    ScoreBatch,
    ScoreStream,
    Twins,
)

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built")

AT_ONCE = 24
"""Sequences that run beside each other: their rows share batches."""
FRONTENDS = ("aio", "native")
SEEDS = [int(seed) for seed in os.environ.get("FRAUDGATE_AGREE_SEEDS", "").split()]
SCHEMA = """\
name = "agreed"
currency = "EUR"

[[feature]]
name = "AMOUNT"
kind = "amount"

[[feature]]
name = "NIGHT"
kind = "hours"
from = 22
to = 6

[[feature]]
name = "RISK"
kind = "attribute"
attribute = "risk"
default = 0.5

[[feature]]
name = "AGE"
kind = "profile"
entity = "customer_id"
default = 35.0

[[feature]]
name = "LIMIT"
kind = "profile"
entity = "customer_id"
default = 1000.0

[[feature]]
name = "CUSTOMER_COUNT"
kind = "window"
entity = "customer_id"
aggregate = "count"
width = "1d"

[[feature]]
name = "CUSTOMER_MEAN"
kind = "window"
entity = "customer_id"
aggregate = "mean"
width = "7d"

[[feature]]
name = "TERMINAL_SUM"
kind = "window"
entity = "terminal_id"
aggregate = "sum"
width = "3h"

[[feature]]
name = "TERMINAL_FRAUD"
kind = "window"
entity = "terminal_id"
aggregate = "fraud_share"
width = "7d"
label_delay = "1d"
"""
RULES = """\
- {id: limit, action: block, when: 'amount_minor > 90000 && currency == "EUR"', code: LIMIT, text: Over the limit.}
- {id: risk, action: review, when: "has(attributes.risk) && attributes.risk >= 0.25", code: RISK, text: Said so.}
- {id: lacking, action: allow, when: 'currency == "USD" && attributes.lacking > 0.0', code: LACKING, text: Fails.}
- {id: trusted, action: allow, when: "has(attributes.strong_authentication)", code: TRUSTED, text: Vouched for.}
- {id: fraud, action: review, when: "features.TERMINAL_FRAUD > 0.5", code: FRAUD, text: Many frauds here.}
"""


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("agreed")
    schema, rules = directory / "agreed.toml", directory / "rules.yaml"
    schema.write_text(SCHEMA, "utf-8")
    rules.write_text(RULES, "utf-8")
    publish_small_model(directory / "models", FeatureSchema.load(schema))
    return {
        "features": {"schema": str(schema)},
        "model": {"repository": str(directory / "models")},
        "rules": {"file": str(rules)},
        "event_time": {"future_max_seconds": FUTURE_SECONDS_MAX},
        "batching": {"budget_ns": 0, "gate_ns": MILLISECOND_NS, "queue_rows_max": 1 << 15},
    }


class Side:
    """One of the two services, and every answer that it gave."""

    def __init__(self, server: Running, threads: ThreadPoolExecutor) -> None:
        self.server = server
        self._threads = threads
        self._answers: dict[str, bytes] = {}
        # The synchronous client: grpc.aio's own loses the status of a call that ends while it is still being written.
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.data_port}")
        self._score_stream: Any = self._channel.stream_stream(f"/{SERVICE}/ScoreStream")

    def close(self) -> None:
        self._channel.close()

    async def do(self, operation: Operation) -> object:
        """What the operation ended with, in a form that both sides must share."""
        match operation:
            case Score(body, gzip):
                return self._seen(await self.server.score(body, compression=_compression(gzip)))
            case Twins(body):
                ends = await asyncio.gather(self.server.score(body), self.server.score(body))
                return sorted(map(repr, map(self._seen, ends)))
            case ScoreBatch(body, _, gzip):
                end = await self.server.score_batch(body, compression=_compression(gzip))
                results = pb.ScoreBatchResponse.FromString(end.body).results
                return _status(end), [self._seen_row(result) for result in results]
            case ScoreStream(bodies):
                loop = asyncio.get_running_loop()
                status, streamed = await loop.run_in_executor(self._threads, self._stream, bodies)
                return status, [self._seen_row(result) for result in streamed]
            case ReportOutcome(request):
                return await _control(self.server.outcomes.ReportOutcome(request))
            case PutFeatures(request):
                return await _control(self.server.features.PutFeatures(iter([request])))
            case GetFeatures(request):
                return await _control(self.server.features.GetFeatures(request))

    def _stream(self, bodies: Sequence[bytes]) -> tuple[object, list[pb.ScoreResult]]:
        results: list[pb.ScoreResult] = []
        call = self._score_stream(iter(bodies), timeout=60)
        try:
            results.extend(map(pb.ScoreResult.FromString, call))
        except grpc.RpcError:
            return _status(end_of_error(call)), results
        return _status(End(call.code())), results

    def _seen(self, end: End) -> object:
        answer = self._stable(pb.ScoreResponse.FromString(end.body)) if end.body else None
        return *_status(end), end.replayed, answer

    def _seen_row(self, result: pb.ScoreResult) -> object:
        if result.HasField("response"):
            return result.transaction_id, self._stable(result.response)
        return result.transaction_id, result.error.SerializeToString(deterministic=True)

    def _stable(self, response: pb.ScoreResponse) -> bytes:
        """An answer without what time and chance decide. A second answer to an id must be the first one, all of it."""
        whole = response.SerializeToString()
        assert self._answers.setdefault(response.transaction_id, whole) == whole, response.transaction_id
        timings = response.timings
        parts = (timings.queue_ns, timings.features_ns, timings.inference_ns, timings.guardrails_ns)
        assert min(parts) >= 0, timings
        assert sum(parts) == timings.total_ns, timings
        assert 1 <= timings.batch_rows <= 32, timings
        assert response.decision_id
        response.ClearField("timings")
        response.ClearField("decision_id")
        return response.SerializeToString()


def _compression(gzip: bool) -> grpc.Compression:
    return grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression


def _status(end: End) -> tuple[object, ...]:
    return end.code, end.message, tuple(map(repr, end.details))


async def _control(call: Awaitable[Any]) -> object:
    try:
        return repr(await call)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()


class Differ:
    """Runs sequences against both sides and keeps where they did not agree."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._places = asyncio.Semaphore(AT_ONCE)
        self.differences: list[str] = []

    async def run(self, authors: Iterable[tuple[int, Author]]) -> None:
        await asyncio.gather(*(self._run_one(seed, author) for seed, author in authors))

    async def _run_one(self, seed: int, author: Author) -> None:
        async with self._places:
            operations = author.sequence()
            operations += [
                GetFeatures(features_pb2.GetFeaturesRequest(entity=entity, id=who)) for entity, who in author.entities()
            ]
            for number, operation in enumerate(operations):
                seen = await asyncio.gather(*(side.do(operation) for side in self._sides))
                if seen[0] != seen[1]:
                    self.differences.append(f"seed {seed}, operation {number}: {_told(operation, seen)}")
                    return  # what follows differs because of this


def _told(operation: Operation, seen: Sequence[object]) -> str:
    ends = "\n".join(f"  {name}: {end!r:.1000}" for name, end in zip(FRONTENDS, _differing(*seen), strict=True))
    return f"{operation!r:.1000}\n{ends}"


def _differing(one: object, other: object) -> tuple[object, object]:
    """The first parts that differ, as deep as both are sequences of one length."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return next((_differing(*pair) for pair in zip(one, other, strict=True) if pair[0] != pair[1]), (one, other))
    return one, other


# -- what is left behind -----------------------------------------------------------------------------------------------


def counted(server: Running) -> dict[str, Any]:
    """Everything that was counted and does not depend on how batches were composed."""
    parts = server.service.parts
    copy = parts.counters.copy()
    recorded = parts.recorder.since_start()
    stages = ("queue", "features", "inference", "guardrails", "total", "respond")
    return {
        "decisions": {key: count for key, count in copy.decisions.items() if count},
        "refusals": {reason: count for reason, count in copy.refusals.items() if count},
        "totals": {name: count for name, count in copy.totals.items() if "connections" not in name},
        "rows": sum(rows * batches for rows, batches in enumerate(copy.batch_rows)),
        "recorded": {stage: recorded[stage].count for stage in stages},
    }


def kept_features(directory: Path) -> dict[str, object]:
    """The snapshot of the store by names instead of numbers, whatever the order in which they came."""
    with pa.memory_map(str(directory / snapshot.FILE_NAME)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    lists = {name: batch.column(name).values.to_pylist() for name in batch.schema.names}
    keys: list[object] = [None, *zip(lists["series_kind"], lists["series_id"], strict=True)]
    ticks = lists["bucket_tick"]
    added = np.array(lists["bucket_added"]).reshape(len(ticks), -1).tolist()
    buckets, marks = iter(zip(ticks, added, strict=True)), iter(lists["mark_series"])
    series = {
        key: [next(buckets) for _ in range(count)] for key, count in zip(keys[1:], lists["series_buckets"], strict=True)
    }
    reported = zip(*(lists[f"reported_{name}"] for name in ("id", "tick", "marks")), strict=True)
    decision_ids = lists["decision_id"]
    decided = np.array(lists["decision_series"], int).reshape(-1, len(decision_ids)).T.tolist()
    decisions = zip(decision_ids, lists["decision_tick"], decided, strict=True)
    profiles = zip(*(lists[f"profile_{name}"] for name in ("entity", "id", "feature", "value")), strict=True)
    return {
        "series": series,
        "reported": {name: (tick, {keys[next(marks)] for _ in range(count)}) for name, tick, count in reported},
        "decisions": {name: (tick, [keys[number] for number in numbers]) for name, tick, numbers in decisions},
        "profiles": set(profiles),
    }


def kept_answers(directory: Path) -> dict[str, object]:
    """The stored answers by id: the payload's digest, and what was decided."""
    with pa.memory_map(str(directory / state.FILE_NAME)) as source:
        table = pa.ipc.open_file(source).read_all()
    rows = np.frombuffer(b"".join(table["answer"].to_pylist()), ANSWER_DTYPE)
    decided = rows[["status", "decision", "fallback", "scored", "score", "rules", "replayed", "error_field"]].tolist()
    ids, digests = table["transaction_id"].to_pylist(), table["digest"].to_pylist()
    return dict(zip(ids, zip(digests, decided, strict=True), strict=True))


# -- the test ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def both(directory: Path, sections: dict[str, dict[str, Any]]) -> AsyncIterator[list[Side]]:
    """A fresh service with each front end. Each leaves its snapshot in ``directory``/NAME."""
    aio, native = (
        serve(Path(), **sections, server={"frontend": name}, state={"dir": str(directory / name)}) for name in FRONTENDS
    )
    async with aio as reference, native as other:
        with ThreadPoolExecutor(2 * AT_ONCE) as threads:
            sides = [Side(reference, threads), Side(other, threads)]
            yield sides
            for side in sides:
                side.close()


async def agree(
    directory: Path, sections: dict[str, dict[str, Any]], authors: Iterable[tuple[int, Author]]
) -> dict[str, Any]:
    """Hold both to each other; returns what each of them counted."""
    async with both(directory, sections) as sides:
        assert [side.server.service._front.name for side in sides] == ["grpc.aio", "native"]
        differ = Differ(sides)
        await differ.run(authors)
        assert not differ.differences, "\n".join(sorted(differ.differences)[:5])
        counts, counts_of_native = (counted(side.server) for side in sides)
        assert counts_of_native == counts
    for kept in (kept_features, kept_answers):
        reference, native = (kept(directory / name) for name in FRONTENDS)
        assert native == reference
        assert reference
    return counts


def authors(seeds: Iterable[int], **about: Any) -> list[tuple[int, Author]]:
    return [(seed, Author(seed, **about)) for seed in SEEDS or seeds]


@pytest.mark.parametrize("policy", ["fixed", "eager"])
async def test_front_ends_agree(tmp_path: Path, sections: dict[str, dict[str, Any]], policy: str) -> None:
    first_seed = {"fixed": 0, "eager": 100}[policy]
    sections = {**sections, "batching": {**sections["batching"], "policy": policy}}
    counts = await agree(tmp_path, sections, authors(range(first_seed, first_seed + 100)))
    if not SEEDS:  # the sequences reached what they are for
        assert len(counts["decisions"]) == 9, "three decisions, each with whole, defaulted and stale features"
        assert counts["refusals"].keys() == {"invalid", "conflict", "undecodable"}
        reached = ("idempotent_replays", "ignored_attributes", "rule_errors", "outcomes")
        assert all(counts["totals"][f"fraudgate_{name}_total"] for name in reached)


@pytest.mark.slow
async def test_front_ends_agree_for_long(tmp_path: Path, sections: dict[str, dict[str, Any]]) -> None:
    """60,000 operations on each side: three to four minutes on two cores, most of them in gRPC's clients."""
    await agree(tmp_path, sections, authors(range(1_000, 2_000), length=60))
