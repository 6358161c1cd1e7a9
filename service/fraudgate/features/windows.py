"""Exact windows: the events of every series (one entity of one kind), in one arena of NumPy arrays.

A *bucket* is all events of a series in one tick. A series owns a slot of the arena, a power of two of buckets:

    tick     FIRST   t1    t2    t3   NEVER  NEVER ...      ascending; the sentinel FIRST precedes every event
    totals     b    b+x1  b+x12 ...                         running totals since the series began, one row a bucket

so that a window (from, to] is one subtraction, totals(to) - totals(from), and a search in a slot needs no bounds: the
sentinel is at or before every instant and the unused rest after it. What one event adds to the totals is its
*increment*. Columns are int64 and never overflow because amounts are kept in two halves (see ``plan.py``).

A batch is applied and searched as a whole: NumPy's cost is per call, so 64 appends cost what one does. Events that are
late, or that share a series, go one by one through ``insert``; both ways give the same buckets.
"""

from typing import Any

import numpy as np

from fraudgate.transaction import Int64

FIRST = -(1 << 62)
"""The tick of the sentinel that opens a slot: before every event."""
NEVER = 1 << 62
"""The tick of an unused bucket: after every event."""
ABSENT = 0
"""The series of an absent id: always empty."""
BUCKETS_RESERVED = 1 << 22
"""Address space taken at the start; pages become resident as they are used, so most growth copies nothing."""
SLOT_BUCKETS_MIN = 4


class Windows:
    """Buckets of any number of series.

    columns: width of the totals. Times are integer ticks. Not thread-safe.
    """

    def __init__(self, columns: int, buckets_reserved: int = BUCKETS_RESERVED) -> None:
        self._columns = columns
        self._ticks: Int64 = np.empty(buckets_reserved, np.int64)
        self._totals: Int64 = np.empty((buckets_reserved, columns), np.int64)
        self._used = 0  # buckets of the arena that belong to slots
        self._free: dict[int, list[int]] = {}  # slots given back, by size
        # By series: where its slot begins, half its size, its last bucket, and how many ticks it keeps.
        self._offset: Int64 = np.zeros(1024, np.int64)
        self._half: Int64 = np.zeros(1024, np.int64)
        self._last: Int64 = np.zeros(1024, np.int64)
        self._keep: Int64 = np.zeros(1024, np.int64)
        self.series_count = 0
        self.open_series(0)

    def __repr__(self) -> str:
        return f"<Windows [{self.series_count - 1} series, {self._used} buckets reserved]>"

    def open_series(self, keep: int) -> int:
        """A new, empty series that keeps buckets younger than ``keep`` ticks before its latest; returns its number."""
        series = self.series_count
        if series == len(self._offset):
            self._offset, self._half, self._last, self._keep = (
                np.concatenate([column, np.zeros_like(column)])
                for column in (self._offset, self._half, self._last, self._keep)
            )
        self.series_count += 1
        self._keep[series] = keep
        offset = self._take_slot(SLOT_BUCKETS_MIN)
        self._ticks[offset] = FIRST
        self._totals[offset] = 0
        self._settle(series, offset, SLOT_BUCKETS_MIN, 0)
        return series

    def apply(self, series: Int64, ticks: Int64, increments: Int64, alone: list[int]) -> tuple[Int64, Int64]:
        """Apply one event to each series, in order.

        series, ticks: [P]; increments: [P, columns]; ABSENT takes nothing. ``alone``: the positions whose series occurs
        more than once or is ABSENT.
        Returns the totals at each event's own bucket just after it was applied, [P, columns], and the latest tick of
        each series then, [P].
        """
        last = self._last.take(series)
        latest = self._ticks.take(last)
        together = (ticks >= latest) & (last < self._limit(series))
        if alone:
            together[alone] = False
        if together.all():
            return self._append(series, ticks, increments, last, latest), ticks
        own = np.zeros_like(increments)
        newest = ticks.copy()
        for i in np.flatnonzero(~together).tolist():
            if series[i] != ABSENT:
                own[i], newest[i] = self.insert(int(series[i]), int(ticks[i]), increments[i])
        rows = np.flatnonzero(together)
        own[rows] = self._append(series[rows], ticks[rows], increments[rows], last[rows], latest[rows])
        return own, newest

    def _append(self, series: Int64, ticks: Int64, increments: Int64, last: Int64, latest: Int64) -> Int64:
        """Events at or after the latest of their series, each series once, all with room."""
        own = self._totals.take(last, axis=0)
        own += increments
        bucket = last + (ticks > latest)
        self._ticks[bucket] = ticks
        self._totals[bucket] = own
        self._last[series] = bucket
        return own

    def insert(self, series: int, tick: int, increment: Int64) -> tuple[Int64, int]:
        """Apply one event, late or not. An event older than the series keeps changes nothing.

        Returns the totals at its bucket (one too old: at the oldest instant kept), [columns], and the series' latest tick.
        """
        last = int(self._last[series])
        latest = int(self._ticks[last])
        horizon = latest - int(self._keep[series])
        if tick <= horizon:
            return self._totals[self._bucket(series, horizon)].copy(), latest
        bucket = self._bucket(series, tick)
        if self._ticks[bucket] != tick:
            if last >= self._offset[series] + 2 * self._half[series] - 1:
                self._make_room(series)
                last, bucket = int(self._last[series]), self._bucket(series, tick)
            bucket += 1
            self._ticks[bucket + 1 : last + 2] = self._ticks[bucket : last + 1]
            self._totals[bucket + 1 : last + 2] = self._totals[bucket : last + 1]
            self._ticks[bucket] = tick
            self._totals[bucket] = self._totals[bucket - 1]
            last += 1
            self._last[series] = last
        self._totals[bucket : last + 1] += increment
        return self._totals[bucket].copy(), max(latest, tick)

    def adjust(self, series: int, tick: int, column: int, delta: int) -> bool:
        """Add to one column of the bucket at ``tick``; False when the series keeps no such bucket."""
        bucket = self._bucket(series, tick)
        if self._ticks[bucket] != tick or not self.keeps(series, tick):
            return False
        self._totals[bucket : int(self._last[series]) + 1, column] += delta
        return True

    def totals_at(self, series: Int64, ticks: Int64, out: Int64) -> None:
        """The totals over everything at or before ``ticks``. series, ticks: [Q]; out: [Q, columns], written."""
        bucket = self._offset.take(series)
        step = self._half.take(series)
        for _ in range(int(step.max(initial=0)).bit_length()):
            candidate = bucket + step
            np.copyto(bucket, candidate, where=self._ticks.take(candidate) <= ticks)
            step >>= 1
        self._totals.take(bucket, 0, out, "clip")

    def keeps(self, series: int, tick: int) -> bool:
        """Whether a series still keeps events of this tick."""
        return tick > self.latest(series) - int(self._keep[series])

    def latest(self, series: int) -> int:
        """The latest tick of a series, FIRST when it has none."""
        return int(self._ticks[self._last[series]])

    def read(self, series: int) -> tuple[Int64, Int64]:
        """What a series keeps: ticks [B], ascending, and what each bucket adds, [B, columns]. Copies."""
        offset, stop = int(self._offset[series]), int(self._last[series]) + 1
        expired = self.latest(series) - int(self._keep[series])
        start = offset + int(self._ticks[offset:stop].searchsorted(max(expired, FIRST), "right"))
        return self._ticks[start:stop].copy(), self._totals[start:stop] - self._totals[start - 1 : stop - 1]

    def merge(self, series: Int64, ticks: Int64, increments: Int64) -> None:
        """Apply many events at once, in any order. series, ticks: [N]; increments: [N, columns]; none ABSENT."""
        touched = np.unique(series)
        lengths = self._last[touched] - self._offset[touched]
        kept = ragged(self._offset[touched] + 1, lengths)
        owners = np.concatenate([np.repeat(touched, lengths), series])
        moments = np.concatenate([self._ticks[kept], ticks])
        order = np.lexsort((moments, owners))
        owners, moments = owners[order], moments[order]
        added = np.concatenate([self._totals[kept] - self._totals[kept - 1], increments])[order]

        first = np.flatnonzero(np.append(True, (owners[1:] != owners[:-1]) | (moments[1:] != moments[:-1])))
        owners, moments, added = owners[first], moments[first], np.add.reduceat(added, first, axis=0)
        ends = np.append(np.flatnonzero(owners[1:] != owners[:-1]), len(owners) - 1)
        horizon = moments[ends] - self._keep[touched]
        young = moments > np.repeat(horizon, np.diff(ends, prepend=-1))
        self._replace(touched, owners[young], moments[young], added[young])

    def _replace(self, touched: Int64, owners: Int64, moments: Int64, added: Int64) -> None:
        """Rewrite whole series. ``touched`` ascending; the rest by series, then tick, each bucket once."""
        starts = np.searchsorted(owners, touched)
        lengths = np.diff(starts, append=len(owners))
        small = np.flatnonzero(lengths + 1 >= 2 * self._half[touched])
        for i in small.tolist():
            self._rehouse(int(touched[i]), int(lengths[i]))
        offset = self._offset[touched]
        self._ticks[ragged(offset + 1, self._last[touched] - offset)] = NEVER
        running = np.cumsum(added, axis=0)
        before = running[starts] - added[starts]
        place = ragged(offset + 1, lengths)
        self._ticks[place] = moments
        self._totals[place] = running - np.repeat(before, lengths, axis=0)
        self._totals[offset] = 0
        self._last[touched] = offset + lengths

    def _rehouse(self, series: int, length: int) -> None:
        """Give an outgrown series an empty slot with room for ``length`` buckets and as many again."""
        size = SLOT_BUCKETS_MIN
        while size <= length + length // 3 + 1:
            size *= 2
        self._free.setdefault(int(2 * self._half[series]), []).append(int(self._offset[series]))
        offset = self._take_slot(size)
        self._ticks[offset] = FIRST
        self._settle(series, offset, size, 0)

    def _make_room(self, series: int) -> None:
        """Drop what a full series need not keep; if that is under a quarter of its slot, move it to one twice the size."""
        offset, size = int(self._offset[series]), 2 * int(self._half[series])
        stop = offset + size
        horizon = self._ticks[stop - 1] - self._keep[series]
        start = offset + max(1, int(self._ticks[offset:stop].searchsorted(horizon, "right")))
        kept = stop - start
        if 4 * (kept + 1) <= 3 * size:
            home = offset
        else:
            size, home = 2 * size, self._take_slot(2 * size)
            self._free.setdefault(size // 2, []).append(offset)
        self._totals[home : home + kept + 1] = self._totals[start - 1 : stop]
        self._ticks[home + 1 : home + kept + 1] = self._ticks[start:stop]
        self._ticks[home] = FIRST
        self._ticks[home + kept + 1 : home + size] = NEVER
        self._settle(series, home, size, kept)

    def _settle(self, series: int, offset: int, size: int, length: int) -> None:
        self._offset[series] = offset
        self._half[series] = size // 2
        self._last[series] = offset + length

    def _take_slot(self, size: int) -> int:
        """An arena slot of ``size`` unused buckets; the caller writes its sentinel."""
        free = self._free.get(size)
        if free:
            offset = free.pop()
        else:
            offset = self._used
            self._used += size
            if self._used > len(self._ticks):
                self._grow()
        self._ticks[offset : offset + size] = NEVER
        return offset

    def _grow(self) -> None:
        room = max(2 * len(self._ticks), self._used)
        ticks, totals = np.empty(room, np.int64), np.empty((room, self._columns), np.int64)
        ticks[: len(self._ticks)] = self._ticks
        totals[: len(self._totals)] = self._totals
        self._ticks, self._totals = ticks, totals

    def _bucket(self, series: int, tick: int) -> int:
        """Where the last bucket at or before ``tick`` lies; the sentinel when there is none."""
        offset, stop = int(self._offset[series]), int(self._last[series]) + 1
        return offset + int(self._ticks[offset:stop].searchsorted(tick, "right")) - 1

    def _limit(self, series: Int64) -> Int64:
        limit: Any = self._offset.take(series) + 2 * self._half.take(series) - 1
        return limit  # type: ignore[no-any-return]


def ragged(starts: Int64, lengths: Int64) -> Int64:
    """The concatenation of starts[i] .. starts[i] + lengths[i] - 1."""
    total = int(lengths.sum())
    shift = starts - np.cumsum(lengths) + lengths
    return np.repeat(shift, lengths) + np.arange(total)
