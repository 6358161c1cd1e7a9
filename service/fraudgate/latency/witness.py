"""A second pair of eyes: a thread that sleeps, and sees by when it wakes up what the scoring loop cannot see by itself.

When it too wakes up late, and neither waited for a CPU nor for the interpreter, the whole process stood still. It also
looks how long the front end's threads waited for a CPU, and settles what was over the budget.
"""

import resource
import threading

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
        while not self._sleep(own, front):
            self._overruns.settle(self._clock())
        own.close()
        front.close()

    def _sleep(self, own: RunQueue, front: RunQueues) -> bool:
        """Sleep, and note what that shows; True at the end."""
        waiting_ns, switches = own.waiting_ns(), _switches()
        front_ns = front.waiting_ns()
        due_ns = self._clock() + PERIOD_NS
        ended = self._end.wait(PERIOD_NS / SECOND_NS)
        now_ns = self._clock()
        late_ns = now_ns - due_ns
        if late_ns >= NOTED_STILL_NS:
            cause = cause_of_sleeper(late_ns, own.waiting_ns() - waiting_ns, _switches() - switches)
            if cause:  # it may have begun at any time of the sleep; what was decided meanwhile is not late
                self._timeline.note(cause, due_ns - PERIOD_NS, now_ns)
        waiting_ns = front.waiting_ns()
        if front:
            self._overruns.progress.add_front(now_ns, waiting_ns)
        waited_ns = waiting_ns - front_ns
        if waited_ns >= NOTED_WAIT_NS:
            self._timeline.note("front_wait", now_ns - waited_ns, now_ns)
        return ended


def _switches() -> int:
    """Voluntary context switches of this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
