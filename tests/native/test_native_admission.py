"""Admission in Rust against the Python one, over arrival logs: every row ends the same, whatever came before."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.batching.admission import Admission, Bounds
from fraudgate.batching.batcher import Batcher, Policy
from fraudgate.limits import BATCH_ROWS_MAX, GATE_NS, MILLISECOND_NS, QUEUE_ROWS_MAX

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")


class Sizes(NamedTuple):
    gate_ns: int
    batch_rows_max: int
    queue_rows_max: int


class Step(NamedTuple):
    """Something that happens ``later_ns`` after the one before; negative where another clock was read first."""

    what: Literal["arrive", "take", "idle", "finish", "lag", "set"]
    later_ns: int
    patience_ns: int
    """Of a row that arrives: its deadline from now; 0 = none. Of ``set``: the batch time. Of ``lag``: how long."""
    caller: int


class Pair:
    """Both of them, over one log."""

    def __init__(self, bounds: Bounds, sizes: Sizes, policy: Policy) -> None:
        self.batcher = Batcher[int](*sizes, policy=policy)
        self.reference = Admission(bounds, self.batcher)
        self.native = native.Admission(*bounds, *sizes, policy == "eager")
        self.running = 0

    def arrive(self, now_ns: int, deadline_ns: int, caller: int) -> tuple[str, int] | None:
        found = self.native.arrive(now_ns, deadline_ns, caller)
        expected: tuple[str, int] | None = self.reference.refuse(now_ns, deadline_ns, caller)
        if expected is None and not self.batcher.add(caller, now_ns):
            expected = ("queue_full", self.reference.batch_ns)
        elif expected is None:
            self.reference.admitted(caller)
        assert found == expected
        return expected

    def take(self, now_ns: int, idle: bool) -> None:
        found, closed = self.native.take(now_ns, idle), self.batcher.poll(now_ns, idle)
        assert found == (closed and closed.entries)
        if closed is not None:
            self.reference.taken(closed.closed_ns, closed.entries)
            self.running += 1

    def do(self, step: Step, now_ns: int) -> None:
        if step.what == "arrive":
            self.arrive(now_ns, now_ns + step.patience_ns if step.patience_ns else 0, step.caller)
        elif step.what == "set":
            self.native.batch_ns = step.patience_ns
            self.reference.set_batch_ns(step.patience_ns)
        elif step.what == "lag":
            self.native.lagged(step.patience_ns)
            self.reference.lagged(step.patience_ns)
        elif step.what != "finish":
            self.take(now_ns, step.what == "idle")
        elif self.running:
            self.native.finished(now_ns)
            self.reference.finished(now_ns)
            self.running -= 1

    def check(self, now_ns: int) -> None:
        mine, other = self.reference, self.native
        assert (other.batch_ns, other.deviation_ns) == (mine.batch_ns, mine.deviation_ns)
        assert (other.lag_ns, other.waiting) == (mine.lag_ns, mine.waiting)
        assert sum(mine.waiting) == self.batcher.rows
        assert other.wait_ns(now_ns) == mine.wait_ns(now_ns) >= mine.batch_ns


def run(log: Sequence[Step], bounds: Bounds, sizes: Sizes, policy: Policy) -> None:
    pair, now_ns = Pair(bounds, sizes, policy), 1_000
    for step in log:
        now_ns = max(now_ns + step.later_ns, 0)
        pair.do(step._replace(caller=step.caller % len(bounds.weights)), now_ns)
        pair.check(now_ns)


kinds = st.sampled_from(["arrive"] * 8 + ["take", "take", "idle", "finish", "finish", "lag", "set"])
policies = st.sampled_from(["fixed", "eager"])


def logs(pause_ns: int) -> st.SearchStrategy[list[Step]]:
    pauses = st.one_of(st.just(0), st.integers(-4, 4), st.integers(-pause_ns, pause_ns), st.integers(0, 20 * pause_ns))
    patience = st.one_of(st.just(0), st.integers(0, 40 * pause_ns))
    steps = st.builds(Step, kinds, pauses, patience, st.integers(0, 3))
    return st.lists(steps, max_size=30) | st.lists(steps, min_size=40, max_size=150)


def all_bounds(budget_ns: int) -> st.SearchStrategy[Bounds]:
    def build(budget_ns: int, shares: tuple[float, float], callers: list[tuple[int, int]], active_ns: int) -> Bounds:
        priorities, weights = zip(*callers, strict=True)
        normal, low = sorted(shares, reverse=True)
        return Bounds(
            budget_ns, (budget_ns, int(budget_ns * normal), int(budget_ns * low)), priorities, weights, active_ns
        )

    callers = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=4)
    shares = st.tuples(st.floats(0, 1), st.floats(0, 1))
    budgets = st.just(0) | st.integers(1, budget_ns)
    return st.builds(build, budgets, shares, callers, st.integers(1, budget_ns))


small = st.builds(
    lambda gate_ns, rows, more: Sizes(gate_ns, rows, rows + more),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(0, 20),
)


@settings(max_examples=500)
@given(logs(30), all_bounds(200), small, policies)
def test_both_decide_the_same_at_small_sizes(log: list[Step], bounds: Bounds, sizes: Sizes, policy: Policy) -> None:
    run(log, bounds, sizes, policy)


@settings(max_examples=100)
@given(logs(MILLISECOND_NS), all_bounds(50 * MILLISECOND_NS), policies, st.integers(1, 60))
def test_both_decide_the_same_at_the_sizes_of_the_service(
    log: list[Step], bounds: Bounds, policy: Policy, rows: int
) -> None:
    many = [each for step in log for each in ([step] * rows if step.what == "arrive" else [step])]
    run(many, bounds, Sizes(GATE_NS, BATCH_ROWS_MAX, QUEUE_ROWS_MAX), policy)


@pytest.mark.parametrize("callers", [((1,), ()), ((3,), (1,)), ((1,), (0,))])
def test_callers_that_there_cannot_be(callers: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="these bounds do not fit together"):
        native.Admission(0, (0, 0, 0), *callers, 1, 1, 1, 1, False)
