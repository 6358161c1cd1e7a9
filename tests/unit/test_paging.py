"""Which memory the pager asks for, and when."""

import mmap

import numpy as np
import pytest

from fraudgate import wheel
from fraudgate.features.windows import SLOT_BUCKETS_MIN, Windows
from fraudgate.idempotency import IdempotencyTable
from fraudgate.paging import ENTRIES_AHEAD, Extent, Pager


class Table:
    """Grows when told to."""

    def __init__(self, used: int) -> None:
        self.used = used

    def ahead(self, entries: int) -> list[Extent]:
        return [(self.used, entries)] if self.used else []


def test_memory_is_asked_for_when_a_table_has_grown() -> None:
    asked: list[list[Extent]] = []
    empty, filled = Table(0), Table(100)
    pager = Pager([empty.ahead, filled.ahead], asked.append)
    pager.look()
    assert asked == [], "nothing has happened since the start"
    empty.used = 5
    pager.look()
    filled.used = 101
    pager.look()
    pager.look()
    assert asked == [[(5, ENTRIES_AHEAD)], [(101, ENTRIES_AHEAD)]]
    empty.used = 0
    pager.look()
    assert len(asked) == 2


def test_a_pager_stops_started_or_not() -> None:
    pager = Pager([Table(1).ahead], lambda _: None)
    pager.stop()
    pager.start()
    pager.stop()
    assert not pager._thread.is_alive()


def test_the_unused_end_of_the_arena_is_ahead() -> None:
    windows = Windows(3)
    before = windows.ahead(1)
    windows.open_series(10)
    after = windows.ahead(1)
    assert [size for _, size in before] == [8, 24]
    assert [later - early for (early, _), (later, _) in zip(before, after, strict=True)] == [
        SLOT_BUCKETS_MIN * 8,
        SLOT_BUCKETS_MIN * 24,
    ]
    ticks, totals, _ = windows.arrays()
    assert [start + size for start, size in windows.ahead(1 << 40)] == [
        array.ctypes.data + array.nbytes for array in (ticks, totals)
    ]


@pytest.mark.skipif(not wheel.INSTALLED, reason="fraudgate_ingress is not built")
def test_the_next_claims_are_ahead_from_the_first_to_the_last_slot() -> None:
    table = IdempotencyTable(5_000)
    assert table.ahead(10) == []
    ids = [f"t{number}" for number in range(6_000)]
    table.claim(ids[:7], [bytes(16)] * 7, range(7), 0)
    sizes = sorted(size for _, size in table.ahead(10))
    assert sizes[:-1] == sorted(10 * size for size in (64, 1, 4, 16, 8, 73)), "and the whole index"
    for start in range(7, 6_000, 32):
        some = ids[start : start + 32]
        table.claim(some, [bytes(16)] * len(some), range(len(some)), 0)
    assert table.ahead(10) == [], "every slot was taken"
    assert IdempotencyTable(5_000, native=False).ahead(10) == []


@pytest.mark.skipif(not wheel.INSTALLED, reason="fraudgate_ingress is not built")
def test_memory_that_is_provided_keeps_its_bytes() -> None:
    memory = np.arange(4 * mmap.PAGESIZE, dtype=np.uint8)
    before = memory.copy()
    wheel.module().populate([(memory.ctypes.data + 5, memory.nbytes - 5), (0, 0), (mmap.PAGESIZE, mmap.PAGESIZE)])
    assert np.array_equal(memory, before)
