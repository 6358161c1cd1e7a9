"""The slab: one piece of memory, written once, zero where no row is."""

import warnings

import numpy as np
import pytest

from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import ALIGNMENT_BYTES, Slab, aligned_float32


def rows(count: int, features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


@pytest.mark.parametrize("features", [1, 3, 15, 16, 64, 255])
def test_numpy_and_arrow_views_share_an_aligned_address(features):
    slab = Slab(features)
    arrow_values = slab.arrow.flatten().buffers()[1]
    assert slab.address == slab.array.ctypes.data == arrow_values.address
    assert slab.address % ALIGNMENT_BYTES == 0
    assert arrow_values.size >= BATCH_ROWS_MAX * features * 4
    assert slab.array.shape == (BATCH_ROWS_MAX, features)
    assert slab.array.dtype == np.float32
    assert slab.array.flags.c_contiguous
    assert (len(slab.arrow), slab.arrow.type.list_size) == (BATCH_ROWS_MAX, features)


def test_outputs_are_aligned_too():
    assert all(aligned_float32(BATCH_ROWS_MAX, 1).ctypes.data % ALIGNMENT_BYTES == 0 for _ in range(64))


def test_what_is_packed_shows_in_both_views_at_the_same_address():
    slab = Slab(4)
    address = slab.address
    values = rows(5, 4)
    slab.pack(values)
    assert slab.array.ctypes.data == address
    assert slab.arrow.to_pylist()[:5] == values.astype(np.float32).tolist()
    assert slab.arrow.to_pylist()[5:] == [[0.0] * 4] * 27


def test_padding_is_zero_whatever_the_fill_before():
    random = np.random.default_rng(7)
    slab = Slab(3)
    for fill in [32, 0, 1, 32, 31, 5, 5, 6, 0, 0, 32, *random.integers(0, 33, 500)]:
        values = random.normal(size=(fill, 3)) + 10
        slab.pack(values)
        oracle = np.zeros((BATCH_ROWS_MAX, 3), np.float32)
        oracle[:fill] = values
        assert np.array_equal(slab.array, oracle)


def test_a_value_is_cast_as_astype_casts_it():
    values = np.array([[0.1, 1 / 3, -1e-45, 16_777_217.0, np.nan, np.inf, -np.inf]])
    slab = Slab(7)
    slab.pack(values)
    assert np.array_equal(slab.array[:1].view(np.uint32), values.astype(np.float32).view(np.uint32))


def test_a_value_beyond_float32_becomes_an_infinity_without_a_warning():
    slab = Slab(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slab.pack(np.array([[1e300, -1e300]]))
    assert slab.array[0].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("shape", [(33, 4), (2, 3), (2, 1), (4,)])
def test_another_shape_is_our_mistake_and_leaves_the_slab_alone(shape):
    slab = Slab(4)
    slab.pack(rows(3, 4))
    before = slab.array.copy()
    with pytest.raises(AssertionError):
        slab.pack(np.ones(shape))
    assert np.array_equal(slab.array, before)


def test_a_slab_has_features():
    with pytest.raises(ValueError, match="at least one feature"):
        Slab(0)


def test_repr_says_what_is_in_it():
    slab = Slab(15)
    slab.pack(rows(7, 15))
    assert repr(slab) == "<Slab float32[32, 15] 7 rows>"
