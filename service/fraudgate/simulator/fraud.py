"""Three kinds of fraud, laid over genuine purchases. Rates are per entity and day, so every size of town looks alike.

* LARGE: a stolen card is used once, for a large amount that the customer's habits do not explain.
* TERMINAL: a terminal leaks cards for some weeks; most purchases there are frauds, with ordinary amounts.
* CUSTOMER: a customer's card data are out for some days; a third of the purchases are frauds of several times the norm.
"""

from enum import IntEnum

import numpy as np

from fraudgate.transaction import Bool, Float64, Int64, UInt8

LARGE_SHARE = 0.001
LARGE_MEDIAN = 320.0  # major units
TERMINAL_RATE = 1 / 4_500
TERMINAL_DAYS = (14, 29)
TERMINAL_SHARE = 0.85
CUSTOMER_RATE = 1 / 1_500
CUSTOMER_DAYS = (7, 15)
CUSTOMER_SHARE = 1 / 3
CUSTOMER_FACTOR = (3.0, 6.0)


class Kind(IntEnum):
    """Why a transaction is a fraud."""

    GENUINE = 0
    LARGE = 1
    TERMINAL = 2
    CUSTOMER = 3


def lay_frauds(
    rng: np.random.Generator, amount: Float64, day: Int64, customer: Int64, terminal: Int64, size: tuple[int, int, int]
) -> tuple[Float64, UInt8]:
    """Amounts [n] in major units and ``Kind`` [n] after fraud; ``size`` is (customers, terminals, days).

    A purchase that two kinds would claim belongs to the one named last.
    """
    customers, terminals, days = size
    rows = len(amount)
    kind = np.zeros(rows, np.uint8)
    large = rng.random(rows) < LARGE_SHARE
    kind[large] = Kind.LARGE
    amount = np.where(large, rng.lognormal(np.log(LARGE_MEDIAN), 0.3, rows), amount)
    leaking = compromised(rng, terminals, days, TERMINAL_RATE, TERMINAL_DAYS)
    kind[leaking[terminal, day] & (rng.random(rows) < TERMINAL_SHARE) & ~large] = Kind.TERMINAL
    stolen = compromised(rng, customers, days, CUSTOMER_RATE, CUSTOMER_DAYS)
    taken = stolen[customer, day] & (rng.random(rows) < CUSTOMER_SHARE) & ~large
    kind[taken] = Kind.CUSTOMER
    return np.where(taken, amount * rng.uniform(*CUSTOMER_FACTOR, rows), amount), kind


def compromised(rng: np.random.Generator, entities: int, days: int, rate: float, length: tuple[int, int]) -> Bool:
    """Which entity is compromised on which day, [entities, days].

    Periods of ``length[0]`` to ``length[1] - 1`` days begin at ``rate`` per entity and day, from before day 0 on: the
    first day is like any other.
    """
    longest = length[1] - 1
    periods = rng.poisson(rate * entities * (days + longest))
    who = rng.integers(0, entities, periods)
    begin = rng.integers(-longest, days, periods)
    end = begin + rng.integers(*length, periods)
    edges = np.zeros((entities, days + 1), np.int16)
    np.add.at(edges, (who, np.clip(begin, 0, days)), 1)
    np.add.at(edges, (who, np.clip(end, 0, days)), -1)
    return np.cumsum(edges[:, :days], axis=1, dtype=np.int16) > 0
