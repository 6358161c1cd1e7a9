"""Batch invariance: a row's score has the same bits whatever shares its batch, wherever it lies in it.

The naive way is the whole method: score each row alone, then again in many contexts, and count the bits that differ.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from fraudgate.engines.base import Engine
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float64

HOSTILE = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-44, 1e300, 0.0)
"""What a neighbour may be full of: not numbers, extremes, subnormals, and values beyond float32."""
COPIES, PEERS, MIXED = range(len(HOSTILE), len(HOSTILE) + 3)
KINDS = len(HOSTILE) + 3
"""Neighbours all of one hostile value, copies of the row, other rows, and a mixture of hostile values."""
PLACES = tuple((fill, slot) for fill in range(1, BATCH_ROWS_MAX + 1) for slot in range(fill))
"""Every slot at every fill: 528."""


class Invariance(NamedTuple):
    """What was tried and what differed."""

    rows: int
    contexts: int
    """Contexts tried, over all rows; one context is a fill, a slot and a kind of neighbours."""
    places: int
    """Distinct (fill, slot) pairs among them, of 528."""
    differing_bits: int
    differing_rows: int


def check_invariance(
    engine: Engine,
    rows: Float64,
    contexts_per_row: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Invariance:
    """Score each of ``rows`` [n, features] alone and in ``contexts_per_row`` contexts. Binds a slab of its own.

    Places and kinds of neighbours take turns, so that n x contexts_per_row >= 5,808 covers all pairs of them.
    ``progress`` is told the rows done, every thousand.
    """
    slab = Slab(engine.features)
    engine.bind([slab])
    contexts = _contexts(rows, seed)
    places: set[tuple[int, int]] = set()
    differing_bits = differing_rows = 0
    for done, row in enumerate(rows):
        slab.pack(row[None])
        expected = int(engine.run(0).view(np.uint32)[0])
        row_bits = 0
        for _ in range(contexts_per_row):
            fill, slot, neighbours = next(contexts)
            places.add((fill, slot))
            batch = np.broadcast_to(row, (fill, len(row))) if neighbours is None else neighbours[:fill]
            if neighbours is not None:
                batch[slot] = row
            slab.pack(batch)
            scores = engine.run(0).view(np.uint32)
            seen = scores[slot : slot + 1] if neighbours is not None else scores[:fill]
            row_bits += sum((int(bits) ^ expected).bit_count() for bits in seen)
        differing_bits += row_bits
        differing_rows += row_bits > 0
        if progress and (done + 1) % 1_000 == 0:
            progress(done + 1)
    return Invariance(len(rows), len(rows) * contexts_per_row, len(places), differing_bits, differing_rows)


def _contexts(rows: Float64, seed: int) -> Iterator[tuple[int, int, Float64 | None]]:
    """Fill, slot and 32 neighbours to write over, without end; no neighbours where they are copies of the row."""
    random = np.random.default_rng(seed)
    constants = [np.full((BATCH_ROWS_MAX, rows.shape[1]), value) for value in HOSTILE]
    for turn in count():
        fill, slot = PLACES[turn % len(PLACES)]
        # One step further each time round the places: every kind meets every place.
        kind = (turn + turn // len(PLACES)) % KINDS
        if kind == COPIES:
            yield fill, slot, None
        elif kind == PEERS:
            yield fill, slot, rows[random.integers(0, len(rows), BATCH_ROWS_MAX)]
        elif kind == MIXED:
            yield fill, slot, random.choice(HOSTILE, (BATCH_ROWS_MAX, rows.shape[1]))
        else:
            yield fill, slot, constants[kind].copy()
