"""Who disturbs the scoring loop: how late its timers run, and when the garbage collector may.

A bad tail beside a quiet loop is the engine's; beside a loud one it is ours. ``StallMeter`` and ``GcKeeper`` decide and
know no clock; ``LoopWatch`` is the only part that waits.
"""

import asyncio
import gc
from collections.abc import Callable, Mapping
from time import thread_time_ns
from typing import Any

from fraudgate.clock import Clock, monotonic_ns
from fraudgate.latency.lateness import Rate, Sample, cause_of
from fraudgate.latency.progress import Progress
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.scheduler import RunQueue
from fraudgate.latency.timeline import Event, SlowRuns, Timeline
from fraudgate.limits import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS

TICK_NS = 10 * MILLISECOND_NS

# Shorter ones are recorded, but explain no slow decision.
NOTED_STALL_NS = 2 * MILLISECOND_NS
NOTED_PAUSE_NS = 100 * MICROSECOND_NS

# A step of the collector visits young objects only, at most 0.1 us each: these sizes keep it under 1 ms.
YOUNG_OBJECTS_IDLE_MAX = 500
YOUNG_OBJECTS_BUSY_MAX = 2_000
YOUNG_STEPS_MAX = 4
MIDDLE_INTERVAL_NS_MAX = 5 * SECOND_NS

# A full collection visits everything made since the start: only in a quiet hour, and the dearer the rarer.
FULL_QUIET_NS_MIN = 2 * SECOND_NS
FULL_INTERVAL_NS_MIN = 60 * SECOND_NS
FULL_QUIET_PER_PAUSE = 100
FULL_INTERVAL_PER_PAUSE = 1_000


class StallMeter:
    """How late a periodic tick ran. Shorter than the event loop's timer resolution (1 ms in uvloop) is noise."""

    def __init__(self, tick_ns: int = TICK_NS) -> None:
        self.tick_ns = tick_ns
        self._due_ns = 0

    def arm(self, now_ns: int) -> None:
        """The next tick is due ``tick_ns`` from now."""
        self._due_ns = now_ns + self.tick_ns

    def late_ns(self, now_ns: int) -> int:
        """How late the tick that runs now is; 0 for one that came early, as rounded timers may."""
        return max(0, now_ns - self._due_ns)


class GcKeeper:
    """Decides which generation to collect when the automatic collector is off.

    Young objects are collected in small steps, sooner when idle; when never idle still by size and every
    ``MIDDLE_INTERVAL_NS_MAX``, so that cyclic garbage among them does not pile up. What outlives two steps waits for a
    full collection, which runs only after the service has been quiet for a while.
    """

    def __init__(self, now_ns: int) -> None:
        self._quiet_since_ns: int | None = None
        self._middle_ns = now_ns
        self._full_ns = now_ns
        self._full_pause_ns = 0

    def choose(self, now_ns: int, idle: bool, young_objects: int, young_steps: int) -> int | None:
        """The generation to collect now, or None.

        ``young_objects`` and ``young_steps`` are the first two numbers of ``gc.get_count()``.
        """
        if not idle:
            self._quiet_since_ns = None
        elif self._quiet_since_ns is None:
            self._quiet_since_ns = now_ns
        if self._full_is_due(now_ns):
            return 2
        if young_steps >= YOUNG_STEPS_MAX or now_ns - self._middle_ns >= MIDDLE_INTERVAL_NS_MAX:
            return 1
        if young_objects >= (YOUNG_OBJECTS_IDLE_MAX if idle else YOUNG_OBJECTS_BUSY_MAX):
            return 0
        return None

    def collected(self, generation: int, now_ns: int, pause_ns: int) -> None:
        """Tell that ``generation`` has been collected, ending at ``now_ns`` after ``pause_ns``."""
        if generation >= 1:
            self._middle_ns = now_ns
        if generation == 2:
            self._full_ns, self._full_pause_ns = now_ns, pause_ns

    def _full_is_due(self, now_ns: int) -> bool:
        if self._quiet_since_ns is None:
            return False
        quiet_ns = max(FULL_QUIET_NS_MIN, FULL_QUIET_PER_PAUSE * self._full_pause_ns)
        interval_ns = max(FULL_INTERVAL_NS_MIN, FULL_INTERVAL_PER_PAUSE * self._full_pause_ns)
        return now_ns - self._quiet_since_ns >= quiet_ns and now_ns - self._full_ns >= interval_ns


class GcPauses:
    """A ``gc.callbacks`` entry that records every collection, whoever started it, as stage ``gc_pause``.

    It stands in the timeline from its beginning on: the thread that collected may wait long until it can say the end.
    """

    def __init__(self, recorder: Recorder, clock: Clock = monotonic_ns, timeline: Timeline | None = None) -> None:
        self._recorder, self._clock = recorder, clock
        self._timeline = timeline or Timeline()
        self._begun: Event | None = None

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        now_ns = self._clock()
        if phase == "start":
            self._begun = self._timeline.begin("gc", now_ns)
            return
        begun, self._begun = self._begun, None
        if begun is None:  # it had begun before somebody listened
            return
        self._timeline.end(begun)
        self._recorder.record_one("gc_pause", now_ns - begun.start_ns)
        if now_ns - begun.start_ns >= NOTED_PAUSE_NS:
            self._timeline.note("gc", begun.start_ns, now_ns, f"generation {info['generation']}")


class LoopWatch:
    """The asyncio shell: one timer on the scoring loop that measures stalls and takes the collector's steps.

    ``idle`` says whether no entry waits and no batch runs; a tick since which a batch was counted is not idle either.
    Start it on the loop, after everything that stays has been loaded.
    """

    def __init__(
        self,
        recorder: Recorder,
        counters: Counters,
        idle: Callable[[], bool],
        clock: Clock = monotonic_ns,
        timeline: Timeline | None = None,
        runs: SlowRuns | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``runs``: what the batches took; without it stalls are noted, and not why. ``progress``: takes samples."""
        self._recorder, self._counters, self._idle, self._clock = recorder, counters, idle, clock
        self._timeline = timeline or Timeline()
        self._runs, self._progress = runs, progress
        self._queue: RunQueue | None = None
        self._sample, self._rate = Sample(), Rate()
        self._meter = StallMeter()
        self._keeper = GcKeeper(clock())
        self._pauses = GcPauses(recorder, clock, self._timeline)
        self._timer: asyncio.TimerHandle | None = None
        self._batches = 0

    def start(self) -> None:
        """Take the collector off the scoring path: what is there now is never visited again; then tick."""
        gc.collect()
        gc.freeze()
        gc.disable()
        gc.callbacks.append(self._pauses)
        self._queue = RunQueue()
        self._sample = self._sampled(self._clock())
        self._arm()

    def stop(self) -> None:
        """Stop ticking and give the collector back. Does nothing when not started."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        if self._queue is not None:
            self._queue.close()
        gc.callbacks.remove(self._pauses)
        gc.unfreeze()
        gc.enable()

    def _arm(self) -> None:
        self._meter.arm(self._clock())
        self._timer = asyncio.get_running_loop().call_later(self._meter.tick_ns / SECOND_NS, self._tick)

    def _tick(self) -> None:
        now_ns = self._clock()
        late_ns = self._meter.late_ns(now_ns)
        self._recorder.record_one("loop_stall", late_ns)
        if late_ns >= NOTED_STALL_NS:
            self._timeline.note("loop_stall", now_ns - late_ns, now_ns)
        if self._runs is not None:
            self._note_why(now_ns, late_ns)
        young_objects, young_steps, _ = gc.get_count()
        generation = self._keeper.choose(now_ns, self._quiet(), young_objects, young_steps)
        if generation is not None:
            gc.collect(generation)
            end_ns = self._clock()
            self._keeper.collected(generation, end_ns, end_ns - now_ns)
        self._arm()

    def _note_why(self, now_ns: int, late_ns: int) -> None:
        before, self._sample = self._sample, self._sampled(now_ns)
        if self._progress is not None:
            self._progress.add(self._sample, self._rate.usual)
        overload = self._rate.overload_of(before, self._sample)
        cause = cause_of(before, self._sample, late_ns) if late_ns >= NOTED_STALL_NS else None
        if cause:
            waited_ns = self._sample.waiting_ns - before.waiting_ns
            self._timeline.note(cause, now_ns - max(late_ns, waited_ns), now_ns)
        if overload and cause in (None, "cpu_wait"):  # what came while it did something else are many, too
            self._timeline.prolong(overload, before.now_ns, now_ns)
        if late_ns >= NOTED_STALL_NS and self._timeline.touches("swap", before.now_ns, now_ns):
            self._timeline.note("swap", now_ns - late_ns, now_ns, "the scoring loop stood still with it")

    def _sampled(self, now_ns: int) -> Sample:
        runs, waiting_ns = self._runs, self._queue.waiting_ns() if self._queue else 0
        if runs is None:
            return Sample(now_ns)
        return Sample(now_ns, thread_time_ns(), waiting_ns, runs.worked_ns, runs.rows, runs.batches)

    def _quiet(self) -> bool:
        batches, self._batches = self._batches, self._counters.batches
        return batches == self._counters.batches and self._idle()
