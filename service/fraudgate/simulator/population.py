"""Who pays and where: customers and terminals of a town, drawn from a seeded generator.

Places are points of the unit square. Terminals are numbered along a Morton curve, which visits near places one after
the other, so "a terminal near the customer" is a short step along the numbering and needs no distances.
"""

from typing import NamedTuple

import numpy as np

from fraudgate.transaction import Float64, Int64

_MORTON_BITS = 16


class Customers(NamedTuple):
    """The habits of each customer; every array is [customers]."""

    home: Int64  # the number of the terminal nearest to home along the curve
    amount_mean: Float64  # major units
    amount_std: Float64  # major units
    daily_rate: Float64  # purchases a day


def draw_customers(rng: np.random.Generator, customers: int, terminal_codes: Int64) -> Customers:
    """Draw ``customers`` habits, among terminals whose Morton codes are ``terminal_codes`` (sorted)."""
    home = np.searchsorted(terminal_codes, morton_codes(rng.random((customers, 2))))
    amount_mean = np.clip(rng.lognormal(np.log(40.0), 0.65, customers), 4.0, 160.0)
    amount_std = amount_mean * rng.uniform(0.3, 0.7, customers)
    daily_rate = np.clip(rng.gamma(2.0, 0.95, customers), 0.05, 8.0)
    return Customers(home, amount_mean, amount_std, daily_rate)


def draw_terminals(rng: np.random.Generator, terminals: int) -> Int64:
    """Morton codes of ``terminals`` places, sorted: the index is the terminal's number."""
    return np.sort(morton_codes(rng.random((terminals, 2))))


def morton_codes(places: Float64) -> Int64:
    """Position along the Morton curve of points [n, 2] of the unit square: the bits of x and y, interleaved."""
    cells = (places * (1 << _MORTON_BITS)).astype(np.int64)
    codes = np.zeros(len(places), np.int64)
    for bit in range(_MORTON_BITS):
        codes |= ((cells[:, 0] >> bit) & 1) << (2 * bit) | ((cells[:, 1] >> bit) & 1) << (2 * bit + 1)
    return codes


def shop_near(rng: np.random.Generator, home: Int64, terminals: int) -> Int64:
    """A terminal for each purchase [n] whose customer lives at ``home`` [n]: mostly near, at times anywhere."""
    step = rng.geometric(0.12, len(home)) * rng.choice((-1, 1), len(home))
    near = (home + step) % terminals
    return np.where(rng.random(len(home)) < 0.03, rng.integers(0, terminals, len(home)), near)
