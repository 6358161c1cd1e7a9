"""Weights of 8 bits that saturate on no CPU, and which ramps lie side by side for it.

Without VNNI, u8 is multiplied by s8 two neighbours at a time and both products are added in 16 bits: what two
neighbouring weights of one sign come to may be 128 steps, as 128 x 255 still fits. Of 7 bits any two may be neighbours.
Of 8 bits a unit's step follows from its own pairs. Where a ramp of large weights lies beside one of small weights, it
is half of what 7 bits need, or little more.
"""

import numpy as np

from fraudgate.transaction import Float32, Int64

WEIGHT_MAX, PAIR_MAX = 127, 128  # in steps
SWAPS = 6_000


def in_pairs(weight: Float32, counts: Float32) -> Int64:
    """The order [ramps] in which the rows of ``weight`` [ramps, width] need small steps; units [width] have ``counts``.

    From large beside small on, two ramps change places wherever that helps: the same order for the same weights.
    """
    ranks = np.argsort(-(np.abs(weight) @ counts), kind="stable")
    order = np.empty_like(ranks)
    order[::2], order[1::2] = ranks[: (len(ranks) + 1) // 2], ranks[: (len(ranks) - 1) // 2 : -1]
    random, least = np.random.default_rng(0), float(smallest_step(weight[order]) @ counts)
    for swap in random.integers(0, len(order), (SWAPS, 2)):
        tried = order.copy()
        tried[swap] = order[swap[::-1]]
        needed = float(smallest_step(weight[tried]) @ counts)
        if needed < least:
            order, least = tried, needed
    return order


def pair_sums(weight: Float32) -> Float32:
    """What neighbouring rows of ``weight`` [ramps, width] of one sign come to: at least 0, [2 signs, pairs, width]."""
    even = np.pad(weight, ((0, len(weight) % 2), (0, 0)))
    signs = np.stack([np.maximum(even, 0), np.maximum(-even, 0)])
    return np.asarray(signs[:, ::2] + signs[:, 1::2])


def smallest_step(weight: Float32) -> Float32:
    """The smallest steps [width] in which the columns of ``weight`` [ramps, width] saturate nowhere."""
    alone, paired = np.abs(weight).max(axis=0) / WEIGHT_MAX, pair_sums(weight).max(axis=(0, 1)) / PAIR_MAX
    step = np.maximum(alone, paired)
    return np.where(step > 0, step, 1.0).astype(np.float32)


def bounds(neighbour: int) -> tuple[int, int]:
    """The least and the largest weight that may lie beside a ``neighbour``."""
    return max(-WEIGHT_MAX, -PAIR_MAX - min(neighbour, 0)), min(WEIGHT_MAX, PAIR_MAX - max(neighbour, 0))


def whole_steps(weight: Float32, step: Float32) -> Int64:
    """``weight`` [ramps, width] in whole ``step`` [width]; the second of a pair is cut where both would saturate."""
    steps = np.asarray(np.clip(np.rint(weight / step), -WEIGHT_MAX, WEIGHT_MAX), np.int64)
    first, second = steps[: len(steps) // 2 * 2 : 2], steps[1::2]
    lows, highs = -PAIR_MAX - np.minimum(first, 0), PAIR_MAX - np.maximum(first, 0)
    np.clip(second, lows, highs, out=second)
    return steps
