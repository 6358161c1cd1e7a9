"""The circuit breaker, to the nanosecond, and its law against a naive oracle in ``tests/property``."""

import pytest

from fraudgate.breaker import Breaker, BreakerSettings, State

SETTINGS = BreakerSettings(
    failures_max=3, window_runs=8, failures_share=0.5, wait_ns_min=100, wait_ns_max=800, good_runs=2
)
CLOSED, HALF_OPEN, OPEN = State


class Dependency:
    """One that is asked every ``step_ns``; each run takes as long as it is told to."""

    def __init__(self, settings: BreakerSettings | None = SETTINGS, allowance_ns: int = 50) -> None:
        self.told: list[str] = []
        self.breaker = Breaker("store", settings, allowance_ns, self.told.append)
        self.now_ns = 1_000

    def run(self, failed: bool = False, took_ns: int = 0) -> bool:
        """Whether it was asked."""
        ticket = self.breaker.ask(self.now_ns)
        started_ns, self.now_ns = self.now_ns, self.now_ns + took_ns
        if ticket:
            self.breaker.report(ticket, started_ns, self.now_ns, failed)
        return bool(ticket)

    def fail(self, runs: int) -> State:
        for _ in range(runs):
            self.run(failed=True)
        return self.breaker.state

    def open(self) -> Breaker:
        assert self.fail(3) is OPEN
        return self.breaker


def test_it_opens_after_so_many_failures_in_a_row_and_not_before() -> None:
    each = Dependency()
    each.run(failed=True)
    each.run()
    assert each.fail(2) is CLOSED
    assert each.fail(1) is OPEN
    assert each.told == ["store open: it failed; it is not asked for 0.00 s"]
    assert repr(each.breaker) == "<Breaker store open [1 changes, 4 bad runs]>"


def test_it_opens_when_half_of_the_window_was_bad() -> None:
    each = Dependency()
    for _ in range(3):
        each.run(failed=True)
        each.run()
    assert each.breaker.state is CLOSED
    assert each.fail(1) is OPEN


def test_bad_runs_leave_the_window() -> None:
    each = Dependency()
    each.fail(2)
    for _ in range(8):
        each.run()
    each.run(failed=True)
    each.run()
    assert each.fail(1) is CLOSED, "two of the last eight"


@pytest.mark.parametrize(("took_ns", "state"), [(50, CLOSED), (51, OPEN)])
def test_a_run_over_its_allowance_is_bad(took_ns: int, state: State) -> None:
    each = Dependency()
    for _ in range(3):
        each.run(took_ns=took_ns)
    assert each.breaker.state is state


def test_waiting_for_the_run_before_is_no_fault() -> None:
    each = Dependency()
    for began_ns in range(1_000, 1_400, 40):
        one, two = each.breaker.ask(began_ns), each.breaker.ask(began_ns)
        each.breaker.report(one, began_ns, began_ns + 40)
        each.breaker.report(two, began_ns, began_ns + 80)
    assert each.breaker.bad_runs == 0


def test_open_it_is_not_asked_until_the_wait_is_over_and_then_by_one_batch() -> None:
    each = Dependency()
    breaker, opened_ns = each.open(), each.now_ns
    assert breaker.ask(opened_ns + 99) == 0
    probe = breaker.ask(opened_ns + 100)
    assert probe
    assert breaker.state is HALF_OPEN
    assert breaker.ask(opened_ns + 199) == 0, "the first one is still under way"
    breaker.report(probe, opened_ns + 100, opened_ns + 120)
    assert breaker.state is HALF_OPEN
    assert each.run()
    assert breaker.state is CLOSED
    assert [change.partition(":")[0] for change in each.told] == ["store open", "store half-open", "store closed"]


def test_a_probe_that_is_never_reported_does_not_keep_it_half_open_for_ever() -> None:
    each = Dependency()
    breaker, opened_ns = each.open(), each.now_ns
    assert breaker.ask(opened_ns + 100)
    assert not breaker.ask(opened_ns + 199)
    assert breaker.ask(opened_ns + 200)


def test_the_wait_doubles_to_its_bound_and_begins_anew_after_a_long_sound_time() -> None:
    each = Dependency()
    breaker = each.open()
    for wait_ns in (100, 200, 400, 800, 800):
        assert breaker.ask(each.now_ns + wait_ns - 1) == 0
        each.now_ns += wait_ns
        assert each.run(failed=True)
        assert breaker.state is OPEN
    each.now_ns += 800
    each.run()
    each.run()
    closed_ns = each.now_ns
    each.now_ns = closed_ns + 799
    each.open()
    assert breaker.ask(each.now_ns + 799) == 0, "it was closed for too short a time to be trusted"
    each.now_ns += 800
    each.run()
    each.run()
    each.now_ns += 800
    each.open()
    assert breaker.ask(each.now_ns + 100)


def test_what_was_asked_before_a_change_says_nothing_after_it() -> None:
    each = Dependency()
    late = each.breaker.ask(each.now_ns)
    breaker = each.open()
    breaker.report(late, each.now_ns, each.now_ns, failed=True)
    each.now_ns += 100
    probe = breaker.ask(each.now_ns)
    breaker.report(late, each.now_ns, each.now_ns)
    assert breaker.ask(each.now_ns) == 0
    breaker.report(probe, each.now_ns, each.now_ns, failed=True)
    assert breaker.state is OPEN
    assert breaker.bad_runs == 4


def test_another_dependency_begins_anew() -> None:
    each = Dependency()
    old = each.breaker.ask(each.now_ns)
    each.fail(2)
    each.breaker.renew()
    each.breaker.report(old, each.now_ns, each.now_ns, failed=True)
    assert each.fail(2) is CLOSED
    assert each.fail(1) is OPEN
    each.breaker.renew()
    assert each.run()
    assert each.told[-1] == "store closed: it is another one now"


def test_without_settings_it_counts_and_never_opens() -> None:
    each = Dependency(settings=None)
    assert each.fail(100) is CLOSED
    assert each.breaker.bad_runs == 100
    assert each.run()
