"""What a rule set says of rows, asked as the pipeline asks it."""

import numpy as np
import numpy.typing as npt

from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.rules import RuleSet


def fired_bits(ruleset: RuleSet, inputs: RuleInputs) -> npt.NDArray[np.uint64]:
    """The rules that fired on each row, and Mark.RULE_ERROR where one failed, uint64[rows]; their union must agree."""
    bits = np.zeros(inputs.rows, np.uint64)
    union = ruleset.fire(inputs, bits)
    assert union == int(np.bitwise_or.reduce(bits))
    return bits
