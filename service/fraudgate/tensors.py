"""The slab: where a batch's features meet the engine without being copied again.

Float64 features are cast on the one write that packs them; the engine reads the slab where it lies.
"""

from contextvars import Context, copy_context

import numpy as np
import pyarrow as pa

from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32, Float64

ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector register: what Arrow and the engines' kernels want."""


def aligned_float32(rows: int, columns: int) -> Float32:
    """A zeroed float32[rows, columns] whose first byte is 64-byte aligned."""
    size = rows * columns * np.dtype(np.float32).itemsize
    raw = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + size].view(np.float32).reshape(rows, columns)


def quiet_context() -> Context:
    """A context whose ``run`` calls something under ``np.errstate(all="ignore")``, for one thread.

    Running in it costs a tenth of what entering ``errstate`` does.
    """
    context = copy_context()
    context.run(np.seterr, all="ignore")
    return context


class Slab:
    """Memory of one batch in flight: float32[32, features], allocated once, zeroed.

    ``array`` (NumPy) and ``arrow`` (fixed_size_list<float>[features], 32 rows) are views of the same address. Only
    ``pack`` and ``write`` may write: they remember which rows they left dirty.
    """

    def __init__(self, features: int) -> None:
        if features < 1:
            raise ValueError("a slab needs at least one feature")
        self.features = features
        self.array: Float32 = aligned_float32(BATCH_ROWS_MAX, features)
        self.address: int = self.array.ctypes.data
        values = pa.Array.from_buffers(pa.float32(), self.array.size, [None, pa.py_buffer(self.array)])
        self.arrow = pa.FixedSizeListArray.from_arrays(values, features)
        self._dirty_rows = 0

    def __repr__(self) -> str:
        return f"<Slab float32[{BATCH_ROWS_MAX}, {self.features}] {self._dirty_rows} rows>"

    def pack(self, values: Float64) -> None:
        """Write float64[n, features], 0 <= n <= 32, as rows 0..n; rows n.. are zero afterwards.

        A value beyond float32 becomes an infinity, which the guardrails see in the score.
        """
        with np.errstate(over="ignore"):
            self.write(values)

    def write(self, values: Float64) -> None:
        """``pack`` for a caller that ignores overflows already, see ``quiet_context``."""
        rows = len(values)
        assert rows <= BATCH_ROWS_MAX, rows
        assert values.shape == (rows, self.features), values.shape
        self.array[:rows] = values
        if rows < self._dirty_rows:
            self.array[rows : self._dirty_rows] = 0.0
        self._dirty_rows = rows
