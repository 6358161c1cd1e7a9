"""A second pair of eyes: a thread that sleeps, and sees by when it wakes up what the scoring loop cannot see by itself.

When it too wakes up late, and neither waited for a CPU nor for the interpreter, the whole process stood still. It also
looks how long the front end's threads waited for a CPU, and settles what was over the budget; a process that stands
still meanwhile is seen by how long that took.
"""

import resource
import sys
import threading
from time import thread_time_ns
from typing import NamedTuple

from fraudgate.clock import Clock, monotonic_ns
from fraudgate.latency.lateness import cause_of_sleeper
from fraudgate.latency.overruns import SETTLED_NS, Overruns
from fraudgate.latency.scheduler import RunQueue, RunQueues
from fraudgate.latency.timeline import Timeline
from fraudgate.limits import MILLISECOND_NS, SECOND_NS

PERIOD_NS = 20 * MILLISECOND_NS
NOTED_STILL_NS = 20 * MILLISECOND_NS
NOTED_WAIT_NS = 5 * MILLISECOND_NS
FRONT_END = "ingress"
"""The native front end's threads."""


class Look(NamedTuple):
    """What the thread has done by some instant from ``now_ns`` to ``then_ns``: it may lose its CPU while it looks."""

    now_ns: int
    ran_ns: int
    waiting_ns: int
    """For a CPU."""
    switches: int
    """Voluntary ones."""
    then_ns: int

    def cause(self, late_ns: int, before: "Look") -> str | None:
        """See ``cause_of_sleeper``; ``late_ns``: of the time between the two."""
        waited_ns, switches = self.waiting_ns - before.waiting_ns, self.switches - before.switches
        return cause_of_sleeper(late_ns, waited_ns, switches, round(sys.getswitchinterval() * SECOND_NS))


class Witness:
    """Start it when the front end's threads are there."""

    def __init__(self, timeline: Timeline, overruns: Overruns, clock: Clock = monotonic_ns) -> None:
        self._timeline, self._overruns, self._clock = timeline, overruns, clock
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, and settle everything. Does nothing when not started."""
        if self._thread.is_alive():
            self._end.set()
            self._thread.join()
            self._overruns.settle(self._clock() + SETTLED_NS)

    def _run(self) -> None:
        own, front = RunQueue(), RunQueues(FRONT_END)
        awake, ended = self._look(own), False
        while not ended:
            asleep = self._look(own)
            self._note_still(awake, asleep)
            front_ns = front.waiting_ns()
            ended = self._end.wait(PERIOD_NS / SECOND_NS)
            awake = self._look(own)
            self._note_late(asleep, awake)
            self._look_at(front, front_ns)
            if not ended:
                self._overruns.settle(self._clock())
        own.close()
        front.close()

    def _look(self, own: RunQueue) -> Look:
        return Look(self._clock(), thread_time_ns(), own.waiting_ns(), _switches(), self._clock())

    def _note_late(self, asleep: Look, awake: Look) -> None:
        late_ns = awake.now_ns - asleep.then_ns - PERIOD_NS
        if late_ns >= NOTED_STILL_NS:
            cause = awake.cause(late_ns, asleep)
            if cause:  # it may have begun at any time of the sleep; what was decided meanwhile is not late
                self._timeline.note(cause, asleep.then_ns, awake.now_ns)

    def _note_still(self, awake: Look, asleep: Look) -> None:
        """While it works it shares the interpreter, which shows nothing; that it stood still without running does."""
        still_ns = asleep.now_ns - awake.then_ns - (asleep.ran_ns - awake.ran_ns)
        if still_ns >= NOTED_STILL_NS and asleep.cause(still_ns, awake) == "cpu_steal":
            self._timeline.note("cpu_steal", awake.then_ns, asleep.now_ns)

    def _look_at(self, front: RunQueues, before_ns: int) -> None:
        now_ns, waiting_ns = self._clock(), front.waiting_ns()
        if front:
            self._overruns.progress.add_front(now_ns, waiting_ns)
        if waiting_ns - before_ns >= NOTED_WAIT_NS:
            self._timeline.note("front_wait", now_ns - (waiting_ns - before_ns), now_ns)


def _switches() -> int:
    """Voluntary context switches of this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
