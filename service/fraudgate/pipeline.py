"""The way of a batch, top to bottom: from a request RecordBatch to its answers.

    drop the dead -> validate -> claim ids -> apply and gather -> pack -> infer -> guard -> answer -> record, log

Everything up to *apply* may refuse a row, and leaves no trace of it. After *apply* there is no way back: the decision
is made and kept, whatever fails. Batches are taken up and answered in order; at most ``limits.SLABS`` are in flight.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fraudgate.claims import Claims
from fraudgate.clock import Clock
from fraudgate.drift.watch import DriftWatch
from fraudgate.engines.base import Inference
from fraudgate.engines.routes import Batch, Route, Verdict
from fraudgate.features.schema import Attribute
from fraudgate.features.store import FeatureStore, Gathered, Unapplied
from fraudgate.guardrails.decision import UNSCORED, Thresholds
from fraudgate.guardrails.drafts import Head, draft, draft_levels
from fraudgate.guardrails.inputs import inputs_of
from fraudgate.guardrails.rules import RuleSet
from fraudgate.idempotency import IdempotencyTable
from fraudgate.ladder import Ladder
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BUDGET_NS
from fraudgate.tensors import Slab, quiet_context
from fraudgate.transaction import (
    ANSWER_DTYPE,
    Answers,
    Columns,
    Decision,
    Fallback,
    Float32,
    Float64,
    Mark,
    Request,
    Status,
    decided_rows,
    open_batch,
    record,
)
from fraudgate.validation import Validator

_log = logging.getLogger(__name__)

CANCELLED_NS = -1
"""A ``deadline_ns`` that says the caller is gone."""

Refused = dict[int, tuple[Status, int]]
"""The rows that end with a status other than OK: that status, and the problem's number or 0."""


class Log(Protocol):
    """Where batches are kept for replay."""

    def append(self, batch: Request, features: Float64, answers: Answers, closed_ns: int, idle_ns: int) -> bool:
        """Take one answered batch; False when it had to be dropped (counted by the log)."""
        ...


@dataclass(frozen=True, slots=True)
class Live:
    """What decides right now; replaced as a whole, between two batches."""

    inference: Inference
    thresholds: Thresholds
    rules: RuleSet
    edition: int
    routes: tuple[Route, ...] = ()
    """Other engines at work on every batch, in this order."""


class Pipeline:
    """Scores batches. It names ports only; ``app`` puts the adapters in."""

    def __init__(
        self,
        *,
        live: Live,
        store: FeatureStore,
        slabs: Sequence[Slab],
        validator: Validator,
        idempotency: IdempotencyTable | None,
        recorder: Recorder,
        counters: Counters,
        log: Log | None,
        clock: Clock,
        event_time_ns_max: Clock,
        budget_ns: int = BUDGET_NS,
        drift: DriftWatch | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self.live = live
        self.store = store
        self.idempotency = idempotency
        self._slabs = slabs
        self._free_slots = list(range(len(slabs)))
        self._validator = validator
        self._recorder = recorder
        self._counters = counters
        self._log = log
        self._clock = clock
        self._event_time_ns_max = event_time_ns_max
        self._budget_ns = budget_ns
        self._drift = drift
        self._ladder = ladder or Ladder(store.schema, counters, clock)
        self._named_attributes = {each.attribute for each in store.schema.features if isinstance(each, Attribute)}
        self._quiet = quiet_context()
        self._sequence = 0
        self._turn = asyncio.Event()
        self._turn.set()

    async def score(
        self, batch: Request, closed_ns: int = 0, idle_ns: int = 0, columns: Columns | None = None
    ) -> Answers:
        """Decide one batch of 1..32 rows. Returns ANSWER_DTYPE[rows], a row for each row of the batch.

        ``columns``: the batch opened, where the caller has made it from them; else it is opened here.
        """
        taken_up_ns = self._clock()
        live = self.live
        columns = columns or open_batch(record(batch))
        my_turn, self._turn = self._turn, asyncio.Event()
        done = self._turn
        refused: Refused = {}
        claims = gathered = decided = watched = None
        try:
            rows = self._drop_dead(columns, refused, taken_up_ns)
            rows = self._validate(columns, rows, refused)
            claims = self._claim(columns, rows, refused, taken_up_ns)
            self._count_ignored_attributes(columns, claims.fresh)
            self._count_expired(columns, claims.fresh, taken_up_ns)
            gathered = self._apply_and_gather(columns, claims, refused, taken_up_ns)
            if gathered is not None:
                decided, watched = await self._decide_surely(live, columns, claims.fresh, gathered, taken_up_ns)
            if not my_turn.is_set():
                await my_turn.wait()
            answers = self._answer(columns, claims, decided, refused, taken_up_ns)
        except Exception:
            if claims is not None and gathered is None:
                self._release(claims)  # nothing was applied: a retry begins anew
            raise
        finally:
            done.set()
        try:
            self._record(decided, watched, claims, gathered)
            self._keep(batch, claims, gathered, answers, closed_ns, idle_ns)
        except Exception:  # bookkeeping must not cost the callers their decisions; it is loud in the log and counted
            _log.exception("a batch of %d was decided but not recorded", columns.rows)
            self._counters.count("fraudgate_recording_failures_total")
        return answers

    def _drop_dead(self, columns: Columns, refused: Refused, now_ns: int) -> list[int]:
        """Rows that are still worth deciding."""
        spent_ns = now_ns - self._budget_ns if self._budget_ns else -1
        deadline_ns_min, arrival_ns_min = columns.earliest()
        if deadline_ns_min > now_ns and arrival_ns_min > spent_ns:
            return list(range(columns.rows))
        stamps_ns = zip(columns.deadline_ns.tolist(), columns.arrival_ns.tolist(), strict=True)
        for row, (deadline_ns, arrival_ns) in enumerate(stamps_ns):
            if deadline_ns == CANCELLED_NS:
                self._refuse(refused, row, Status.CANCELLED, "cancelled")
            elif 0 < deadline_ns <= now_ns:
                self._refuse(refused, row, Status.DEADLINE_EXCEEDED, "deadline")
            elif arrival_ns <= spent_ns:
                self._refuse(refused, row, Status.RESOURCE_EXHAUSTED, "budget")
                self._recorder.record_spent(arrival_ns, now_ns)
        return [row for row in range(columns.rows) if row not in refused]

    def _count_expired(self, columns: Columns, fresh: list[int], taken_up_ns: int) -> None:
        """Rows about to be applied that ``_drop_dead`` should have dropped: from the stamps, and always 0."""
        if columns.earliest()[0] <= taken_up_ns:
            late = columns.deadline_ns[fresh]
            expired = np.count_nonzero((late != 0) & (late <= taken_up_ns))
            self._counters.count("fraudgate_expired_reached_engine_total", int(expired))

    def _refuse(self, refused: Refused, row: int, status: Status, reason: str, problem: int = 0) -> None:
        refused[row] = (status, problem)
        self._counters.count_refusal(reason)

    def _validate(self, columns: Columns, rows: list[int], refused: Refused) -> list[int]:
        problems = self._validator.problems(columns, self._event_time_ns_max())
        if problems is None:
            return rows
        for row in rows:
            if problems[row]:
                self._refuse(refused, row, Status.INVALID_ARGUMENT, "invalid", int(problems[row]))
        return [row for row in rows if row not in refused]

    def _claim(self, columns: Columns, rows: list[int], refused: Refused, now_ns: int) -> Claims:
        table = self.idempotency
        if table is None or not rows:
            return Claims(rows, [], [], [], [])
        evicted_early = table.evicted_early
        claims = table.claim_batch(columns, rows, now_ns)
        if table.evicted_early != evicted_early:
            self._counters.count("fraudgate_idempotency_evicted_early_total", table.evicted_early - evicted_early)
        for row in claims.conflicts:
            self._refuse(refused, row, Status.ALREADY_EXISTS, "conflict")
        return claims

    def _apply_and_gather(self, columns: Columns, claims: Claims, refused: Refused, now_ns: int) -> Gathered | None:
        """Apply the fresh rows' events and read their features; None when there is nothing to decide.

        The store applies all rows or raises before the first. Where nothing stands in for it, that is our fault: the
        callers get INTERNAL, and the ids are free for a retry.
        """
        if not claims.fresh:
            return None
        gathered = self._ladder.gather(self.store, columns, claims.fresh, now_ns)
        if gathered is None:
            for row in claims.fresh:
                self._refuse(refused, row, Status.INTERNAL, "internal")
            self._release(claims)
            self._fail_twins(claims, refused)
            claims.fresh.clear()
            claims.fresh_slots.clear()
        return gathered

    def _release(self, claims: Claims) -> None:
        if self.idempotency is not None:
            self.idempotency.release(claims.fresh_slots)

    def _fail_twins(self, claims: Claims, refused: Refused) -> None:
        """Replays of this batch's own rows end as those did: INTERNAL."""
        failed, twins = set(claims.fresh_slots), list(zip(claims.replays, claims.replay_slots, strict=True))
        for row in (row for row, slot in twins if slot in failed):
            self._refuse(refused, row, Status.INTERNAL, "internal")
        others = [(row, slot) for row, slot in twins if slot not in failed]
        claims.replays[:] = [row for row, _ in others]
        claims.replay_slots[:] = [slot for _, slot in others]

    def _count_ignored_attributes(self, columns: Columns, rows: list[int]) -> None:
        if columns.attributes is None:
            return
        ignored = sum(len(columns.attributes[row].keys() - self._named_attributes) for row in rows)
        if ignored:
            self._counters.count("fraudgate_ignored_attributes_total", ignored)

    async def _decide_surely(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, taken_up_ns: int
    ) -> tuple[Answers, Answers]:
        """See ``_decide``. The rows' events are applied: whatever fails now, this ends with decisions."""
        rows, sequence = len(fresh), self._sequence
        self._sequence += rows  # in the order of take-up
        try:
            return await self._decide(live, columns, fresh, gathered, sequence, taken_up_ns)
        except Exception:  # a bug of ours after apply: every row goes to a person, and says so
            _log.exception("deciding a batch of %d failed; all of it goes to REVIEW", rows)
            self._counters.count("fraudgate_rule_errors_total", rows)
            decided = decided_rows(rows, live.edition, taken_up_ns, self._clock(), self._clock(), self._clock())
            decided["scored"] = False
            decided["decision"] = Decision.REVIEW
            decided["rules"] = 1 << Mark.RULE_ERROR | 1 << Mark.STATIC_POLICY
            decided["fallback"] = Fallback.STATIC_POLICY
            decided["sequence"] = np.arange(sequence, sequence + rows)
            decided["arrival_ns"] = columns.arrival_ns[fresh]
            return decided, decided

    async def _decide(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, sequence: int, taken_up_ns: int
    ) -> tuple[Answers, Answers]:
        """Pack, infer, guard: the fresh rows' answers, numbered from ``sequence`` on.

        And the same with the live engine's own scores, for the drift watch: routes may have given rows those of others.
        """
        rows, slot = len(fresh), self._free_slots.pop()
        try:
            self._quiet.run(self._slabs[slot].write, gathered.values)
            gathered_ns = self._clock()
            score, inferred_ns = await self._ladder.infer(live.inference, slot, rows, gathered_ns)
            verdict = None
            if live.routes:
                batch = Batch(columns, fresh, slot, self._slabs[slot], taken_up_ns, inferred_ns - gathered_ns)
                own, verdict = score.copy(), await _routed(live, batch, score)
                score, inferred_ns = verdict.score, self._clock()
        finally:
            self._free_slots.append(slot)
        head = Head(live.edition, sequence, taken_up_ns, gathered_ns, inferred_ns)
        if verdict is None:
            decided, scored = draft(live.thresholds, columns, fresh, score, gathered.fallback, head)
        else:
            decided, scored = draft_levels(verdict.level, columns, fresh, score, gathered.fallback, head)
        inputs = inputs_of(columns, fresh, gathered.values, score, scored)
        self._ladder.judge(live.rules, inputs, decided, inferred_ns)
        decided["answered_ns"] = self._clock()
        if verdict is None:
            return decided, decided
        decided["edition"] = verdict.edition
        decided["fallback"] = np.maximum(decided["fallback"], verdict.fallback)
        watched = decided.copy()
        watched["score"], watched["scored"] = own, live.thresholds.levels(own) != UNSCORED
        return decided, watched

    def _answer(
        self, columns: Columns, claims: Claims, decided: Answers | None, refused: Refused, taken_up_ns: int
    ) -> Answers:
        """The whole batch's answers. The fresh ones are stored first: a replay may be of one of them."""
        table = self.idempotency
        if decided is not None:
            if table is not None:
                table.store(claims.fresh_slots, decided)
            if len(decided) == columns.rows:
                return decided
        answers = np.zeros(columns.rows, ANSWER_DTYPE)
        answers["arrival_ns"], answers["taken_up_ns"] = columns.arrival_ns, taken_up_ns
        for row, (status, problem) in refused.items():
            answers["status"][row], answers["error_field"][row] = status, problem
        if decided is not None:
            answers[claims.fresh] = decided
        if table is not None and claims.replays:
            replayed = table.answers(claims.replay_slots)
            replayed["status"][replayed["decision"] == 0] = Status.INTERNAL  # the attempt they double came to nothing
            answers[claims.replays] = replayed
        return answers

    def _record(
        self, decided: Answers | None, watched: Answers | None, claims: Claims, gathered: Gathered | None
    ) -> None:
        """Latencies, counts and features of the rows decided now; replays are counted apart."""
        if claims.replays:
            self._counters.count("fraudgate_idempotent_replays_total", len(claims.replays))
        if decided is not None and gathered is not None:
            self._recorder.record_batch(decided)
            self._counters.count_decided(decided)
            if self._drift is not None and watched is not None and not isinstance(gathered, Unapplied):
                self._drift.record_batch(gathered.values, watched)

    def _keep(
        self,
        batch: Request,
        claims: Claims,
        gathered: Gathered | None,
        answers: Answers,
        closed_ns: int,
        idle_ns: int,
    ) -> None:
        """Hand the batch to the log, with NaN features where none were gathered."""
        if self._log is None:
            return
        if gathered is not None and len(claims.fresh) == len(answers):
            features = gathered.values
        else:
            features = np.full((len(answers), len(self.store.schema.names)), np.nan)
            if gathered is not None:
                features[claims.fresh] = gathered.values
        if not self._log.append(batch, features, answers, closed_ns, idle_ns):
            self._counters.count("fraudgate_batch_log_dropped_total")


async def _routed(live: Live, batch: Batch, score: Float32) -> Verdict:
    with np.errstate(all="ignore"):
        verdict = Verdict.of(score, live.thresholds, live.edition)
        for route in live.routes:
            await route.run(batch, verdict)
    return verdict
