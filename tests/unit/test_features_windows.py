"""The arena of buckets: growth, room, expiry, and sums that do not overflow."""

import numpy as np
import pytest

from fraudgate.features.plan import Plan
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.windows import ABSENT, NEVER, Windows, ragged
from fraudgate.limits import AMOUNT_MINOR_MAX
from fraudgate.transaction import Int64


def totals_at(windows: Windows, series: int, tick: int) -> list[int]:
    out = np.empty((1, 2), np.int64)
    windows.totals_at(np.array([series]), np.array([tick]), out)
    counted: list[int] = out[0].tolist()
    return counted


def append(windows: Windows, series: list[int], tick: int, increment: Int64) -> None:
    rows = np.array([series])
    own = np.empty((1, len(series), 2), np.int64)
    ticks = np.full(len(series), tick)
    windows.apply(rows, ticks, np.broadcast_to(increment, (len(series), 2)), [], own)


ONE = np.array([1, 10])


def test_an_arena_that_outgrows_its_reserve_keeps_everything() -> None:
    windows = Windows(columns=2, buckets_reserved=8)
    series = [windows.open_series(keep=1_000) for _ in range(50)]
    for tick in range(100):
        append(windows, series, tick, ONE)
    for number in series:
        assert [totals_at(windows, number, tick) for tick in (-1, 0, 50, 99, 10**9)] == [
            [0, 0], [1, 10], [51, 510], [100, 1_000], [100, 1_000],
        ]  # fmt: skip
    assert totals_at(windows, ABSENT, 10**9) == [0, 0]


def test_more_series_than_were_foreseen() -> None:
    windows = Windows(columns=2, buckets_reserved=8)
    series = [windows.open_series(keep=10) for _ in range(5_000)]
    append(windows, series, 7, ONE)
    assert [totals_at(windows, number, 7) for number in (series[0], series[1_023], series[-1])] == [[1, 10]] * 3


def test_what_need_not_be_kept_is_dropped_and_its_slot_stays_small() -> None:
    windows = Windows(columns=2)
    series = windows.open_series(keep=5)
    for tick in range(10_000):
        append(windows, [series], tick, ONE)
        assert windows.kept(series) == min(tick + 1, 5)
    assert repr(windows) == "<Windows [1 series, 16 buckets reserved]>"  # slots of 4 (absent), 4 (outgrown), 8
    assert windows.latest(series) == 9_999
    assert [windows.keeps(series, tick) for tick in (9_994, 9_995)] == [False, True]


def test_slots_that_were_outgrown_are_used_again() -> None:
    windows = Windows(columns=2)
    first, second = windows.open_series(keep=1_000), windows.open_series(keep=1_000)
    for tick in range(100):
        append(windows, [first], tick, ONE)
    before = windows._used
    for tick in range(50):
        append(windows, [second], tick, ONE)
    assert windows._used == before
    assert totals_at(windows, first, 99) == [100, 1_000]
    assert totals_at(windows, second, 99) == [50, 500]


def test_late_same_tick_and_far_too_late_events() -> None:
    windows = Windows(columns=2)
    series = windows.open_series(keep=10)
    for tick in (20, 15, 20, 12, 15):
        windows.insert(series, tick, ONE)
    own, latest = windows.insert(series, 10, ONE)  # 10 is not after 20 - 10: too late
    assert (own.tolist(), latest) == ([0, 0], 20)
    assert [totals_at(windows, series, tick)[0] for tick in (11, 12, 14, 15, 19, 20)] == [0, 1, 1, 3, 3, 5]
    own, latest = windows.insert(series, 11, ONE)
    assert (own.tolist(), latest) == ([1, 10], 20)


def test_a_mark_needs_a_bucket_that_is_kept() -> None:
    windows = Windows(columns=2)
    series = windows.open_series(keep=10)
    append(windows, [series], 100, ONE)
    assert windows.adjust(series, 100, 1, 5)
    assert not windows.adjust(series, 99, 1, 5)
    assert totals_at(windows, series, 100) == [1, 15]
    append(windows, [series], 110, ONE)
    assert not windows.adjust(series, 100, 1, -5)


def test_merge_of_nothing_and_of_impossible_spans() -> None:
    windows = Windows(columns=2)
    first, second = windows.open_series(keep=10), windows.open_series(keep=10)
    windows.merge(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 2), np.int64))
    assert windows.latest(first) < 0
    with pytest.raises(ValueError, match="too many series over too long a time"):
        windows.merge(np.array([first, second]), np.array([0, NEVER // 2]), np.array([ONE, ONE]))


def test_load_refuses_what_dump_did_not_write() -> None:
    windows = Windows(columns=2)
    windows.open_series(keep=10)
    with pytest.raises(ValueError, match="do not match"):
        windows.load(np.array([2]), np.array([5]), np.array([ONE]))


def test_ragged() -> None:
    assert ragged(np.array([5, 100, 7]), np.array([2, 0, 3])).tolist() == [5, 6, 7, 8, 9]
    assert ragged(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []


MONEY = FeatureSchema.parse(
    """
    name = "money"
    currency = "EUR"
    feature = [
        {name = "sum", kind = "window", entity = "card_id", aggregate = "sum", width = "30d"},
        {name = "mean", kind = "window", entity = "card_id", aggregate = "mean", width = "30d"},
    ]
    """
)


@pytest.mark.parametrize("payments", [1, 9_007_199_254, 9_300_000_000, 2**43 - 1])
def test_sums_beyond_64_bits_stay_exact(payments: int) -> None:
    """``payments`` of the largest amount, less one cent, in one window: over 2^63 cents from 9.3 million on."""
    plan = Plan(MONEY)
    amount_minor = AMOUNT_MINOR_MAX - 1
    one = plan.increments(np.array([amount_minor]), None)
    windows = Windows(plan.columns)
    own, _ = windows.insert(windows.open_series(keep=1), 0, one[0] * payments)
    assert (own >= 0).all()
    totals = np.zeros((2, 1, plan.columns), np.int64)
    totals[1, 0] = own
    values = np.empty((2, 1))
    plan.fill_windows(values, totals)
    exact = payments * amount_minor
    if payments < 2**33:  # where HIGH is exact in float64
        assert values[:, 0].tolist() == [float(exact) / 100, float(exact) / payments / 100]
    assert values[:, 0].tolist() == pytest.approx([exact / 100, amount_minor / 100], rel=1e-15)
