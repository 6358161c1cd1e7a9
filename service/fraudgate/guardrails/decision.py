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

from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import numpy.typing as npt

from fraudgate.errors import ConfigError
from fraudgate.guardrails.rules import RuleSet
from fraudgate.transaction import Bool, Decision, Float32, Int64, Mark, UInt8, UInt64

_UINT32 = np.dtype(np.uint32)
_AFTER_ONE: np.float32 = np.nextafter(np.float32(1.0), np.float32(2.0))

UNSCORED = 3
"""The level of a row without a usable score. The others: 0 under both thresholds, 1 for review, 2 for decline."""

# By level. Decision values are in the order of the first three.
assert [Decision.APPROVE, Decision.REVIEW, Decision.DECLINE] == [1, 2, 3]
_DECISIONS = np.array([1, 2, 3, Decision.REVIEW], np.uint8)
_MARKS = np.array([0, *(1 << mark for mark in (Mark.SCORE_REVIEW, Mark.SCORE_DECLINE, Mark.RULES_ONLY))], np.uint64)
_ERROR = 1 << Mark.RULE_ERROR
_BY_PRECEDENCE = (("review", int(Decision.REVIEW)), ("allow", int(Decision.APPROVE)), ("block", int(Decision.DECLINE)))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The scores from which a transaction is reviewed and declined; one over 1 is never reached."""

    review: float
    decline: float
    _edges: npt.NDArray[np.uint32] = field(init=False, repr=False, compare=False)
    """The least float32 of each level from 1, in the order of floats that are read as integers."""
    edges: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The same as integers, for native code."""

    def __post_init__(self) -> None:
        if not (isfinite(self.decline) and 0 <= self.review <= self.decline):
            raise ConfigError(f"thresholds must hold 0 <= review <= decline: {self.review}, {self.decline}")
        edges = [*map(_least_float32, (self.review, self.decline)), _AFTER_ONE]
        object.__setattr__(self, "_edges", np.array(edges, np.float32).view(_UINT32))
        object.__setattr__(self, "edges", tuple(self._edges.tolist()))

    def levels(self, score: Float32) -> Int64:
        """What each score asks for; UNSCORED where it is not finite and in [0, 1]. Int64[n]."""
        # Read as integers, floats from 0 to 1 come first: NaN, infinity, and all that is negative or over 1 come after.
        level: Int64 = self._edges.searchsorted(score.view(_UINT32), "right")
        if UNSCORED in level.tobytes():  # it may be a negative zero, to which adding 0 gives the other sign
            level = self._edges.searchsorted((score + np.float32(0.0)).view(_UINT32), "right")
        return level


def _least_float32(threshold: float) -> np.float32:
    """The least float32 that is not under the threshold, and of those over 1 the first."""
    if threshold > 1.0:
        return _AFTER_ONE
    near = np.float32(threshold + 0.0)  # not a negative zero
    after: np.float32 = np.nextafter(near, _AFTER_ONE)
    return near if float(near) >= threshold else after


def usable(level: Int64) -> Bool | None:
    """Which rows of these levels have a score that may decide. Bool[n], or None where all may."""
    return level != UNSCORED if UNSCORED in level.tobytes() else None


def score_marks(level: Int64) -> UInt64:
    """The marks of rows of these levels, a new UInt64[n] for rules to add their bits to.

    A score marks its row SCORE_DECLINE or SCORE_REVIEW, the higher that it reaches, whoever decides; a row without a
    score is marked RULES_ONLY.
    """
    marks: UInt64 = _MARKS[level]
    return marks


def level_decisions(level: Int64) -> UInt8:
    """What the score alone decides at each level. Decision values, UInt8[n]."""
    decisions: UInt8 = _DECISIONS[level]
    return decisions


def overrule(ruleset: RuleSet, bits: UInt64, union: int, decisions: UInt8) -> None:
    """Overwrite ``decisions`` as the rules that fired ask. ``union``: the bits of all rows together.

    The weaker action goes first, so that the stronger one stands.
    """
    for action, decision in _BY_PRECEDENCE:
        mask = ruleset.masks[action]
        if union & mask.bits:
            np.putmask(decisions, (bits & mask.array).astype(np.bool_), decision)
    if union & _ERROR:
        failed = (bits & np.uint64(_ERROR)).astype(np.bool_)
        np.maximum(decisions, np.uint8(Decision.REVIEW), out=decisions, where=failed)
