"""Admission on its own: what it predicts, whom it refuses, and that no caller pushes out another."""

from collections import Counter

import pytest

from fraudgate.batching.admission import DEVIATIONS, Admission, Bounds, Priority, Verdict
from fraudgate.batching.batcher import Batcher
from fraudgate.limits import BATCH_ROWS_MAX, BUDGET_NS, GATE_NS, MILLISECOND_NS, SECOND_NS

START_NS = 1_000 * SECOND_NS
BATCH_NS = 2 * MILLISECOND_NS
ALLOWANCES_NS = (BUDGET_NS * 9 // 10, BUDGET_NS * 7 // 10, BUDGET_NS * 4 // 10)


class Server:
    """A door, a queue and an engine that takes ``batch_ns`` for every batch, one at a time, on a clock of its own."""

    def __init__(self, bounds: Bounds, batch_ns: int = BATCH_NS) -> None:
        self.batcher: Batcher[tuple[int, int]] = Batcher()
        self.admission = Admission(bounds, self.batcher)
        self.admission.set_batch_ns(batch_ns)
        self.batch_ns = batch_ns
        self.free_ns = START_NS
        self.running: list[tuple[int, int]] = []
        self.answered: Counter[int] = Counter()
        self.waits_ns: list[int] = []
        self.refused: Counter[tuple[int, str]] = Counter()

    def arrive(self, now_ns: int, caller: int = 0, deadline_ns: int = 0) -> Verdict | None:
        self.run_until(now_ns)
        verdict = self.admission.refuse(now_ns, deadline_ns, caller)
        if verdict is None and self.batcher.add((caller, now_ns), now_ns):
            self.admission.admitted(caller)
        else:
            self.refused[caller, verdict.reason if verdict else "queue_full"] += 1
        return verdict

    def run_until(self, now_ns: int) -> None:
        """Finish and begin batches, each at its own instant."""
        while True:
            if self.running and self.free_ns > now_ns:
                return
            if self.running:
                self.admission.finished(self.free_ns)
                for caller, arrival_ns in self.running:
                    self.answered[caller] += 1
                    self.waits_ns.append(self.free_ns - arrival_ns)
                self.running = []
            due_ns = self.batcher.next_deadline_ns()
            if due_ns is None or due_ns > now_ns:
                return
            ahead = self.batcher.ahead(now_ns)
            begins_ns = max(self.free_ns, ahead.closed_ns)
            closed = self.batcher.poll(now_ns)
            assert closed is not None
            self.admission.taken(closed.closed_ns, [caller for caller, _ in closed.entries])
            self.running, self.free_ns = closed.entries, begins_ns + self.batch_ns


def bounds(*callers: tuple[Priority, int], budget_ns: int = BUDGET_NS) -> Bounds:
    priorities, weights = zip(*callers, strict=True) if callers else ((Priority.NORMAL,), (1,))
    return Bounds(budget_ns, ALLOWANCES_NS, priorities, weights)


def load(server: Server, *periods_ns: int, seconds: float = 1.0) -> None:
    """Callers 0.. each send a row every so many nanoseconds."""
    arrivals = sorted(
        (START_NS + number * period_ns, caller)
        for caller, period_ns in enumerate(periods_ns)
        for number in range(int(seconds * SECOND_NS) // period_ns)
    )
    for now_ns, caller in arrivals:
        server.arrive(now_ns, caller)
    server.run_until(START_NS + 2 * int(seconds * SECOND_NS))


def test_a_row_alone_waits_for_its_gate_and_a_batch() -> None:
    server = Server(bounds())
    assert server.admission.wait_ns(START_NS) == GATE_NS + BATCH_NS
    assert server.arrive(START_NS) is None
    assert server.admission.wait_ns(START_NS + MILLISECOND_NS) == GATE_NS + BATCH_NS - MILLISECOND_NS


def test_a_prediction_holds_while_the_engine_keeps_its_time() -> None:
    server = Server(bounds())
    for row in range(10 * BATCH_ROWS_MAX):
        predicted_ns = server.admission.wait_ns(START_NS + row)
        assert server.arrive(START_NS + row) is None
        batch = row // BATCH_ROWS_MAX
        assert predicted_ns == pytest.approx(
            batch * BATCH_NS + (BATCH_NS if batch else GATE_NS + BATCH_NS), abs=GATE_NS
        )
    server.run_until(START_NS + SECOND_NS)
    assert server.waits_ns[-1] == pytest.approx(10 * BATCH_NS, abs=BATCH_NS)


def test_twice_the_capacity_is_answered_at_the_capacity_and_in_time() -> None:
    server = Server(bounds())
    load(server, SECOND_NS // 32_000)
    assert server.answered[0] >= 0.98 * 16_000
    assert max(server.waits_ns) <= ALLOWANCES_NS[Priority.NORMAL]
    assert set(server.refused) == {(0, "budget")}


def test_a_deadline_that_the_queue_would_use_up_is_refused() -> None:
    server = Server(bounds())
    for row in range(4 * BATCH_ROWS_MAX):
        server.arrive(START_NS + row)
    wait_ns = server.admission.wait_ns(START_NS + 200)
    deadline_ns = START_NS + 200 + GATE_NS + BATCH_NS
    assert server.arrive(START_NS + 200, deadline_ns=deadline_ns) == Verdict(
        "overload", START_NS + 200 + wait_ns - deadline_ns
    )
    assert server.arrive(START_NS + 200, deadline_ns=deadline_ns - 1) == Verdict("deadline", 0)
    assert server.arrive(START_NS + 200, deadline_ns=START_NS + 200 + wait_ns) is None


def test_an_engine_that_jitters_refuses_earlier() -> None:
    admission = Admission(bounds(), batcher := Batcher[int]())
    admission.set_batch_ns(BATCH_NS)
    now_ns = START_NS
    for number in range(200):
        batcher.add(number, now_ns)
        closed = batcher.poll(now_ns + GATE_NS)
        assert closed is not None
        admission.admitted(0)
        admission.taken(closed.closed_ns, [0])
        now_ns = closed.closed_ns + (BATCH_NS // 2 if number % 2 else BATCH_NS * 3 // 2)
        admission.finished(now_ns)
    assert admission.batch_ns == pytest.approx(BATCH_NS, rel=0.1)
    assert admission.deviation_ns == pytest.approx(BATCH_NS / 2, rel=0.15)
    assert admission.wait_ns(now_ns) == GATE_NS + admission.batch_ns + DEVIATIONS * admission.deviation_ns


def test_a_batch_that_is_overdue_is_expected_to_last_as_long_again() -> None:
    server = Server(bounds(), batch_ns=BATCH_NS)
    for row in range(BATCH_ROWS_MAX):
        server.arrive(START_NS + row)
    late_ns = START_NS + BATCH_ROWS_MAX - 1 + 10 * BATCH_NS
    closed = server.batcher.poll(late_ns)
    assert closed is not None
    server.admission.taken(closed.closed_ns, [0] * BATCH_ROWS_MAX)
    assert server.admission.wait_ns(late_ns) == 9 * BATCH_NS + BATCH_NS


def test_low_priority_is_refused_first_and_high_last() -> None:
    callers = (Priority.HIGH, 1), (Priority.NORMAL, 1), (Priority.LOW, 1)
    server, refused_at = Server(bounds(*callers)), dict[int, tuple[int, str]]()
    for row in range(1_024):
        for caller in (0, 1, 2):
            verdict = server.admission.refuse(START_NS + row, 0, caller)
            if verdict is not None and verdict.reason != "fairness":
                refused_at.setdefault(caller, (row, verdict.reason))
        server.batcher.add((0, START_NS), START_NS + row)
    assert [refused_at[caller][1] for caller in (2, 1, 0)] == ["priority", "budget", "budget"]
    rows = [refused_at[caller][0] for caller in (2, 1, 0)]
    assert rows == sorted(rows)
    # All that lies ahead of the first row refused, and its own batch, is just over the allowance.
    for row, caller in zip(rows, (2, 1, 0), strict=True):
        assert (row // BATCH_ROWS_MAX + 1) * BATCH_NS == pytest.approx(ALLOWANCES_NS[caller], abs=1.5 * BATCH_NS)


@pytest.mark.parametrize(("weights", "floor"), [((1, 1), 1.0), ((9, 1), 0.75)])
def test_a_caller_at_ten_times_does_not_push_out_the_others(weights: tuple[int, int], floor: float) -> None:
    """16,000/s are answered; one caller sends 40,000/s, the other 4,000/s: less than half, more than a tenth."""
    server = Server(bounds(*((Priority.NORMAL, weight) for weight in weights)))
    load(server, SECOND_NS // 40_000, SECOND_NS // 4_000)
    fair = min(4_000, 16_000 * weights[1] / sum(weights))
    assert server.answered[1] >= 0.97 * floor * fair
    assert server.answered.total() >= 0.98 * 16_000
    assert server.refused[0, "fairness"] > 0


def test_idle_shares_are_lent() -> None:
    server = Server(bounds((Priority.NORMAL, 1), (Priority.NORMAL, 99)))
    load(server, SECOND_NS // 32_000)
    assert server.answered[0] >= 0.98 * 16_000
    assert (0, "fairness") not in server.refused


def test_without_a_budget_only_deadlines_and_the_queue_refuse() -> None:
    server = Server(bounds(budget_ns=0), batch_ns=SECOND_NS)
    load(server, SECOND_NS // 32_000, seconds=0.1)
    assert set(server.refused) == {(0, "queue_full")}
