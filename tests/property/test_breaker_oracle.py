"""The breaker against a naive one that keeps every run, and the law of its hysteresis."""

from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.breaker import Breaker, BreakerSettings, State

ALLOWANCE_NS = 50
SETTINGS = st.builds(
    BreakerSettings,
    failures_max=st.integers(1, 5),
    window_runs=st.integers(5, 12),
    failures_share=st.sampled_from([0.25, 0.5, 1.0]),
    wait_ns_min=st.sampled_from([1, 100]),
    wait_ns_max=st.sampled_from([100, 1_000]),
    good_runs=st.integers(1, 3),
)
RUNS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 30, 99, 100, 500, 2_000]),  # how long after the one before it is asked
        st.sampled_from([0, 50, 51, 300]),  # how long it takes
        st.booleans(),  # whether it fails
        st.integers(0, 3),  # how many are asked before it is reported
    ),
    max_size=60,
)


class NaiveBreaker:
    """Every run since the last change of state, in a list; counted anew each time."""

    def __init__(self, settings: BreakerSettings) -> None:
        self.settings = settings
        self.state, self.since_ns, self.changes = State.CLOSED, 0, 0
        self.runs: list[bool] = []  # of this state: good?
        self.out: list[int] = []  # runs of this state under way, by number
        self.waits: list[int] = []
        self.ended_ns = self.numbers = self.asked_ns = 0

    def ask(self, now_ns: int) -> int:
        if self.state is State.OPEN and now_ns >= self.since_ns + self.waits[-1]:
            self.change(State.HALF_OPEN, now_ns)
        if self.state is State.OPEN or (self.state is State.HALF_OPEN and self.is_probed(now_ns)):
            return 0
        self.numbers += 1
        self.out.append(self.numbers)
        self.asked_ns = now_ns
        return self.numbers

    def is_probed(self, now_ns: int) -> bool:
        """A run of this state is under way, and not for too long."""
        return bool(self.out) and now_ns < self.asked_ns + self.waits[-1]

    def report(self, number: int, started_ns: int, now_ns: int, failed: bool) -> None:
        began_ns, self.ended_ns = max(started_ns, self.ended_ns), now_ns
        if number not in self.out:
            return
        self.out.remove(number)
        good = not failed and now_ns - began_ns <= ALLOWANCE_NS
        self.runs.append(good)
        settings = self.settings
        if self.state is State.HALF_OPEN:
            if not good:
                self.open(now_ns)
            elif len(self.runs) == settings.good_runs:
                self.change(State.CLOSED, now_ns)
            self.asked_ns = -(2**40)  # whatever else is under way
            return
        row, window = self.runs[-settings.failures_max :], self.runs[-settings.window_runs :]
        in_a_row = len(row) == settings.failures_max and not any(row)
        share = window.count(False) / settings.window_runs
        if not good and (in_a_row or share >= settings.failures_share):
            self.open(now_ns)

    def open(self, now_ns: int) -> None:
        settings = self.settings
        if self.state is State.CLOSED and now_ns - self.since_ns >= settings.wait_ns_max:
            self.waits = []
        self.waits.append(min(settings.wait_ns_min * 2 ** len(self.waits), settings.wait_ns_max))
        self.change(State.OPEN, now_ns)

    def change(self, state: State, now_ns: int) -> None:
        self.state, self.since_ns = state, now_ns
        self.changes += 1
        self.runs, self.out = [], []


@given(SETTINGS, RUNS)
def test_it_does_what_a_naive_one_does(settings: BreakerSettings, runs: list[tuple[int, int, bool, int]]) -> None:
    breaker, naive = Breaker("it", settings, ALLOWANCE_NS), NaiveBreaker(settings)
    now_ns, under_way = 0, []
    for after_ns, took_ns, failed, others in runs:
        now_ns += after_ns
        tickets = breaker.ask(now_ns), naive.ask(now_ns)
        assert bool(tickets[0]) == bool(tickets[1])
        if tickets[0]:
            under_way.append((*tickets, now_ns, failed))
        while len(under_way) > others:
            ticket, number, started_ns, failed = under_way.pop(0)
            now_ns = max(now_ns, started_ns + took_ns)
            breaker.report(ticket, started_ns, now_ns, failed)
            naive.report(number, started_ns, now_ns, failed)
            assert (breaker.state, breaker.changes) == (naive.state, naive.changes)


def openings_max(settings: BreakerSettings, ns: int) -> int:
    doublings = ceil(log2(settings.wait_ns_max / settings.wait_ns_min))
    return (1 + doublings) * ceil(1 + ns / settings.wait_ns_max)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_whatever_fails_at_random_the_rung_does_not_flap(share: float) -> None:
    """Ten minutes at a batch a millisecond, with the settings of the service."""
    settings, step_ns, steps = BreakerSettings(), 10**6, 600_000
    changes: list[str] = []
    breaker = Breaker("it", settings, tell=changes.append)
    bad = (np.random.default_rng(7).random(steps) < share).tolist()
    for step, failed in enumerate(bad):
        now_ns = step * step_ns
        if ticket := breaker.ask(now_ns):
            breaker.report(ticket, now_ns, now_ns, failed)
    openings = sum(" open:" in change for change in changes)
    assert openings <= openings_max(settings, steps * step_ns)
    assert openings <= 100, "about one for each of the longest waits"
    if share >= 0.5:
        assert breaker.bad_runs < 0.01 * share * steps, "and it is hardly asked"
    if share <= 0.01:
        assert openings == 0


@given(SETTINGS, st.integers(0, 2**32), st.sampled_from([0.1, 0.5, 0.9]), st.integers(1, 300))
def test_it_opens_as_seldom_as_it_says(settings: BreakerSettings, seed: int, share: float, step_ns: int) -> None:
    random = np.random.default_rng(seed)
    breaker, openings, now_ns = Breaker("it", settings), 0, 0
    for failed in (random.random(400) < share).tolist():
        if ticket := breaker.ask(now_ns):
            breaker.report(ticket, now_ns, now_ns, failed)
            openings += breaker.state is State.OPEN
        now_ns += step_ns
    assert openings <= openings_max(settings, now_ns)
