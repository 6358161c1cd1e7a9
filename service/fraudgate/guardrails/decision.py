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
from math import isfinite

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


# By level: 0 under both thresholds, 1 for review, 2 for decline. Decision values are in that order.
assert [Decision.APPROVE, Decision.REVIEW, Decision.DECLINE] == [1, 2, 3]
_LEVEL_MARK = np.array([0, 1 << Mark.SCORE_REVIEW, 1 << Mark.SCORE_DECLINE], np.uint64)
_RULES_ONLY = np.array(1 << Mark.RULES_ONLY, np.uint64)
_ERROR = 1 << Mark.RULE_ERROR
_ONE = np.array(1, np.uint8)
_BY_PRECEDENCE = (("review", Decision.REVIEW), ("allow", Decision.APPROVE), ("block", Decision.DECLINE))


def usable(score: Float32) -> Bool:
    """Which scores may decide: finite and in [0, 1]. Bool[n]."""
    return (score >= 0.0) & (score <= 1.0)


def decide(
    ruleset: RuleSet, bits: UInt64, score: Float64, scored: Bool, thresholds: Thresholds
) -> tuple[UInt8, UInt64]:
    """Decision values (UInt8[n]), and the bits with the marks of the score added (UInt64[n]).

    A score marks its row SCORE_DECLINE or SCORE_REVIEW, the higher that it reaches, whoever decides; a row without a
    score is marked RULES_ONLY.
    """
    level = (score >= thresholds.review).view(np.uint8) + (score >= thresholds.decline).view(np.uint8)
    unscored = ~scored if False in scored.tolist() else None
    if unscored is not None:
        level[unscored] = 0
    decisions = level + _ONE
    marked = bits | _LEVEL_MARK.take(level) if np.count_nonzero(level) else bits.copy()
    if unscored is not None:
        decisions[unscored] = Decision.REVIEW
        marked[unscored] |= _RULES_ONLY
    present = int(np.bitwise_or.reduce(bits))
    if present:
        _apply_rules(ruleset, bits, present, decisions)
    return decisions, marked


def _apply_rules(ruleset: RuleSet, bits: UInt64, present: int, decisions: UInt8) -> None:
    """Overwrite decisions, the weaker action first, so that the stronger one stands."""
    for action, decision in _BY_PRECEDENCE:
        mask = ruleset.masks[action]
        if present & mask.bits:
            decisions[(bits & mask.array).astype(np.bool_)] = decision
    if present & _ERROR:
        failed = (bits & np.uint64(_ERROR)).astype(np.bool_)
        np.maximum(decisions, np.uint8(Decision.REVIEW), out=decisions, where=failed)
