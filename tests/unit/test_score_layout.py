"""What an engine's scores must be in memory, since native code reads them."""

import ctypes

import numpy as np
import pytest

from fraudgate.engines.base import warm_up
from fraudgate.engines.cuda import floats_at
from fraudgate.errors import EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32

CTYPES = ctypes.c_float * BATCH_ROWS_MAX


class Lying:
    """An engine whose scores lie as they are given."""

    features = 3

    def __init__(self, scores: Float32) -> None:
        self._scores = scores

    def bind(self, slabs: object) -> None:
        pass

    def run(self, slot: int) -> Float32:
        return self._scores


@pytest.mark.parametrize(
    "scores",
    [
        np.ctypeslib.as_array(CTYPES()),
        np.zeros(BATCH_ROWS_MAX),
        np.zeros((BATCH_ROWS_MAX, 1), np.float32),
        np.zeros(BATCH_ROWS_MAX - 1, np.float32),
        np.zeros(2 * BATCH_ROWS_MAX, np.float32)[::2],
    ],
    ids=["of ctypes", "float64", "a column", "too few", "with gaps"],
)
def test_other_layouts_are_refused_at_warm_up(scores):
    with pytest.raises(EngineRefused, match=r"not float32\[32\] as it lies"):
        warm_up(Lying(scores))


def test_memory_of_others_is_read_and_written_as_native_floats():
    memory = CTYPES(*range(BATCH_ROWS_MAX))
    scores = floats_at(ctypes.addressof(memory), BATCH_ROWS_MAX, 1).reshape(BATCH_ROWS_MAX)
    assert warm_up(Lying(scores)) >= 0
    scores[3] = 7.0
    assert (memory[3], memory[31]) == (7.0, 31.0)
