"""Why a thread was late: it ran something else, waited for a CPU, was blocked, or nothing of the process ran at all."""

from typing import NamedTuple

from fraudgate.limits import BATCH_ROWS_MAX, MILLISECOND_NS, SECOND_NS

SWITCH_NS = 5 * MILLISECOND_NS
"""Python's own switch interval; ``serve`` asks for a tenth."""
USUAL_NS = 60 * SECOND_NS
_SWITCHES_ASIDE = 2
_FULL_ROWS = BATCH_ROWS_MAX * 3 // 4


class Sample(NamedTuple):
    """What the scoring loop had done by ``now_ns``; each number only grows. Nanoseconds."""

    now_ns: int = 0
    cpu_ns: int = 0
    """It ran."""
    waiting_ns: int = 0
    """It was ready to run, and no CPU was free."""
    worked_ns: int = 0
    """It had a batch, from take-up to decision."""
    rows: int = 0
    """Decided, or refused at take-up because their budget was spent."""
    batches: int = 0


def cause_of(before: Sample, now: Sample, late_ns: int) -> str | None:
    """What the loop did most of the time that it was late for its tick; None where it worked on batches."""
    ran_ns, waited_ns = now.cpu_ns - before.cpu_ns, now.waiting_ns - before.waiting_ns
    worked_ns = now.worked_ns - before.worked_ns
    shares_ns = {"cpu_wait": waited_ns, "busy_spin": ran_ns, "lock": late_ns - ran_ns - waited_ns}
    most = max(shares_ns, key=lambda cause: shares_ns[cause])
    if most == "busy_spin":
        # Answers are rendered and recorded outside a batch's stamps, for less time than lies within.
        return most if 2 * (ran_ns - 2 * worked_ns) >= ran_ns else None
    return None if most == "lock" and 2 * worked_ns >= late_ns else most


class Rate:
    """Rows a nanosecond, as usual: a moving average over some ``USUAL_NS``."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    @property
    def usual(self) -> float:
        """0 before the first sample."""
        return self._sum / self._weight if self._weight else 0.0

    def overload_of(self, before: Sample, now: Sample) -> str | None:
        """ "burst" or "overload" where the loop was busy with full batches between the two, else None."""
        span_ns, rows, batches = now.now_ns - before.now_ns, now.rows - before.rows, now.batches - before.batches
        if span_ns <= 0:
            return None
        busy_ns = max(now.worked_ns - before.worked_ns, now.cpu_ns + now.waiting_ns - before.cpu_ns - before.waiting_ns)
        rate, usual = rows / span_ns, self.usual
        share = min(span_ns / USUAL_NS, 1.0)
        self._sum += (rate - self._sum) * share
        self._weight += (1.0 - self._weight) * share
        if rows < _FULL_ROWS * max(batches, 1) or 2 * busy_ns < span_ns:
            return None
        return "burst" if rate >= 2 * usual else "overload"


def cause_of_sleeper(late_ns: int, waited_ns: int, switches: int, switch_ns: int = SWITCH_NS) -> str | None:
    """What a thread that slept shows by waking up so late; None where others had the CPUs, or where it cannot tell.

    waited_ns: that it waited for a CPU. switches: its voluntary ones; one that wakes up in time and then waits for the
    interpreter makes one every ``switch_ns`` or little less often; one that could not wake up, as nothing of the
    process could, makes none, and a few after it, when all threads want the interpreter.
    """
    asked_ns, still_ns = max(switches - _SWITCHES_ASIDE, 0) * switch_ns, late_ns - waited_ns
    if 2 * waited_ns >= late_ns:  # for a CPU, each time that it asked: too seldom to tell, or again and again in vain
        return "interpreter" if asked_ns > late_ns else None
    if 2 * asked_ns > still_ns:
        return "interpreter"
    return "cpu_steal" if 4 * asked_ns <= still_ns else None
