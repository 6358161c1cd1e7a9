"""The last rung: what is decided while the rules cannot be asked."""

from dataclasses import dataclass

import numpy as np

from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.transaction import Answers, Decision, Fallback, Mark

_MARK = np.uint64(1 << Mark.STATIC_POLICY)


@dataclass(frozen=True, slots=True)
class StaticPolicy:
    """Reviews every transaction or, if told to, approves small ones. A score that asks for more is heard."""

    currency: str = ""
    approve_up_to_minor: int | None = None
    """Amounts up to this one, in minor units of ``currency``, are approved; None: no amount is."""

    def overrule(self, inputs: RuleInputs, decided: Answers) -> None:
        """Overwrite decisions and marks of rows that the score alone has decided, and say who did."""
        decision = np.full(inputs.rows, Decision.REVIEW, np.uint8)
        if self.approve_up_to_minor is not None:
            ours = np.array([code == self.currency for code in inputs.texts("currency")], np.bool_)
            decision[ours & (inputs.amount_minor <= self.approve_up_to_minor)] = Decision.APPROVE
        scored = decided["scored"]
        np.maximum(decision, decided["decision"], out=decision, where=scored)  # decisions are in order of severity
        decided["decision"], decided["fallback"] = decision, Fallback.STATIC_POLICY
        decided["rules"] = np.where(scored, decided["rules"], np.uint64(0)) | _MARK
