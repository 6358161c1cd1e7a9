"""The fifteen features once more, by another road: whole columns at once, no store, no buckets.

Where there are no published features to compare with, the demo compares what the server gathered with these.
"""

import numpy as np
import pyarrow as pa

from fraudgate.demo.data import LABEL_DELAY_NS, codes
from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.transaction import Float64, Int64

WINDOW_DAYS = (1, 7, 30)
NIGHT_HOUR_LAST = 6  # 06:59:59 is night
FRIDAY = 4
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0

# An entity's events lie in a stretch of their own on one axis: its number in the high bits, seconds in the low ones.
_STRETCH = 1 << 34


def recompute(events: pa.Table, first_row: int) -> Float64:
    """Features of the rows from ``first_row`` on: float64 [n, 15], in the order of the benchmark's README.

    ``events`` are time-sorted bulk-load columns with every label. A row sees the rows before it and itself, and each
    fraud from seven days after it happened.
    """
    seconds = np.asarray(events["event_time"].cast(pa.int64()).to_numpy()) // SECOND_NS
    minor = np.asarray(events["amount_minor"].to_numpy())
    fraud = np.asarray(events["is_fraud"].to_numpy(zero_copy_only=False)).astype(np.int64)
    weekday = (seconds // DAY_SECONDS + EPOCH_WEEKDAY) % 7
    hour = seconds % DAY_SECONDS // 3600
    columns = [minor / 100, weekday > FRIDAY, hour <= NIGHT_HOUR_LAST]
    columns += _customer_windows(codes(events["customer_id"].to_pylist()), seconds, minor)
    columns += _terminal_windows(codes(events["terminal_id"].to_pylist()), seconds, fraud)
    return np.column_stack([np.asarray(column, np.float64)[first_row:] for column in columns])


def _customer_windows(customer: Int64, seconds: Int64, minor: Int64) -> list[Float64]:
    axis, order = _axis(customer, seconds)
    total = _running(minor[order])
    last = np.arange(1, len(axis) + 1)  # a row's window ends with itself, whatever else its second holds
    columns = []
    for days in WINDOW_DAYS:
        first = np.searchsorted(axis, axis - days * DAY_SECONDS, side="right")
        count = last - first
        columns += [_unsort(count, order), _unsort((total[last] - total[first]) / count / 100, order)]
    return columns


def _terminal_windows(terminal: Int64, seconds: Int64, fraud: Int64) -> list[Float64]:
    axis, order = _axis(terminal, seconds)
    total = _running(fraud[order])
    known = axis - LABEL_DELAY_NS // SECOND_NS
    last = np.searchsorted(axis, known, side="right")
    columns = []
    for days in WINDOW_DAYS:
        first = np.searchsorted(axis, known - days * DAY_SECONDS, side="right")
        count = last - first
        columns += [_unsort(count, order), _unsort((total[last] - total[first]) / np.maximum(count, 1), order)]
    return columns


def _axis(entity: Int64, seconds: Int64) -> tuple[Int64, Int64]:
    # Half a stretch keeps an entity's windows from reaching back into its neighbour's events.
    axis = entity * _STRETCH + _STRETCH // 2 + seconds - seconds[0]
    order = np.argsort(axis, kind="stable")
    return axis[order], order


def _running(values: Int64) -> Int64:
    return np.concatenate([[0], np.cumsum(values)])


def _unsort(values: Int64 | Float64, order: Int64) -> Float64:
    back = np.empty(len(values))
    back[order] = values
    return back
