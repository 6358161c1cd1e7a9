"""Promise 1: a recorded arrival log replays to the same batches, whatever the polls, refusals and idle instants."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.replay import CompositionReplay, replay_composition
from fraudgate.batching.batcher import Batcher, ClosedBatch, Policy
from fraudgate.transaction import ANSWER_DTYPE
from tests.unit.batch_logs import request_batch

GATE_NS = 10
ROWS_MAX = 4
QUEUE_ROWS_MAX = 6

Arrival = tuple[str, int]
"""A transaction id and its raw stamp."""
Step = tuple[Literal["add", "poll", "idle"], int, int]
"""What is done, how much later, and how far the stamp lags behind the clock."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "poll", "idle"]),
        st.one_of(st.integers(0, 3), st.integers(0, 2 * GATE_NS)),
        st.sampled_from([0, 0, 0, 1, 4]),
    ),
    max_size=60,
)
policies = st.sampled_from(["fixed", "eager"])


@dataclass
class Live:
    """A batcher in service: polled late, polled while idle, refusing when full; its closed batches are collected."""

    policy: Policy
    now_ns: int = 1_000
    added: int = 0
    closed: list[ClosedBatch[Arrival]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher: Batcher[Arrival] = Batcher(GATE_NS, ROWS_MAX, QUEUE_ROWS_MAX, self.policy)

    def serve(self, log: list[Step]) -> list[ClosedBatch[Arrival]]:
        for what, later_ns, lag_ns in log:
            self.now_ns += later_ns
            if what == "add":
                stamp_ns = self.now_ns - lag_ns
                self.added += self.batcher.add((f"tx-{self.added}", stamp_ns), stamp_ns)
            else:
                self.take(idle=what == "idle")
        self.batcher.close_open(self.now_ns)
        while self.batcher.rows:
            self.take(idle=False)
        return self.closed

    def take(self, idle: bool) -> None:
        if (batch := self.batcher.poll(self.now_ns, idle)) is not None:
            self.closed.append(batch)


def replay(batches: list[ClosedBatch[Arrival]], policy: Policy) -> CompositionReplay:
    """Log the batches, read the log back, replay it."""
    metadata = {
        "gate_policy": policy,
        "gate_ns": str(GATE_NS),
        "batch_rows_max": str(ROWS_MAX),
        "feature_names": "amount",
        "schema_fingerprint": "",
        "ruleset_version": "",
        "model": "",
    }
    with TemporaryDirectory() as directory:
        log = BatchLog(Path(directory), metadata, flush_seconds=3_600)
        for batch in batches:
            rows = len(batch.entries)
            features, answers = np.full((rows, 1), np.nan), np.zeros(rows, ANSWER_DTYPE)
            request = request_batch(*zip(*batch.entries, strict=True))
            assert log.append(request, features, answers, batch.closed_ns, batch.idle_ns)
        assert log.close() == 0
        return replay_composition(directory)


@settings(max_examples=150, deadline=None)
@given(steps, policies)
def test_a_logged_service_replays_to_the_same_batches(log: list[Step], policy: Policy) -> None:
    live = Live(policy)
    closed = live.serve(log)
    assume(closed)
    assert [name for batch in closed for name, _ in batch.entries] == [f"tx-{i}" for i in range(live.added)]
    found = replay(closed, policy)
    assert found.first_difference is None
    assert found.same
    assert (found.batches, found.rows, found.segments) == (len(closed), live.added, 1)
    assert (found.differing, found.gaps, found.cut_files, found.unended_runs) == (0, [], {}, 0)


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
def test_boundaries_drawn_in_any_other_way_are_found(log: list[Step], data: st.DataObject) -> None:
    """The oracle: under the fixed gate one composition of the arrivals is true, so every other one must be refused."""
    closed = Live("fixed").serve(log)
    arrivals = [entry for batch in closed for entry in batch.entries]
    assume(len(arrivals) > 1)
    true_ends = list(np.cumsum([len(batch.entries) for batch in closed]))
    inner = data.draw(st.sets(st.integers(1, len(arrivals) - 1)))
    ends = [*sorted(inner), len(arrivals)]
    starts = [0, *ends]
    drawn = [ClosedBatch(arrivals[start:end], 0, 0) for start, end in zip(starts, ends, strict=False)]
    found = replay(drawn, "fixed")
    true_batches = set(zip([0, *true_ends], true_ends, strict=False))
    different = [pair for pair in zip(starts, ends, strict=False) if pair not in true_batches]
    assert found.same == (ends == true_ends)
    assert found.differing == len(different)
    if found.first_difference is not None:
        start, end = different[0]
        assert found.first_difference.logged_ids == [name for name, _ in arrivals[start:end]]
        holder = next(batch for batch in closed if arrivals[start] in batch.entries)
        assert found.first_difference.replayed_ids == [name for name, _ in holder.entries]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, ROWS_MAX - 1), st.integers(0, 4), st.integers(0, 4), steps)
def test_an_idle_instant_missing_from_the_log_is_found(
    entries: int, idle_after_ns: int, next_after_ns: int, log: list[Step]
) -> None:
    """Under eager the idle instants are part of the log: without one, the next entry would have joined the batch."""
    first: list[Step] = [("add", 0, 0)] * entries
    closed = Live("eager").serve([*first, ("idle", idle_after_ns, 0), ("add", next_after_ns, 0), *log])
    assert closed[0].idle_ns
    assert replay(closed, "eager").same
    found = replay([closed[0]._replace(idle_ns=0), *closed[1:]], "eager")
    assert not found.same
    assert found.first_difference is not None
    assert found.first_difference.sequence == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, ROWS_MAX - 1), st.data())
def test_an_idle_instant_before_an_entry_of_its_batch_is_found(entries: int, data: st.DataObject) -> None:
    arrivals = [(f"tx-{i}", 1_000 + 2 * i) for i in range(entries)]
    idle_ns = data.draw(st.integers(1_000, arrivals[-1][1] - 1))
    assert not replay([ClosedBatch(arrivals, idle_ns, idle_ns)], "eager").same
