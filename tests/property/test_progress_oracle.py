"""Counters between samples against a walk from sample to sample, and what of it names a cause."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.latency.budget import Budget
from fraudgate.latency.causes import explain
from fraudgate.latency.lateness import Sample
from fraudgate.latency.progress import Counted, Progress
from fraudgate.latency.timeline import Event

MS = 1_000_000
steps = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=8)
spans = st.lists(st.tuples(st.integers(-30, 300), st.integers(0, 200)), min_size=1, max_size=5)


def walked(at: list[int], totals: list[int], start: int, end: int) -> float:
    """What each step between two samples adds to start..end."""
    grown = 0.0
    for begin, until, before, after in zip(at, at[1:], totals, totals[1:], strict=False):
        inside = max(min(end, until) - max(start, begin), 0)
        grown += (after - before) * inside / (until - begin)
    return grown


@given(steps, spans)
@settings(max_examples=200, deadline=None)
def test_a_counter_grows_evenly_between_its_samples(steps: list[tuple[int, int]], spans: list[tuple[int, int]]) -> None:
    at, totals = (np.cumsum(column).tolist() for column in zip((0, 0), *steps, strict=True))
    start = np.array([begin for begin, _ in spans])
    end = start + [length for _, length in spans]
    expected = [walked(at, totals, *span) for span in zip(start.tolist(), end.tolist(), strict=True)]
    counted = Counted(np.array(at), np.array(totals, np.float64))
    assert counted.grown(start, end).tolist() == pytest.approx(expected)
    assert (counted.between(start, end) <= end - start).all()


def cause_of(ticks: list[Sample], front_ms: float = 0.0, usual: float = 3e-6) -> str:
    """Of a row that waited from 0 to 100 ms."""
    progress = Progress()
    for tick in (Sample(), *ticks):
        progress.add(tick, usual)
    progress.add_front(0, 0)
    progress.add_front(100 * MS, round(front_ms * MS))
    stamps = np.array([[0], [100 * MS], [100 * MS], [100 * MS], [100 * MS]])
    assert progress.reaches(100 * MS)
    return explain(stamps, stamps[0], [], Budget.default(), progress.measures())[0]


def test_the_larger_share_of_the_wait_names_the_cause() -> None:
    """Ticks every 10 ms; a batch of 32 takes 2 ms."""

    def ticks(batches: int, waiting_ms: float, worked_ms: float) -> list[Sample]:
        each = (round(ms * MS) for ms in (10, 1, waiting_ms, worked_ms))
        step = (*each, 32 * batches, batches)
        return [Sample(*(n * number for number in step)) for n in range(1, 11)]

    assert cause_of(ticks(5, 0, 10)) == "burst"
    assert cause_of(ticks(5, 0, 10), usual=15e-6) == "overload", "as many as ever"
    assert cause_of(ticks(4, 2, 10)) == "burst", "others had the CPUs for the smaller part"
    assert cause_of(ticks(1, 8, 10)) == "cpu_wait"
    assert cause_of(ticks(1, 1, 2), front_ms=80) == "front_wait"
    assert cause_of(ticks(0, 2, 0), front_ms=20) == "cpu_wait", "one after the other they are enough"
    assert cause_of(ticks(0, 0, 0)) == "unexplained"


@pytest.mark.parametrize(
    ("ticks_ms", "witness", "taken_up_ms", "cause"),
    [
        # (when, ran, waited for a CPU, worked), since the first. Sixty neighbours: the loop itself kept the interpreter
        # without a CPU, and the witness asked for it in vain.
        (
            [(-174.8, 0.0, 0.0, 0.0), (61.9, 4.7, 228.0, 2.4), (202.2, 8.7, 361.4, 3.9)],
            ("interpreter", 56.2, 159.9),
            201.7,
            "cpu_wait",
        ),
        # A thread kept the interpreter: each time that the loop asked for it, it waited a little for a CPU, too.
        (
            [(-13.0, 0.0, 0.0, 0.0), (0.1, 0.8, 2.2, 0.4), (124.6, 2.8, 42.6, 0.7), (135.8, 5.3, 43.5, 0.9)],
            ("interpreter", -3.0, 123.4),
            125.4,
            "interpreter",
        ),
        # SIGSTOP.
        (
            [(-11.5, 0.0, 0.0, 0.0), (-0.2, 2.2, 0.7, 1.8), (125.8, 2.9, 3.2, 2.1), (136.8, 4.1, 4.2, 2.4)],
            ("cpu_steal", -12.6, 123.7),
            126.9,
            "cpu_steal",
        ),
    ],
)
def test_what_the_loop_waited_for_a_cpu_is_not_what_another_thread_saw(
    ticks_ms: list[tuple[float, ...]], witness: tuple[str, float, float], taken_up_ms: float, cause: str
) -> None:
    """Recorded of a server under load; the row arrived at 0."""
    progress = Progress()
    for tick_ms in ticks_ms:
        progress.add(Sample(*(round(ms * MS) for ms in tick_ms)), 2e-6)
    name, *seen_ms = witness
    event = Event(name, *(round(ms * MS) for ms in seen_ms))
    stamps = np.array([[0], *[[round(taken_up_ms * MS)]] * 4])
    assert explain(stamps, stamps[0], [event], Budget.default(), progress.measures()) == [cause]
