"""Answer rows as the score alone decides them; rules overrule them afterwards.

A batch that lies in the native front end's memory is drafted there, in one call; ``draft_levels`` is the reference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fraudgate import wheel
from fraudgate.guardrails.decision import Thresholds, level_decisions, score_marks, usable
from fraudgate.transaction import ANSWER_DTYPE, Answers, Bool, Columns, Fallback, Float32, Int64, UInt8, decided_rows

_draft_native = wheel.kernel("draft_answers")


class Head(NamedTuple):
    """What the drafts of one engine call share."""

    edition: int
    sequence: int
    """Of the first row; the others follow."""
    taken_up_ns: int
    gathered_ns: int
    inferred_ns: int


class Draft(NamedTuple):
    """Rows whose ``answered_ns`` is 0, and which of them have a usable score."""

    answers: Answers
    scored: Bool | None
    """Bool[n]; None: every row has one."""


def draft(
    thresholds: Thresholds, columns: Columns, rows: Sequence[int], score: Float32, fallback: UInt8, head: Head
) -> Draft:
    """Draft the answers of ``rows`` of a batch. score, fallback: [n], in the order of ``rows``."""
    if _draft_native is not None and columns.native is not None and len(rows) == columns.rows:
        answers = _draft_native(columns.native, score, fallback, thresholds.edges, *head)
        if answers is not None:
            return Draft(np.frombuffer(answers, ANSWER_DTYPE), None)
    return draft_levels(thresholds.levels(score), columns, rows, score, fallback, head)


def draft_levels(
    level: Int64, columns: Columns, rows: Sequence[int], score: Float32, fallback: UInt8, head: Head
) -> Draft:
    """Draft answers of scores whose levels are known. A row without a usable score is for rules alone, and says so."""
    count, scored = len(rows), usable(level)
    answers = decided_rows(count, head.edition, head.taken_up_ns, head.gathered_ns, head.inferred_ns, 0)
    answers["sequence"] = np.arange(head.sequence, head.sequence + count)
    answers["arrival_ns"] = columns.arrival_ns if count == columns.rows else columns.arrival_ns[rows]
    answers["decision"], answers["rules"] = level_decisions(level), score_marks(level)
    if scored is None:
        answers["score"], answers["fallback"] = score, fallback
    else:
        answers["scored"], answers["score"] = scored, np.where(scored, score, 0)
        answers["fallback"] = np.where(scored, fallback, Fallback.RULES_ONLY)
    return Draft(answers, scored)
