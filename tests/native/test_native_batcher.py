"""The batcher in Rust against the Python one, over arrival logs: every call gives the same, whatever came before."""

from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.batching.batcher import Batcher, Policy
from fraudgate.limits import BATCH_ROWS_MAX, GATE_NS, QUEUE_ROWS_MAX

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")


class Sizes(NamedTuple):
    gate_ns: int
    batch_rows_max: int
    queue_rows_max: int


class Call(NamedTuple):
    """One call on a batcher, ``later_ns`` after the one before; negative where another clock was read first."""

    what: Literal["add", "poll", "idle", "close"]
    later_ns: int


kinds = st.sampled_from(["add", "add", "add", "add", "poll", "poll", "idle", "close"])
pauses = st.one_of(st.just(0), st.integers(-4, 4), st.integers(-30, 30))
calls = st.builds(Call, kinds, pauses)
logs = st.lists(calls, max_size=30) | st.lists(calls, min_size=40, max_size=150)
small = st.builds(
    lambda gate_ns, rows, more: Sizes(gate_ns, rows, rows + more),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(0, 9),
)
policies = st.sampled_from(["fixed", "eager"])


def call_both(one: Any, other: Any, call: Call, now_ns: int, entry: int) -> None:
    if call.what == "add":
        assert one.add(entry, now_ns) is other.add(entry, now_ns)
    elif call.what == "close":
        one.close_open(now_ns)
        other.close_open(now_ns)
    else:
        assert one.poll(now_ns, call.what == "idle") == other.poll(now_ns, call.what == "idle")
    assert (one.rows, one.drops, one.next_deadline_ns()) == (
        other.rows,
        other.drops["queue_full"],
        other.next_deadline_ns(),
    )


def run_both(log: list[Call], sizes: Sizes, policy: Policy, start_ns: int = 1_000) -> None:
    one, other = native.Batcher(*sizes, policy), Batcher[int](*sizes, policy=policy)
    now_ns = start_ns
    for entry, call in enumerate(log):
        now_ns = max(now_ns + call.later_ns, 0)
        call_both(one, other, call, now_ns, entry)
        other.check()
    while other.rows:
        now_ns += sizes.gate_ns
        call_both(one, other, Call("poll", sizes.gate_ns), now_ns, 0)
    assert one.poll(now_ns) is None


@settings(max_examples=400)
@given(logs, small, policies)
def test_both_batchers_do_the_same_at_small_sizes(log: list[Call], sizes: Sizes, policy: Policy) -> None:
    run_both(log, sizes, policy)


bursts = st.lists(
    st.tuples(st.integers(1, 70), st.sampled_from([0, 1, 40_000, 700_000, GATE_NS - 1, GATE_NS, 3 * GATE_NS]), kinds),
    max_size=40,
)


@settings(max_examples=100)
@given(bursts, policies, st.integers(0, 2**62))
def test_both_batchers_do_the_same_at_the_sizes_of_the_service(
    log: list[tuple[int, int, Any]], policy: Policy, start_ns: int
) -> None:
    steps = [step for rows, pause_ns, what in log for step in [Call("add", 0)] * rows + [Call(what, pause_ns)]]
    run_both(steps, Sizes(GATE_NS, BATCH_ROWS_MAX, QUEUE_ROWS_MAX), policy, start_ns)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 2, 1), (-1, 1, 1)])
def test_sizes_that_no_batcher_can_have(sizes: tuple[int, int, int]) -> None:
    for kind in (Batcher, native.Batcher):
        with pytest.raises(ValueError, match="need gate_ns >= 1 and 1 <= batch_rows_max <= queue_rows_max"):
            kind(*sizes)


def test_a_policy_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="fixed or eager"):
        native.Batcher(1, 1, 1, "lazy")
