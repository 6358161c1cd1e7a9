"""The way of a batch, top to bottom: from a request RecordBatch to its answers.

    drop the dead -> validate -> claim ids -> apply and gather -> pack -> infer -> guard -> answer -> record, log

Everything up to *apply* may refuse a row, and leaves no trace of it. After *apply* there is no way back: the decision
is made and kept, whatever fails. Batches are taken up and answered in order; at most ``limits.SLABS`` are in flight.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fraudgate.clock import Clock
from fraudgate.errors import EngineFailed
from fraudgate.features.schema import Attribute
from fraudgate.features.store import FeatureStore, Gathered
from fraudgate.guardrails.decision import Thresholds, decide, usable
from fraudgate.guardrails.rules import RuleInputs, RuleSet
from fraudgate.idempotency import Claims, IdempotencyTable, payload_digests
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import BUDGET_NS
from fraudgate.tensors import Slab
from fraudgate.transaction import (
    ANSWER_DTYPE,
    Answers,
    Bool,
    Columns,
    Decision,
    Fallback,
    Float32,
    Float64,
    Mark,
    Status,
    UInt8,
    UInt64,
    open_batch,
)
from fraudgate.validation import Validator

_log = logging.getLogger(__name__)

CANCELLED_NS = -1
"""A ``deadline_ns`` that says the caller is gone."""


class Inference(Protocol):
    """The engine as the pipeline sees it, wherever it runs."""

    async def infer(self, slot: int) -> Float32:
        """Scores of the slab ``slot``, float32[32], valid until the slab is packed again. Raises EngineFailed."""
        ...


class Log(Protocol):
    """Where batches are kept for replay."""

    def append(self, batch: pa.RecordBatch, features: Float64, answers: Answers, closed_ns: int, idle_ns: int) -> bool:
        """Take one answered batch; False when it had to be dropped (counted by the log)."""
        ...


@dataclass(slots=True)
class Live:
    """What decides right now; replaced as a whole, between two batches."""

    inference: Inference
    thresholds: Thresholds
    rules: RuleSet
    edition: int


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
        self._named_attributes = {each.attribute for each in store.schema.features if isinstance(each, Attribute)}
        self._sequence = 0
        self._turn = asyncio.Event()
        self._turn.set()

    async def score(
        self, batch: pa.RecordBatch, closed_ns: int = 0, idle_ns: int = 0, columns: Columns | None = None
    ) -> Answers:
        """Decide one batch of 1..32 rows. Returns ANSWER_DTYPE[rows], a row for each row of the batch.

        ``columns``: the batch opened, where the caller has made it from them; else it is opened here.
        """
        taken_up_ns = self._clock()
        live = self.live
        columns = columns or open_batch(batch)
        my_turn, self._turn = self._turn, asyncio.Event()
        done = self._turn
        answers = np.zeros(columns.rows, ANSWER_DTYPE)
        answers["arrival_ns"] = columns.arrival_ns
        answers["taken_up_ns"] = taken_up_ns
        features = None
        try:
            rows = self._drop_dead(columns, answers, taken_up_ns)
            rows = self._validate(columns, rows, answers)
            claims = self._claim(columns, rows, answers, taken_up_ns)
            self._count_ignored_attributes(columns, claims.fresh)
            gathered = self._apply_and_gather(columns, claims, answers)
            if gathered is not None:
                features = await self._decide_rows(live, columns, claims.fresh, gathered, answers)
            if not my_turn.is_set():
                await my_turn.wait()
            self._answer_twins(claims, answers)
        finally:
            done.set()
        try:
            self._record(answers, claims)
            self._keep(batch, features, answers, closed_ns, idle_ns)
        except Exception:  # bookkeeping must not cost the callers their decisions; it is loud in the log and counted
            _log.exception("a batch of %d was decided but not recorded", columns.rows)
            self._counters.count("fraudgate_recording_failures_total")
        return answers

    def _drop_dead(self, columns: Columns, answers: Answers, now_ns: int) -> list[int]:
        """Rows that are still worth deciding; the others get their status."""
        deadline, arrival = columns.deadline_ns, columns.arrival_ns
        spent_ns = now_ns - self._budget_ns if self._budget_ns else -1
        if all(ns == 0 or ns > now_ns for ns in deadline.tolist()) and min(arrival.tolist()) > spent_ns:
            return list(range(columns.rows))
        cancelled = deadline == CANCELLED_NS
        expired = (deadline > 0) & (deadline <= now_ns)
        spent = arrival <= spent_ns
        dead = cancelled | expired | spent
        status = np.select(
            [cancelled, expired, spent], [Status.CANCELLED, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED]
        )
        answers["status"] = status
        for reason, rows in (("cancelled", cancelled), ("deadline", expired & ~cancelled)):
            self._counters.count_refusal(reason, int(rows.sum()))
        self._counters.count_refusal("budget", int((spent & ~expired & ~cancelled).sum()))
        return np.flatnonzero(~dead).tolist()

    def _validate(self, columns: Columns, rows: list[int], answers: Answers) -> list[int]:
        problems = self._validator.problems(columns, self._event_time_ns_max())
        if problems is None:
            return rows
        bad = [row for row in rows if problems[row]]
        answers["status"][bad] = Status.INVALID_ARGUMENT
        answers["error_field"][bad] = problems[bad]
        self._counters.count_refusal("invalid", len(bad))
        return [row for row in rows if not problems[row]]

    def _claim(self, columns: Columns, rows: list[int], answers: Answers, now_ns: int) -> Claims:
        table = self.idempotency
        if table is None or not rows:
            return Claims(rows, [], [], [], [])
        evicted_early = table.evicted_early
        claims = table.claim(columns.transaction_id, payload_digests(columns, rows), rows, now_ns)
        if table.evicted_early != evicted_early:
            self._counters.count("fraudgate_idempotency_evicted_early_total", table.evicted_early - evicted_early)
        if claims.conflicts:
            answers["status"][claims.conflicts] = Status.ALREADY_EXISTS
            self._counters.count_refusal("conflict", len(claims.conflicts))
        return claims

    def _apply_and_gather(self, columns: Columns, claims: Claims, answers: Answers) -> Gathered | None:
        """Apply the fresh rows' events and read their features; None when there is nothing to decide.

        The store applies all rows or raises before the first; a raise is our fault, and frees the ids for a retry.
        """
        if not claims.fresh:
            return None
        try:
            return self.store.apply_and_gather(columns, claims.fresh)
        except Exception:  # whatever it was, the callers get INTERNAL and may retry
            _log.exception("the store refused a batch of %d", len(claims.fresh))
            answers["status"][claims.fresh] = Status.INTERNAL
            self._counters.count_refusal("internal", len(claims.fresh))
            if self.idempotency is not None:
                self.idempotency.release(claims.fresh_slots)
            self._fail_twins(claims, answers)
            claims.fresh.clear()
            claims.fresh_slots.clear()
            self._counters.count("fraudgate_store_failures_total")
            return None

    @staticmethod
    def _fail_twins(claims: Claims, answers: Answers) -> None:
        """Replays of this batch's own rows end as those did: INTERNAL."""
        failed, twins = set(claims.fresh_slots), zip(claims.replays, claims.replay_slots, strict=True)
        others = [(row, slot) for row, slot in twins if slot not in failed]
        answers["status"][list(set(claims.replays) - {row for row, _ in others})] = Status.INTERNAL
        claims.replays[:] = [row for row, _ in others]
        claims.replay_slots[:] = [slot for _, slot in others]

    def _count_ignored_attributes(self, columns: Columns, rows: list[int]) -> None:
        if columns.attributes is None:
            return
        ignored = sum(len(columns.attributes[row].keys() - self._named_attributes) for row in rows)
        if ignored:
            self._counters.count("fraudgate_ignored_attributes_total", ignored)

    async def _decide_rows(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, answers: Answers
    ) -> Float64:
        """Decide the fresh rows into ``answers``. Returns the features of all rows, NaN where none were gathered."""
        answers["sequence"][fresh] = range(self._sequence, self._sequence + len(fresh))  # in the order of take-up
        self._sequence += len(fresh)
        if len(fresh) == len(answers):
            await self._decide_surely(live, columns, fresh, gathered, answers)
            return gathered.values
        decided = answers[fresh]
        await self._decide_surely(live, columns, fresh, gathered, decided)
        answers[fresh] = decided
        features = np.full((len(answers), gathered.values.shape[1]), np.nan)
        features[fresh] = gathered.values
        return features

    async def _decide_surely(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, answers: Answers
    ) -> None:
        """Decide. The rows' events are applied: whatever fails now, this ends with decisions."""
        try:
            await self._decide(live, columns, fresh, gathered, answers)
        except Exception:  # a bug of ours after apply: every row goes to a person, and says so
            _log.exception("deciding a batch of %d failed; all of it goes to REVIEW", len(fresh))
            self._counters.count("fraudgate_rule_errors_total", len(fresh))
            answers["scored"], answers["score"] = False, 0
            answers["decision"] = Decision.REVIEW
            answers["rules"] = 1 << Mark.RULE_ERROR | 1 << Mark.RULES_ONLY
            answers["fallback"] = Fallback.RULES_ONLY
            self._stamp(answers, live, self._clock(), self._clock())

    async def _decide(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, answers: Answers
    ) -> None:
        """Pack, infer, guard: fill the rows' answers. ``answers``: ANSWER_DTYPE[fresh], arrival and take-up set."""
        slot = self._free_slots.pop()
        try:
            self._slabs[slot].pack(gathered.values)
            gathered_ns = self._clock()
            score = await self._infer(live, slot, len(fresh))
        finally:
            self._free_slots.append(slot)
        inferred_ns = self._clock()
        scored = usable(score)
        answers["decision"], answers["rules"] = self._judge(live, columns, fresh, gathered, score, scored)
        if scored.all():
            answers["scored"], answers["score"], answers["fallback"] = True, score, gathered.fallback
        else:
            answers["scored"], answers["score"] = scored, np.where(scored, score, 0)
            answers["fallback"] = np.where(scored, gathered.fallback, Fallback.RULES_ONLY)
        self._stamp(answers, live, gathered_ns, inferred_ns)

    def _stamp(self, answers: Answers, live: Live, gathered_ns: int, inferred_ns: int) -> None:
        """What names these decisions and when each stage ended; the last stage ends here."""
        rows = len(answers)
        answers["batch_rows"] = rows
        answers["edition"] = live.edition
        answers["gathered_ns"] = gathered_ns
        answers["inferred_ns"] = inferred_ns
        answers["answered_ns"] = self._clock()

    async def _infer(self, live: Live, slot: int, rows: int) -> Float32:
        try:
            return (await live.inference.infer(slot))[:rows]
        except EngineFailed:
            self._counters.count("fraudgate_engine_failures_total")
            return np.full(rows, np.nan, np.float32)

    def _judge(
        self, live: Live, columns: Columns, fresh: list[int], gathered: Gathered, score: Float32, scored: Bool
    ) -> tuple[UInt8, UInt64]:
        inputs = _rule_inputs(columns, fresh, gathered, score, scored)
        try:
            bits = live.rules.evaluate(inputs)
        except Exception:  # applied events must get decisions: a failing rule set lifts every row to REVIEW, counted
            bits = np.full(len(fresh), 1 << Mark.RULE_ERROR, np.uint64)
        errors = int(np.count_nonzero(bits & np.uint64(1 << Mark.RULE_ERROR)))
        if errors:
            self._counters.count("fraudgate_rule_errors_total", errors)
        return decide(live.rules, bits, inputs.score, inputs.scored, live.thresholds)

    def _answer_twins(self, claims: Claims, answers: Answers) -> None:
        """Store the fresh answers, then give each replay the stored answer of its id."""
        if self.idempotency is None:
            return
        if claims.fresh:
            whole = len(claims.fresh) == len(answers)
            self.idempotency.store(claims.fresh_slots, answers if whole else answers[claims.fresh])
        if claims.replays:
            answers[claims.replays] = self.idempotency.answers(claims.replay_slots)

    def _keep(
        self, batch: pa.RecordBatch, features: Float64 | None, answers: Answers, closed_ns: int, idle_ns: int
    ) -> None:
        """Hand the batch to the log, with NaN features where none were gathered."""
        if self._log is None:
            return
        if features is None:
            features = np.full((len(answers), len(self.store.schema.names)), np.nan)
        if not self._log.append(batch, features, answers, closed_ns, idle_ns):
            self._counters.count("fraudgate_batch_log_dropped_total")

    def _record(self, answers: Answers, claims: Claims) -> None:
        """Latencies and counts of the rows decided now; replays are counted apart."""
        if claims.replays:
            self._counters.count("fraudgate_idempotent_replays_total", len(claims.replays))
        rows = len(claims.fresh)
        if not rows:
            return
        decided = answers if rows == len(answers) else answers[claims.fresh]
        first, record = decided[0], self._recorder
        record.record("queue", first["taken_up_ns"] - decided["arrival_ns"])
        record.record("total", first["answered_ns"] - decided["arrival_ns"])
        record.record_repeated("features", int(first["gathered_ns"] - first["taken_up_ns"]), rows)
        record.record_repeated("inference", int(first["inferred_ns"] - first["gathered_ns"]), rows)
        record.record_repeated("guardrails", int(first["answered_ns"] - first["inferred_ns"]), rows)
        self._counters.count_decisions(decided["decision"], decided["fallback"])
        self._counters.count_batch(rows)


def _rule_inputs(columns: Columns, fresh: list[int], gathered: Gathered, score: Float32, scored: Bool) -> RuleInputs:
    """The fresh rows as the rules see them; an unusable score is NaN."""

    whole = len(fresh) == columns.rows

    def pick(column: list[Any]) -> list[Any]:
        return column if whole else [column[row] for row in fresh]

    return RuleInputs(
        rows=len(fresh),
        score=np.where(scored, score, np.nan).astype(np.float64),
        scored=scored,
        amount_minor=columns.amount_minor if whole else columns.amount_minor[fresh],
        currency=pick(columns.currency),
        ids={name: pick(column) for name, column in columns.ids.items()},
        features=gathered.values,
        attributes=None if columns.attributes is None else pick(columns.attributes),
    )
