"""The ledger: what each decision took from its arrival to its bytes, beside the sum of its stages and its own budget.

The stages come from the stamps of the answer row; the whole from the front end's own two: when the transaction was
admitted, and when its bytes were handed over. The native front end settles by itself (``server/ledger.rs``); this is
what it is held to, and what ``grpc.aio`` uses.
"""

import numpy as np

from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import MICROSECOND_NS
from fraudgate.transaction import NEVER_NS, Answers, Int64

TOLERANCE_NS = 50 * MICROSECOND_NS
"""Stages and the whole may differ by so much."""
MISMATCHES = "fraudgate_ledger_mismatch_total"
_STAMPS = ("arrival_ns", "taken_up_ns", "gathered_ns", "inferred_ns", "answered_ns")


class Ledger:
    """Where decisions are settled. ``budget_ns``: of one without a deadline, and the most of one with; 0 = none."""

    def __init__(self, recorder: Recorder, counters: Counters, budget_ns: int) -> None:
        self._recorder, self._counters, self._budget_ns = recorder, counters, budget_ns

    def settle(self, rows: Answers, arrival_ns: Int64, deadline_ns: Int64, sent_ns: int) -> None:
        """Record answers whose bytes were handed over at ``sent_ns``: ANSWER_DTYPE[n], int64[n], int64[n] (0 = none).

        Replays are no decisions, and are left out.
        """
        replayed = rows["replayed"]
        if np.count_nonzero(replayed):
            made = ~replayed
            rows, arrival_ns, deadline_ns = rows[made], arrival_ns[made], deadline_ns[made]
            if not len(rows):
                return
        stages_ns = np.empty((len(_STAMPS), len(rows)), np.int64)
        for stage_ns, name, end in zip(stages_ns, _STAMPS, _STAMPS[1:], strict=False):
            np.subtract(rows[end], rows[name], out=stage_ns)
        np.subtract(sent_ns, rows[_STAMPS[-1]], out=stages_ns[-1])
        whole_ns = sent_ns - arrival_ns
        self._recorder.record("respond", stages_ns[-1])
        self._recorder.record("whole", whole_ns)
        self._record_spent(whole_ns, arrival_ns, deadline_ns)
        # As they are recorded: a stage below 0, of a clock that went back, counts as 0.
        differs_ns = np.add.reduce(np.maximum(stages_ns, 0)) - whole_ns
        mismatches = int(np.count_nonzero(np.abs(differs_ns) > TOLERANCE_NS))
        if mismatches:
            self._counters.count(MISMATCHES, mismatches)

    def _record_spent(self, whole_ns: Int64, arrival_ns: Int64, deadline_ns: Int64) -> None:
        """The share of its budget that each row took, per mille."""
        budget_ns = np.minimum(
            np.where(deadline_ns > 0, deadline_ns - arrival_ns, NEVER_NS), self._budget_ns or NEVER_NS
        )
        bound = budget_ns < NEVER_NS
        per_mille = np.maximum(whole_ns, 0)[bound] * 1_000 // np.maximum(budget_ns[bound], 1)
        self._recorder.record("budget_spent", per_mille)
