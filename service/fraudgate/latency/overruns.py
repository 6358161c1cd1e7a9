"""Every transaction over the budget, counted by its cause: decided late, or refused at take-up because it was spent.

The scoring loop appends each batch of which a row was late; ``settle`` looks at them on another thread, after
``SETTLED_NS``: what was noted a little late is then in the timeline.
"""

from collections import deque

import numpy as np

from fraudgate.latency.budget import Budget
from fraudgate.latency.causes import STAMPS, backlogs, explain, stamps_of
from fraudgate.latency.progress import Progress
from fraudgate.latency.recorder import Counters
from fraudgate.latency.spans import Spans, spans_of
from fraudgate.latency.timeline import SlowRuns, Timeline
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.transaction import Answers, Int64, joined

SETTLED_NS = 100 * MILLISECOND_NS
BATCHES_MAX = 16_384
"""That nobody has looked at: many times what one period decides. Of more the oldest are forgotten."""
SPENT_MAX = 262_144
_LOOK_BACK_NS = 5 * SECOND_NS
_UNSAMPLED_NS = SECOND_NS


class Overruns:
    """``record_batch`` and ``record_spent`` on the scoring loop, ``settle`` on one other thread."""

    def __init__(self, timeline: Timeline, budget: Budget, counters: Counters) -> None:
        self._timeline, self._budget, self._counters = timeline, budget, counters
        self._total_ns = budget.total_ns
        self.runs = SlowRuns(timeline, budget)
        """It has to be told of every batch, too."""
        self.progress = Progress()
        """Samples of the threads, from who ticks."""
        self._decided: deque[Answers] = deque(maxlen=BATCHES_MAX)
        self._spent: deque[tuple[int, int]] = deque(maxlen=SPENT_MAX)
        self._late: deque[Int64] = deque()
        self._since_ns = self._until_ns = 0

    def record_batch(self, decided: Answers, spans: Spans | None = None) -> None:
        """Take rows decided now, ANSWER_DTYPE[n], which nobody may change from here on."""
        if (spans or spans_of(decided))[0] > self._total_ns:
            self._decided.append(decided)

    def record_spent(self, span_ns: tuple[int, int]) -> None:
        """Take arrival and take-up of a row that was then refused because its budget was spent."""
        self.runs.rows += 1
        self._spent.append(span_ns)

    def settle(self, now_ns: int) -> None:
        """Count what ended over its budget at least ``SETTLED_NS`` ago."""
        for stamps_ns in (self._late_of_decided(), self._late_of_spent()):
            if stamps_ns is not None and stamps_ns.size:
                self._late.append(stamps_ns)
        due: list[Int64] = []
        while self._late and self._is_settled(int(self._late[0][-1].max()), now_ns):
            due.append(self._late.popleft())
        if due:
            self._count(np.concatenate(due, axis=1))

    def _is_settled(self, ended_ns: int, now_ns: int) -> bool:
        """What was noted late is in the timeline, and the loop has ticked since, or will not soon."""
        reaches = self.progress.reaches(ended_ns) or ended_ns <= now_ns - _UNSAMPLED_NS
        return reaches and ended_ns <= now_ns - SETTLED_NS

    def _late_of_decided(self) -> Int64 | None:
        """int64[5, n]."""
        decided = [self._decided.popleft() for _ in range(len(self._decided))]
        if not decided:
            return None
        rows = joined(decided)
        late = rows["answered_ns"] - rows["arrival_ns"] > self._total_ns
        return stamps_of(rows[late]) if late.any() else None

    def _late_of_spent(self) -> Int64 | None:
        """int64[5, n]: all they did was to queue."""
        spent = [self._spent.popleft() for _ in range(len(self._spent))]
        if not spent:
            return None
        arrival_ns, taken_up_ns = np.array(spent, np.int64).T
        return np.stack([arrival_ns, *[taken_up_ns] * (len(STAMPS) - 1)])

    def _count(self, stamps_ns: Int64) -> None:
        stamps_ns = stamps_ns[:, np.argsort(stamps_ns[0], kind="stable")]
        arrivals_ns, taken_up_ns = stamps_ns[:2].tolist()
        found = backlogs(list(zip(arrivals_ns, taken_up_ns, strict=True)), self._since_ns, self._until_ns)
        self._since_ns, self._until_ns = found[-1]
        since_ns = np.minimum([since_ns for since_ns, _ in found], stamps_ns[0])
        since_ns = np.maximum(since_ns, stamps_ns[0] - _LOOK_BACK_NS)
        events = self._timeline.since(int(since_ns.min())).events
        for cause in explain(stamps_ns, since_ns, events, self._budget, self.progress.measures()):
            self._counters.count_over_budget(cause)
