"""Replay of a batch log's decisions: from the logged features and requests to the same scores, rules and decisions.

Each row is decided again by the engine and the rules that its edition names, so a log goes on across a change of
engine, a canary or a tier. Compared are the decision, the score and the rules' bits, byte for byte. Which engine a row
went to, and whether it had a score at all (an engine may have failed), is taken from the log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fraudgate.audit.edition_file import LoggedEdition, read_editions
from fraudgate.audit.log_file import LoggedBatch, open_log
from fraudgate.errors import SnapshotError
from fraudgate.guardrails.decision import UNSCORED, Thresholds, level_decisions, overrule, score_marks, usable
from fraudgate.guardrails.inputs import inputs_of
from fraudgate.guardrails.rules import RuleSet
from fraudgate.transaction import Bool, Float32, Float64, Int64, Status, UInt64, open_batch


class Decider(NamedTuple):
    """What an edition decides with."""

    score: Callable[[Float64], Float32]
    """From features float64[n, F] of a batch to scores float32[n]."""
    thresholds: Thresholds
    rules: RuleSet


DeciderOf = Callable[[LoggedEdition], Decider]


class DecisionDifference(NamedTuple):
    """A row that the replay decided otherwise."""

    run: str
    sequence: int
    """Of its batch."""
    transaction_id: str
    model: str
    logged: str
    replayed: str


@dataclass(slots=True)
class DecisionReplay:
    """What replaying a log's decisions found."""

    rows: int = 0
    """Decided again."""
    retries: int = 0
    """Rows that got the stored answer of an earlier attempt: decided there."""
    refused: int = 0
    """Rows without a decision."""
    unscored: int = 0
    """Of ``rows``, those whose score was not usable: decided again without one."""
    differing: int = 0
    first_difference: DecisionDifference | None = None
    models: dict[str, int] = field(default_factory=dict)
    """Rows by the model that decided."""

    @property
    def same(self) -> bool:
        """Every row was decided again as logged, and there was at least one."""
        return self.rows > 0 and self.differing == 0


def replay_decisions(path: Path | str, decider_of: DeciderOf) -> DecisionReplay:
    """Replay a log directory, or one file of it.

    ``decider_of`` opens what an edition names, and raises FraudgateError where that is not at hand.
    SnapshotError: there is no log, it is damaged, or it does not name an edition.
    """
    found, opened = DecisionReplay(), cache(decider_of)
    for file in open_log(path):
        editions = read_editions(file.path.parent, file.run)
        for batch in file:
            _Replayed(batch, editions, opened).compare(file.run, found)
    return found


class _Replayed:
    """One batch, decided again."""

    def __init__(self, batch: LoggedBatch, editions: Mapping[int, LoggedEdition], decider_of: DeciderOf) -> None:
        self._batch = batch
        self._answers = {name: _column(batch, name) for name in ("status", "replayed", "edition", "decision")}
        ok = self._answers["status"] == Status.OK
        self._fresh = np.flatnonzero(ok & ~self._answers["replayed"])
        self._retries, self._refused = int((ok & self._answers["replayed"]).sum()), int((~ok).sum())
        rows = len(self._fresh)
        self._scored: Bool = batch.answers.column("score").is_valid().to_numpy(zero_copy_only=False)[self._fresh]
        self._score, self._bits = np.zeros(rows, np.float32), np.zeros(rows, np.uint64)
        self._decision = np.zeros(rows, np.uint8)
        self._models = np.empty(rows, np.object_)
        for number in np.unique(self._answers["edition"][self._fresh]).tolist():
            if number not in editions:
                raise SnapshotError(f"batch {batch.sequence}: edition {number} is not among those of its run")
            self._decide(editions[number], self._answers["edition"][self._fresh] == number, decider_of)

    def _decide(self, edition: LoggedEdition, mine: Bool, decider_of: DeciderOf) -> None:
        """Decide the whole batch with one edition, and keep the rows that it gave."""
        decider, features = decider_of(edition), self._batch.features[self._fresh]
        with np.errstate(all="ignore"):
            score = decider.score(features)
            level: Int64 = np.where(self._scored, decider.thresholds.levels(score), UNSCORED)
            columns = open_batch(self._batch.request)
            inputs = inputs_of(columns, self._fresh.tolist(), features, score, usable(level))
            bits: UInt64 = score_marks(level)
            union = decider.rules.fire(inputs, bits)
            decision = level_decisions(level)
            overrule(decider.rules, bits, union, decision)
        self._score[mine], self._bits[mine], self._decision[mine] = score[mine], bits[mine], decision[mine]
        self._models[mine] = edition.model

    def compare(self, run: str, found: DecisionReplay) -> None:
        """Count into ``found``."""
        answers, fresh = self._batch.answers, self._fresh
        found.rows += len(fresh)
        found.retries += self._retries
        found.refused += self._refused
        found.unscored += int((~self._scored).sum())
        for model in self._models:
            found.models[model] = found.models.get(model, 0) + 1
        logged_score = answers.column("score").fill_null(0).to_numpy()[fresh]
        logged_bits = np.frombuffer(b"".join(answers.column("rules").to_pylist()), np.uint64)[fresh]
        logged_decision = self._answers["decision"][fresh]
        same = (logged_decision == self._decision) & (logged_bits == self._bits)
        same &= ~self._scored | (logged_score.view(np.uint32) == self._score.view(np.uint32))
        found.differing += int((~same).sum())
        if found.first_difference is None and not same.all():
            row = int(np.flatnonzero(~same)[0])
            found.first_difference = DecisionDifference(
                run,
                self._batch.sequence,
                self._batch.request.column("transaction_id")[int(fresh[row])].as_py(),
                self._models[row],
                _told(logged_decision[row], logged_score[row], logged_bits[row]),
                _told(self._decision[row], self._score[row], self._bits[row]),
            )


def _column(batch: LoggedBatch, name: str) -> Any:
    return batch.answers.column(name).to_numpy(zero_copy_only=False)


def _told(decision: np.uint8, score: np.float32, bits: np.uint64) -> str:
    return f"decision {decision}, score {score!r}, rules {int(bits):#x}"
