"""Exact windows: the events of every series (one entity of one kind), in one arena of NumPy arrays.

A *bucket* is all events of a series in one tick. A series owns a slot of the arena, a power of two of buckets:

    tick     FIRST   t1    t2    t3   NEVER  NEVER ...      ascending; the sentinel FIRST precedes every event
    totals     b    b+x1  b+x12 ...                         running totals, one row a bucket, from any base b

so that a window (from, to] is one subtraction, totals(to) - totals(from), and a search in a slot needs no bounds: the
sentinel is at or before every instant and the unused rest, never empty, after it. What an event adds to the totals is
its *increment*. Columns are int64 and never overflow because amounts are kept in two halves (see ``plan.py``).

A batch is applied and searched as a whole: NumPy's cost is per call, so 64 appends cost what one does. Events that are
late, or that share a series, go one by one through ``insert``; both ways give the same buckets. Buckets that a series
need no longer keep are dropped when its slot is full, so reads never go back further than ``keep``.
"""

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
LINE_ITEMS = 8
"""64-bit numbers in a cache line."""


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
        self._tabulate(1024)
        self.series_count = 0
        self.version = 0
        """Changes when ``arrays`` are other ones than before."""
        self.open_series(0)

    def __repr__(self) -> str:
        return f"<Windows [{self.series_count - 1} series, {self._used} buckets reserved]>"

    def open_series(self, keep: int) -> int:
        """A new, empty series that keeps buckets younger than ``keep`` ticks before its latest; returns its number."""
        series = self.series_count
        if series == len(self._offset):
            before = self._table
            self._tabulate(2 * series)
            self._table[:series] = before
            self.version += 1
        self.series_count += 1
        self._keep[series] = keep
        offset = self._take_slot(SLOT_BUCKETS_MIN)
        self._ticks[offset] = FIRST
        self._totals[offset] = 0
        self._settle(series, offset, SLOT_BUCKETS_MIN, 0)
        return series

    def _tabulate(self, series: int) -> None:
        """An empty table of series, a cache line each: few of those that a batch needs are in the cache."""
        room = np.zeros(LINE_ITEMS * (series + 1), np.int64)
        start = -room.ctypes.data % (LINE_ITEMS * room.itemsize) // room.itemsize
        self._table: Int64 = room[start : start + LINE_ITEMS * series].reshape(series, LINE_ITEMS)
        # Where its slot begins, its last place, its last bucket, half its size, how many ticks it keeps. A kernel keeps
        # its hints in what is left.
        self._offset, self._limit, self._last, self._half, self._keep = self._table.T[:5]

    def apply(self, series: Int64, ticks: Int64, increments: Int64, alone: list[int], own: Int64) -> Int64 | None:
        """Apply the events of some rows, each to its series of every kind, in order.

        series: [kinds, rows]; ABSENT takes nothing. ticks: [rows]; increments: [rows, columns].
        alone: the positions in ``series``, flat, that are ABSENT or whose series occurs more than once.
        own: [kinds, rows, columns], written: the totals at each event's own bucket just after it was applied.
        Returns the latest tick of each series then, [kinds, rows]; None when that is the event's own tick everywhere.
        """
        every = series
        if alone:
            series = series.copy()
            series.reshape(-1)[alone] = ABSENT
        last = self._last[series]
        latest = self._ticks.take(last)
        late = ticks < latest
        if np.count_nonzero(late):
            late.reshape(-1)[alone] = True
            return self.apply(every, ticks, increments, np.flatnonzero(late).tolist(), own)
        self._totals.take(last, 0, own, "clip")
        own += increments
        bucket = last + (ticks > latest)
        self._ticks[bucket] = ticks
        self._totals[bucket] = own
        self._last[series] = bucket
        full = bucket >= self._limit[series]
        if np.count_nonzero(full):
            for one in series[full].tolist():
                self._make_room(one)
        return self._apply_alone(every.reshape(-1), ticks, increments, alone, own) if alone else None

    def _apply_alone(self, series: Int64, ticks: Int64, increments: Int64, alone: list[int], own: Int64) -> Int64:
        """The events that ``apply`` could not take together. ABSENT stood in for their series and is emptied."""
        empty = int(self._offset[ABSENT])
        self._ticks[empty + 1 : empty + SLOT_BUCKETS_MIN] = NEVER
        self._last[ABSENT] = empty
        rows = len(ticks)
        own = own.reshape(-1, self._columns)
        newest = np.concatenate([ticks] * (len(series) // rows))
        for position in alone:
            row, number = position % rows, int(series[position])
            if number == ABSENT:
                own[position] = 0
            else:
                own[position], newest[position] = self.insert(number, int(ticks[row]), increments[row])
        return newest.reshape(-1, rows)

    def insert(self, series: int, tick: int, increment: Int64) -> tuple[Int64, int]:
        """Apply one event, late or not. An event older than the series keeps changes nothing.

        Returns the totals at its bucket (too old: at the oldest instant kept), [columns], and the series' latest tick.
        """
        last = int(self._last[series])
        latest = int(self._ticks[last])
        horizon = latest - int(self._keep[series])
        if tick <= horizon:
            return self._totals[self._bucket(series, horizon)].copy(), latest
        bucket = self._bucket(series, tick)
        if self._ticks[bucket] != tick:
            bucket += 1
            self._ticks[bucket + 1 : last + 2] = self._ticks[bucket : last + 1]
            self._totals[bucket + 1 : last + 2] = self._totals[bucket : last + 1]
            self._ticks[bucket] = tick
            self._totals[bucket] = self._totals[bucket - 1]
            last += 1
            self._last[series] = last
        self._totals[bucket : last + 1] += increment
        own = self._totals[bucket].copy()
        if last == self._limit[series]:
            self._make_room(series)
        return own, max(latest, tick)

    def swap_slot(self, offset: int, size: int, larger: int) -> int:
        """A slot of ``larger`` buckets, whatever they hold, for one of ``size``: good until another is taken."""
        home = self._reserve(larger)
        self._free.setdefault(size, []).append(offset)
        return home

    def arrays(self) -> tuple[Int64, Int64, Int64]:
        """What a kernel works on: ticks, totals, table of series. Good until ``version`` changes.

        A kernel upholds what holds between two calls: a slot has room for one bucket more, and NEVER after its last.
        """
        return self._ticks, self._totals, self._table

    def ahead(self, buckets: int) -> list[tuple[int, int]]:
        """Address and bytes of the next so many unused buckets. Any thread may ask."""
        used, arrays = self._used, (self._ticks, self._totals)
        return [
            (each.ctypes.data + used * each.strides[0], min(buckets, len(each) - used) * each.strides[0])
            for each in arrays
            if used < len(each)
        ]

    def adjust(self, series: int, tick: int, column: int, delta: int) -> bool:
        """Add to one column of the bucket at ``tick``; False when the series keeps no such bucket."""
        bucket = self._bucket(series, tick)
        if self._ticks[bucket] != tick or not self.keeps(series, tick):
            return False
        self._totals[bucket : int(self._last[series]) + 1, column] += delta
        return True

    def totals_at(self, series: Int64, ticks: Int64, out: Int64) -> None:
        """The totals over everything at or before ``ticks``. series, ticks: [..]; out: [.., columns], written."""
        self._totals.take(self._locate(series, ticks), 0, out, "clip")

    def _locate(self, series: Int64, ticks: Int64) -> Int64:
        """Where the last bucket at or before ``ticks`` lies; a sentinel when there is none. A binary search of all."""
        bucket: Int64 = self._offset[series]
        step = self._half[series]
        for _ in range(int(step.max(initial=0)).bit_length()):
            candidate = bucket + step
            np.putmask(bucket, self._ticks.take(candidate) <= ticks, candidate)
            step >>= 1
        return bucket

    def keeps(self, series: int, tick: int) -> bool:
        """Whether a series still keeps events of this tick."""
        return tick > self.latest(series) - int(self._keep[series])

    def latest(self, series: int) -> int:
        """The latest tick of a series, FIRST when it has none."""
        return int(self._ticks[self._last[series]])

    def kept(self, series: int) -> int:
        """How many buckets a series keeps."""
        horizon = self.latest(series) - int(self._keep[series])
        return int(self._last[series]) - self._bucket(series, max(horizon, FIRST))

    def dump(self) -> tuple[Int64, Int64, Int64]:
        """What every series but ABSENT keeps: buckets [S], then their ticks [B] and what they add, [B, columns]."""
        series = np.arange(1, self.series_count)
        last = self._last[series]
        before = self._locate(series, self._ticks[last] - self._keep[series])
        kept = ragged(before + 1, last - before)
        return last - before, self._ticks[kept], self._totals[kept] - self._totals[kept - 1]

    def load(self, buckets: Int64, ticks: Int64, added: Int64) -> None:
        """Give the series opened so far what ``dump`` returned. Raises ValueError when the numbers do not fit."""
        if len(buckets) != self.series_count - 1 or buckets.min(initial=0) < 0 or buckets.sum() != len(ticks):
            raise ValueError("series and buckets do not match")
        self._replace(np.arange(1, self.series_count), buckets, ticks, added)

    def merge(self, series: Int64, ticks: Int64, increments: Int64) -> None:
        """Apply many events at once, in any order. series, ticks: [N]; increments: [N, columns]; none ABSENT."""
        if not len(series):
            return
        touched = np.unique(series)
        rank = np.empty(self.series_count, np.int64)
        rank[touched] = np.arange(len(touched))
        owners, moments, added = _buckets(rank[series], ticks, increments)
        lengths = np.bincount(owners)
        starts = np.cumsum(lengths) - lengths
        last = self._last[touched]
        after = (moments[starts] > self._ticks[last]) & (last + lengths < self._limit[touched])
        chosen = after[owners]
        self._extend(touched[after], lengths[after], moments[chosen], added[chosen])
        self._rewrite(touched[~after], lengths[~after], moments[~chosen], added[~chosen])

    def _extend(self, touched: Int64, lengths: Int64, moments: Int64, added: Int64) -> None:
        """Append buckets to series that have room for them: ``lengths`` each, ascending, all after the latest."""
        last = self._last[touched]
        place = ragged(last + 1, lengths)
        self._ticks[place] = moments
        self._totals[place] = _running(lengths, added) + np.repeat(self._totals[last], lengths, axis=0)
        self._last[touched] = last + lengths

    def _rewrite(self, touched: Int64, lengths: Int64, moments: Int64, added: Int64) -> None:
        """Merge buckets, ``lengths`` for each series, into what the series hold, and drop what they need not keep."""
        old = self._last[touched] - self._offset[touched]
        kept = ragged(self._offset[touched] + 1, old)
        rank = np.arange(len(touched))
        owners, moments, added = _buckets(
            np.concatenate([np.repeat(rank, old), np.repeat(rank, lengths)]),
            np.concatenate([self._ticks[kept], moments]),
            np.concatenate([self._totals[kept] - self._totals[kept - 1], added]),
        )
        horizon = moments[np.searchsorted(owners, rank, "right") - 1] - self._keep[touched]
        young = moments > horizon[owners]
        self._replace(touched, np.bincount(owners[young], minlength=len(touched)), moments[young], added[young])

    def _replace(self, touched: Int64, lengths: Int64, moments: Int64, added: Int64) -> None:
        """Give series these buckets instead of theirs, ``lengths`` each, ascending."""
        for i in np.flatnonzero(lengths + 1 >= 2 * self._half[touched]).tolist():
            self._rehouse(int(touched[i]), int(lengths[i]))
        offset = self._offset[touched]
        self._ticks[ragged(offset + 1, self._last[touched] - offset)] = NEVER
        place = ragged(offset + 1, lengths)
        self._ticks[place] = moments
        self._totals[place] = _running(lengths, added)
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
        """Drop what a full series need not keep; if that frees under a quarter, move it to a slot twice the size."""
        offset, size = int(self._offset[series]), 2 * int(self._half[series])
        stop = offset + size
        horizon = self._ticks[stop - 1] - self._keep[series]
        start = offset + max(1, int(self._ticks[offset:stop].searchsorted(horizon, "right")))
        kept = stop - start
        if 4 * (kept + 1) <= 3 * size:
            home = offset
        else:
            size, home = 2 * size, self.swap_slot(offset, size, 2 * size)
        self._totals[home : home + kept + 1] = self._totals[start - 1 : stop]
        self._ticks[home + 1 : home + kept + 1] = self._ticks[start:stop]
        self._ticks[home] = FIRST
        self._ticks[home + kept + 1 : home + size] = NEVER
        self._settle(series, home, size, kept)

    def _settle(self, series: int, offset: int, size: int, length: int) -> None:
        self._offset[series] = offset
        self._half[series] = size // 2
        self._limit[series] = offset + size - 1
        self._last[series] = offset + length

    def _take_slot(self, size: int) -> int:
        """An arena slot of ``size`` unused buckets; the caller writes its sentinel."""
        offset = self._reserve(size)
        self._ticks[offset : offset + size] = NEVER
        return offset

    def _reserve(self, size: int) -> int:
        """Room in the arena for ``size`` buckets."""
        free = self._free.get(size)
        if free:
            return free.pop()
        offset = self._used
        self._used += size
        if self._used > len(self._ticks):
            self._grow()
        return offset

    def _grow(self) -> None:
        room = max(2 * len(self._ticks), self._used)
        ticks, totals = np.empty(room, np.int64), np.empty((room, self._columns), np.int64)
        ticks[: len(self._ticks)] = self._ticks
        totals[: len(self._totals)] = self._totals
        self._ticks, self._totals = ticks, totals
        self.version += 1

    def _bucket(self, series: int, tick: int) -> int:
        """Where the last bucket at or before ``tick`` lies; the sentinel when there is none."""
        offset, stop = int(self._offset[series]), int(self._last[series]) + 1
        return offset + int(self._ticks[offset:stop].searchsorted(tick, "right")) - 1


def ragged(starts: Int64, lengths: Int64) -> Int64:
    """The concatenation of starts[i] .. starts[i] + lengths[i] - 1."""
    shift = starts - np.cumsum(lengths) + lengths
    return np.repeat(shift, lengths) + np.arange(int(lengths.sum()))


def _running(lengths: Int64, added: Int64) -> Int64:
    """Running totals of ``added``, [B, columns], that begin anew after every ``lengths`` rows."""
    running = np.append(np.zeros((1, added.shape[1]), np.int64), np.cumsum(added, axis=0), axis=0)
    starts = np.cumsum(lengths) - lengths
    since_start: Int64 = running[1:] - np.repeat(running[starts], lengths, axis=0)
    return since_start


def _buckets(owners: Int64, ticks: Int64, added: Int64) -> tuple[Int64, Int64, Int64]:
    """Events, or buckets, by owner (dense from 0), then tick; those of one owner and tick are added up."""
    if not len(owners):
        return owners, ticks, added
    early = int(ticks.min())
    span = int(ticks.max()) - early + 1
    if (int(owners.max()) + 1) * span >= NEVER:
        raise ValueError("too many series over too long a time for one merge")
    keys = owners * span + (ticks - early)
    order = keys.argsort()
    keys = keys[order]
    new = np.append(True, keys[1:] != keys[:-1])
    owners, since = np.divmod(keys[new], span)
    summed = added[order[new]]
    repeats = np.flatnonzero(~new)  # few, so that adding them one by one is cheaper than reducing all
    np.add.at(summed, np.cumsum(new)[repeats] - 1, added[order[repeats]])
    return owners, since + early, summed
