"""From bits and scores to decisions.

    precedence              decision
    a block rule fired      DECLINE
    an allow rule fired     APPROVE
    a review rule fired     REVIEW, also where the score alone would have declined
    the score               DECLINE or REVIEW at or over its threshold, else APPROVE
    no score                REVIEW

Then a row on which a rule failed is lifted to at least REVIEW: a blocked one stays declined, an allowed one is
reviewed.
"""

from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import or_

import numpy as np

from fraudgate.errors import ConfigError
from fraudgate.guardrails.rules import RuleSet
from fraudgate.transaction import Bool, Decision, Float32, Float64, Mark, UInt8, UInt64


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The scores from which a transaction is reviewed and declined; one over 1 is never reached."""

    review: float
    decline: float

    def __post_init__(self) -> None:
        if not (isfinite(self.decline) and 0 <= self.review <= self.decline):
            raise ConfigError(f"thresholds must hold 0 <= review <= decline: {self.review}, {self.decline}")


_UINT8, _UINT32 = np.dtype(np.uint8), np.dtype(np.uint32)

# By level: 0 under both thresholds, 1 for review, 2 for decline. Decision values are in that order.
assert [Decision.APPROVE, Decision.REVIEW, Decision.DECLINE] == [1, 2, 3]
_LEVEL_MARK = np.array([0, 1 << Mark.SCORE_REVIEW, 1 << Mark.SCORE_DECLINE], np.uint64)
_RULES_ONLY = np.array(1 << Mark.RULES_ONLY, np.uint64)
_ERROR = 1 << Mark.RULE_ERROR
_ONE = np.array(1, _UINT8)
_BY_PRECEDENCE = (("review", int(Decision.REVIEW)), ("allow", int(Decision.APPROVE)), ("block", int(Decision.DECLINE)))
_SCORE_ONE = int(np.float32(1.0).view(_UINT32))


def usable(score: Float32) -> Bool | None:
    """Which scores may decide: finite and in [0, 1]. Bool[n], or None where all may."""
    # Read as integers, floats from 0 to 1 come first: NaN, infinity, and all that is negative or over 1 come after.
    if max(score.view(_UINT32).tolist()) <= _SCORE_ONE:
        return None
    found: Bool = (score >= 0.0) & (score <= 1.0)
    return None if found.all() else found


def decide(
    ruleset: RuleSet, bits: UInt64, score: Float64, scored: Bool | None, thresholds: Thresholds
) -> tuple[UInt8, UInt64]:
    """Decision values (UInt8[n]), and the bits with the marks of the score added (UInt64[n]; no copy without marks).

    A score marks its row SCORE_DECLINE or SCORE_REVIEW, the higher that it reaches, whoever decides; a row without a
    score is marked RULES_ONLY. ``scored`` is None where every row has a score.
    """
    level, marked = (score >= thresholds.review).view(_UINT8), bits
    if np.count_nonzero(level):
        level = level + (score >= thresholds.decline).view(_UINT8)
        if scored is not None:
            level *= scored
        marked = bits | _LEVEL_MARK.take(level)
    decisions: UInt8 = level + _ONE
    if scored is not None:
        decisions[~scored] = Decision.REVIEW
        marked = marked | ~scored * _RULES_ONLY
    if np.count_nonzero(bits):
        _apply_rules(ruleset, bits, decisions)
    return decisions, marked


def _apply_rules(ruleset: RuleSet, bits: UInt64, decisions: UInt8) -> None:
    """Overwrite decisions, the weaker action first, so that the stronger one stands."""
    present = reduce(or_, set(bits.tolist()))
    for action, decision in _BY_PRECEDENCE:
        mask = ruleset.masks[action]
        if present & mask.bits:
            decisions[(bits & mask.array).astype(np.bool_)] = decision
    if present & _ERROR:
        failed = (bits & np.uint64(_ERROR)).astype(np.bool_)
        np.maximum(decisions, np.uint8(Decision.REVIEW), out=decisions, where=failed)
