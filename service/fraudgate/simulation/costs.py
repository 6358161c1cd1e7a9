"""What the stages of a batch cost: time that the clock moves by when the simulated service does the work."""

from typing import NamedTuple

import numpy as np

from fraudgate.limits import BATCH_ROWS_MAX


class Cost(NamedTuple):
    """Nanoseconds of one batch: so much, and so much more for each row."""

    batch_ns: float
    row_ns: float = 0.0

    def of(self, rows: int) -> int:
        """The cost of a batch of ``rows``."""
        return int(self.batch_ns + self.row_ns * rows)


class Costs(NamedTuple):
    """The time of the loop's thread, by stage; ``fraudgate simulate --calibrate`` measures all but ``admit_ns``."""

    features: Cost
    """Columns, validation, claims, windows, packing."""
    engine: Cost
    guardrails: Cost
    respond: Cost
    """Recording, log, rendering."""
    spread: float = 0.25
    """Standard deviation of the logarithm: of one batch's factor on all of it."""
    admit_ns: int = 2_000
    """One call, decoded and queued."""

    @property
    def full_batch_ns(self) -> int:
        """Every stage of a full batch."""
        return sum(cost.of(BATCH_ROWS_MAX) for cost in (self.features, self.engine, self.guardrails, self.respond))


MEASURED = Costs(Cost(100_000, 4_000), Cost(30_000), Cost(40_000, 200), Cost(60_000, 3_500))
"""Of one development machine, in Python alone."""


class Dice:
    """Seeded lognormal factors with mean 1, drawn many at a time."""

    def __init__(self, random: np.random.Generator, spread: float) -> None:
        self._random, self._spread = random, spread
        self._factors: list[float] = []

    def __call__(self) -> float:
        if not self._factors:
            self._factors = self._random.lognormal(-(self._spread**2) / 2, self._spread, 1_024).tolist()
        return self._factors.pop()
