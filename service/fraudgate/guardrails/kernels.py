"""CEL's operators over columns.

A column's values are a NumPy array of n rows (or of shape () for a constant), its failures a bool array of the same
shape or None where no row failed. A value whose row failed means nothing, except that a failed bool is False: so the
values of a condition are the rows that fired. Callers hold ``np.errstate(all="ignore")``.
"""

from typing import Any

import numpy as np

from fraudgate.transaction import Bool

Result = tuple[Any, Any]
"""(values, failures or None)."""

NEVER: Result = (np.array(False), None)
ALWAYS: Result = (np.array(True), None)
"""What a condition gives, itself and no copy, where it can tell at a glance that no row, or every row, is true."""

_INT_MIN = np.iinfo(np.int64).min


def either(left: Any, right: Any) -> Any:
    """The failures of an operator that fails where any operand fails."""
    if left is None:
        return right
    return left if right is None else left | right


def logical_and(left: Result, right: Result) -> Result:
    """False where either side is false, whatever the other does."""
    if right is ALWAYS:
        return left
    (a, a_failed), (b, b_failed) = left, right
    values = a & b
    if a_failed is None and b_failed is None:
        return values, None
    not_false = (a if a_failed is None else a | a_failed) & (b if b_failed is None else b | b_failed)
    return values, not_false ^ values


def logical_or(left: Result, right: Result) -> Result:
    """True where either side is true, whatever the other does."""
    (a, a_failed), (b, b_failed) = left, right
    values, failed = a | b, either(a_failed, b_failed)
    return values, None if failed is None else failed & ~values


def logical_not(operand: Result) -> Result:
    """The other way round."""
    values, failed = operand
    return ~values if failed is None else ~(values | failed), failed


def choose(condition: Result, then: Result, otherwise: Result) -> Result:
    """``?:`` row by row: only the chosen branch can fail a row."""
    (chosen, failed), (a, a_failed), (b, b_failed) = condition, then, otherwise
    values: Any = np.where(chosen, a, b)
    if a_failed is not None or b_failed is not None:
        branch = np.where(chosen, False if a_failed is None else a_failed, False if b_failed is None else b_failed)
        failed = either(failed, branch)
    if failed is not None and values.dtype == np.bool_:
        values = values & ~failed
    return values, failed


def int_add(a: Any, b: Any) -> Result:
    """int64 addition; overflow fails."""
    total = a + b
    return total, _failures(((a ^ total) & (b ^ total)) < 0)


def int_subtract(a: Any, b: Any) -> Result:
    """int64 subtraction; overflow fails."""
    difference = a - b
    return difference, _failures(((a ^ b) & (a ^ difference)) < 0)


def int_multiply(a: Any, b: Any) -> Result:
    """int64 multiplication; overflow fails. A wrapped product is off by at least 2^64, so dividing it back shows it."""
    product = a * b
    wrapped = product // np.where(a == 0, 1, a) != b
    return product, _failures((a != 0) & (wrapped | ((a == -1) & (b == _INT_MIN))))


def int_divide(a: Any, b: Any) -> Result:
    """int64 division, truncated towards zero; division by zero and overflow fail."""
    failed = (b == 0) | ((a == _INT_MIN) & (b == -1))
    divisor = np.where(failed, 1, b)
    return (a - np.fmod(a, divisor)) // divisor, _failures(failed)


def int_negate(a: Any) -> Result:
    """int64 negation; the smallest int fails."""
    return -a, _failures(a == _INT_MIN)


def _failures(failed: Any) -> Bool | None:
    return failed if np.count_nonzero(failed) else None
