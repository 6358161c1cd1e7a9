"""Promise 1: boundaries are a pure function of the arrival order and the stamps, whenever and however one polls.

The oracle reads the stamps alone. Time runs on a fake clock: an entry's stamp may run behind the entry before it, as
where two threads stamp, but not behind an instant that was polled.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.batching.batcher import Batcher, ClosedBatch, Policy
from fraudgate.limits import BATCH_ROWS_MAX, GATE_NS, QUEUE_ROWS_MAX

START_NS = 1_000


class Sizes(NamedTuple):
    gate_ns: int = 10
    batch_rows_max: int = 4
    queue_rows_max: int = 10_000


class Step(NamedTuple):
    """What is done ``later_ns`` after the step before; an entry's stamp lies ``lag_ns`` behind the clock."""

    what: Literal["add", "poll", "idle"]
    later_ns: int
    lag_ns: int = 0


def steps_of(*kinds: str) -> st.SearchStrategy[list[Step]]:
    pauses = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 25))
    lags = st.sampled_from([0, 0, 0, 1, 4, 30])
    step = st.builds(Step, st.sampled_from(kinds), pauses, lags)
    return st.lists(step, max_size=20) | st.lists(step, min_size=20, max_size=80)


small = st.builds(Sizes, st.integers(1, 12), st.integers(1, 5), st.just(10_000))


@dataclass
class Served:
    """What a batcher did with a list of steps. ``check()`` follows every call."""

    sizes: Sizes
    policy: Policy = "fixed"
    now_ns: int = START_NS
    polled_ns: int = 0
    offered: int = 0
    stamps_ns: list[int] = field(default_factory=list)  # of the entries taken, raised to the ones before
    batches: list[ClosedBatch[int]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher: Batcher[int] = Batcher(*self.sizes, policy=self.policy)

    def serve(self, steps: list[Step]) -> "Served":
        for step in steps:
            self.now_ns += step.later_ns
            if step.what == "add":
                self.add(max(self.now_ns - step.lag_ns, self.polled_ns))
            else:
                self.poll(step.what == "idle")
        return self

    def add(self, stamp_ns: int) -> None:
        entry, self.offered = self.offered, self.offered + 1
        full = self.batcher.rows == self.sizes.queue_rows_max
        taken = self.batcher.add(entry, stamp_ns)
        self.batcher.check()
        assert taken is not full
        if taken:
            self.stamps_ns.append(max([stamp_ns, *self.stamps_ns[-1:]]))
        else:
            self.refused.append(entry)

    def poll(self, idle: bool = False) -> ClosedBatch[int] | None:
        self.polled_ns = self.now_ns
        batch = self.batcher.poll(self.now_ns, idle)
        self.batcher.check()
        if batch is not None:
            self.batches.append(batch)
        return batch

    def finish(self) -> list[ClosedBatch[int]]:
        """Poll after the last gate until nothing is left."""
        self.now_ns += self.sizes.gate_ns
        while self.poll():
            pass
        assert self.batcher.rows == 0
        assert self.batcher.next_deadline_ns() is None
        return self.batches


def oracle(stamps_ns: list[int], sizes: Sizes) -> list[tuple[list[int], int]]:
    """(entries, closed_ns) of every batch, from the stamps alone."""
    raised = list(accumulate(stamps_ns, max))
    batches: list[list[int]] = []
    for entry, stamp_ns in enumerate(raised):
        fits = batches and len(batches[-1]) < sizes.batch_rows_max
        if fits and stamp_ns < raised[batches[-1][0]] + sizes.gate_ns:
            batches[-1].append(entry)
        else:
            batches.append([entry])
    full = sizes.batch_rows_max
    return [(b, raised[b[-1]] if len(b) == full else raised[b[0]] + sizes.gate_ns) for b in batches]


@settings(max_examples=120)
@given(steps_of("add", "add", "poll"), small)
def test_boundaries_are_those_of_the_stamps(steps: list[Step], sizes: Sizes) -> None:
    served = Served(sizes).serve(steps)
    batches = served.finish()
    assert [(batch.entries, batch.closed_ns) for batch in batches] == oracle(served.stamps_ns, sizes)
    assert all(batch.idle_ns == 0 for batch in batches)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0, 1, 40_000, 700_000, GATE_NS - 1, GATE_NS])), max_size=12)
)
def test_boundaries_at_the_sizes_of_the_service(bursts: list[tuple[int, int]]) -> None:
    sizes = Sizes(GATE_NS, BATCH_ROWS_MAX, QUEUE_ROWS_MAX)
    served = Served(sizes)
    for rows, pause_ns in bursts:
        served.serve([Step("add", 0)] * rows + [Step("poll", pause_ns)])
    batches = served.finish()
    assert [(batch.entries, batch.closed_ns) for batch in batches] == oracle(served.stamps_ns, sizes)
    assert all(1 <= len(batch.entries) <= 32 for batch in batches)


@settings(max_examples=80)
@given(steps_of("add", "poll"), small)
def test_every_entry_is_in_one_batch_and_in_order(steps: list[Step], sizes: Sizes) -> None:
    batches = Served(sizes).serve(steps).finish()
    assert [entry for batch in batches for entry in batch.entries] == list(range(sum(s.what == "add" for s in steps)))
    assert all(1 <= len(batch.entries) <= sizes.batch_rows_max for batch in batches)
    assert [batch.closed_ns for batch in batches] == sorted(batch.closed_ns for batch in batches)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 14), st.booleans(), st.booleans()), max_size=60), small)
def test_polls_do_not_move_boundaries(log: list[tuple[int, bool, bool]], sizes: Sizes) -> None:
    """The same arrivals three times: polled here, polled there, polled only at the end."""
    ways: list[list[Step]] = [[], [], []]
    for later_ns, polled_here, polled_there in log:
        for way, polled in zip(ways, (polled_here, polled_there, False), strict=True):
            way += [Step("add", later_ns), *([Step("poll", 0)] if polled else [])]
    here, there, late = (Served(sizes).serve(way).finish() for way in ways)
    assert here == there == late


@settings(max_examples=60)
@given(steps_of("add", "poll", "idle"), small, st.sampled_from(["fixed", "eager"]))
def test_the_same_log_gives_the_same_batches(steps: list[Step], sizes: Sizes, policy: Policy) -> None:
    assert Served(sizes, policy).serve(steps).finish() == Served(sizes, policy).serve(steps).finish()


@settings(max_examples=80)
@given(st.integers(1, 10**12), st.integers(0, 10**15), st.integers(1, BATCH_ROWS_MAX - 1), st.data())
def test_the_gate_one_nanosecond_before_and_at_it(gate_ns: int, first_ns: int, rows: int, data: st.DataObject) -> None:
    offsets = data.draw(st.lists(st.integers(0, gate_ns - 1), min_size=rows - 1, max_size=rows - 1).map(sorted))
    stamps_ns = [first_ns, *(first_ns + offset for offset in offsets)]
    batcher: Batcher[int] = Batcher(gate_ns)
    for entry, stamp_ns in enumerate(stamps_ns):
        batcher.add(entry, stamp_ns)
    assert batcher.next_deadline_ns() == first_ns + gate_ns
    assert batcher.poll(first_ns + gate_ns - 1) is None
    assert batcher.poll(first_ns + gate_ns) == ClosedBatch(list(range(rows)), first_ns + gate_ns, 0)


@settings(max_examples=120)
@given(steps_of("add", "add", "add", "poll"), st.integers(1, 5), st.integers(0, 6), st.integers(1, 12))
def test_the_queue_is_bounded_and_drops_are_counted(
    steps: list[Step], batch_rows_max: int, more: int, gate_ns: int
) -> None:
    """A refused entry leaves no trace: the others are batched as if it had never come."""
    sizes = Sizes(gate_ns, batch_rows_max, batch_rows_max + more)
    served = Served(sizes).serve(steps)
    assert served.batcher.drops["queue_full"] == len(served.refused)
    taken = [entry for entry in range(served.offered) if entry not in served.refused]
    batches = served.finish()
    expected = oracle(served.stamps_ns, sizes)
    assert [(batch.entries, batch.closed_ns) for batch in batches] == [
        ([taken[position] for position in positions], closed_ns) for positions, closed_ns in expected
    ]


@settings(max_examples=120)
@given(steps_of("add", "poll", "idle"), small, st.sampled_from(["fixed", "eager"]))
def test_next_deadline_is_when_polling_helps(steps: list[Step], sizes: Sizes, policy: Policy) -> None:
    batcher = Served(sizes, policy).serve(steps).batcher
    deadline_ns = batcher.next_deadline_ns()
    assert (deadline_ns is None) == (batcher.rows == 0)
    if deadline_ns:
        assert batcher.poll(deadline_ns - 1) is None
    if deadline_ns is not None:
        assert batcher.poll(deadline_ns) is not None


@settings(max_examples=120)
@given(steps_of("add", "add", "poll", "idle"), small)
def test_eager_replays_from_stamps_and_idle_instants(steps: list[Step], sizes: Sizes) -> None:
    """The log of an eager service is its stamps and the idle instants that closed a batch; nothing else counts."""
    served = Served(sizes, "eager").serve(steps)
    batches = served.finish()
    replayed = Served(sizes, "eager")
    for batch in batches:
        for entry in batch.entries:
            replayed.now_ns = served.stamps_ns[entry]
            replayed.add(replayed.now_ns)
        if batch.idle_ns:  # closes what is open, once the batches closed before are taken
            assert batch.closed_ns == batch.idle_ns >= served.stamps_ns[batch.entries[-1]]
            replayed.now_ns = batch.idle_ns
            while (polled := replayed.poll(idle=True)) and polled.entries != batch.entries:
                pass
    assert replayed.finish() == batches


@settings(max_examples=80)
@given(steps_of("add", "add", "poll", "idle"), small)
def test_eager_closes_what_is_open_when_the_engine_falls_idle(steps: list[Step], sizes: Sizes) -> None:
    """The oracle: between idle instants eager is fixed; an idle instant ends the open batch."""
    served = Served(sizes, "eager")
    expected: list[list[int]] = []
    first_ns = latest_ns = 0
    ended = True
    for step in steps:
        entry = served.offered
        waiting = served.batcher.next_deadline_ns() == 0
        served.serve([step])
        if step.what == "add":
            latest_ns = max(latest_ns, served.stamps_ns[-1])
            if ended or len(expected[-1]) == sizes.batch_rows_max or latest_ns >= first_ns + sizes.gate_ns:
                expected.append([])
                first_ns, ended = latest_ns, False
            expected[-1].append(entry)
        elif step.what == "idle" and not waiting:
            ended = True
            latest_ns = max(latest_ns, served.now_ns)
    assert [batch.entries for batch in served.finish()] == expected


@settings(max_examples=60)
@given(steps_of("add", "add", "poll", "idle"), small)
def test_under_the_fixed_gate_an_idle_engine_changes_nothing(steps: list[Step], sizes: Sizes) -> None:
    polled = [step._replace(what="poll") if step.what == "idle" else step for step in steps]
    assert Served(sizes).serve(steps).finish() == Served(sizes).serve(polled).finish()
