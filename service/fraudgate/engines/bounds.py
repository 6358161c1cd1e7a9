"""What an engine on trial may do before it goes."""

from typing import NamedTuple


class Bounds(NamedTuple):
    """What ends a trial. Differences are between two scores of one row, both probabilities."""

    rows_min: int = 64
    """Before so many rows only failures and unusable scores count."""
    difference_mean_max: float = 0.05
    flips_share_max: float = 0.05
    """Rows on which the two engines' own thresholds say different things."""
    correlation_min: float = 0.5
    """Between the two engines' scores, over the latest rows."""
    distinct_share_min: float = 0.25
    """Distinct scores, as a share of the live engine's."""
    run_ns_max: int = 5_000_000
    """One run at 32 rows, the latest ones' mean."""


BOUNDS = Bounds()
