"""What the store remembers of single transactions: which were reported as fraud, and where recent decisions belong."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fraudgate.features.windows import ABSENT
from fraudgate.limits import OUTCOME_INDEX_ENTRIES_MAX
from fraudgate.transaction import Int64

PAGE_ENTRIES = 4_096


class Place(NamedTuple):
    """Where a transaction's outcome counts: the tick of its event, and the series of its entities."""

    tick: int
    series: tuple[int, ...]


class Reported:
    """Transactions that stand as fraud, and which buckets were marked for each.

    A report can be forgotten once every bucket it marked has expired: ``is_live`` says so. Each new report looks at the
    two oldest, so no call takes long and dead reports do not pile up.
    """

    def __init__(self, is_live: Callable[[Place], bool]) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._is_live = is_live

    def __contains__(self, transaction_id: str) -> bool:
        return transaction_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[str, Place]]:
        return iter(self._places.items())

    def add(self, transaction_id: str, place: Place) -> None:
        """Remember a report."""
        self._places[transaction_id] = place
        for _ in range(2):
            if self._places:
                self._revisit(next(iter(self._places)))

    def pop(self, transaction_id: str) -> Place | None:
        """Forget a report that is taken back; None when there was none."""
        return self._places.pop(transaction_id, None)

    def _revisit(self, transaction_id: str) -> None:
        if self._is_live(self._places[transaction_id]):
            self._places.move_to_end(transaction_id)
        else:
            del self._places[transaction_id]


class DecisionIndex:
    """The latest decisions, by transaction id: at least ``entries_max`` of them, at most a page more.

    New decisions go to an open page, a dictionary. A full page is sealed into arrays sorted by the hash of the id, about
    50 bytes an entry where a dictionary takes 250; the oldest page is dropped whole. So a batch costs microseconds, and
    looking up an id, which is rare, one binary search a page.
    """

    def __init__(self, kinds: int, entries_max: int = OUTCOME_INDEX_ENTRIES_MAX) -> None:
        self._kinds = kinds
        self._pages: deque[_Page] = deque(maxlen=max(1, -(-entries_max // PAGE_ENTRIES)))
        self._open_page()

    def __len__(self) -> int:
        return len(self._pages) * PAGE_ENTRIES + self._rows

    def _open_page(self) -> None:
        self._row_of: dict[str, int] = {}
        self._ids: list[str] = []
        self._ticks: Int64 = np.empty(PAGE_ENTRIES, np.int64)
        self._series: Int64 = np.empty((self._kinds, PAGE_ENTRIES), np.int64)
        self._rows = 0

    def add(self, transaction_ids: Sequence[str], ticks: Int64, series: Int64) -> None:
        """Remember decisions. ticks: [rows]; series: [kinds, rows], ABSENT where a transaction has no such id."""
        if self._rows + len(transaction_ids) > PAGE_ENTRIES:
            self._seal()
        start, stop = self._rows, self._rows + len(transaction_ids)
        self._row_of.update(zip(transaction_ids, range(start, stop), strict=True))
        self._ids += transaction_ids
        self._ticks[start:stop] = ticks
        self._series[:, start:stop] = series
        self._rows = stop

    def find(self, transaction_id: str) -> Place | None:
        """Where the latest decision of this id belongs; None when it is not remembered."""
        row = self._row_of.get(transaction_id)
        if row is not None:
            return _place(self._ticks, self._series, row)
        hashed = hash(transaction_id)
        for page in reversed(self._pages):
            found = page.find(transaction_id, hashed)
            if found is not None:
                return found
        return None

    def _seal(self) -> None:
        if self._rows:
            self._pages.append(_Page(self._ids, self._ticks[: self._rows], self._series[:, : self._rows]))
            self._open_page()

    def dump(self) -> tuple[Any, Int64, Int64]:
        """Everything, oldest first: ids (Arrow) [N], ticks [N], series [kinds, N]."""
        pages = [(page.ids, page.ticks, page.series) for page in self._pages]
        pages.append((pa.array(self._ids, pa.utf8()), self._ticks[: self._rows], self._series[:, : self._rows]))
        ids, ticks, series = zip(*pages, strict=True)
        return pa.concat_arrays(ids), np.concatenate(ticks), np.concatenate(series, axis=1)

    def load(self, ids: list[str], ticks: Int64, series: Int64) -> None:
        """Add what ``dump`` returned."""
        for start in range(0, len(ids), PAGE_ENTRIES):
            page = slice(start, start + PAGE_ENTRIES)
            self.add(ids[page], ticks[page], series[:, page])


class _Page:
    """A full page: columns in the order of arrival, and that order sorted by hash."""

    def __init__(self, ids: Sequence[str], ticks: Int64, series: Int64) -> None:
        self.ids: Any = pa.array(ids, pa.utf8())
        self.ticks = ticks.copy()
        self.series = series.astype(np.int32)
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order = np.argsort(hashes).astype(np.int16)
        self._hashes = hashes[self._order]

    def find(self, transaction_id: str, hashed: int) -> Place | None:
        start = int(self._hashes.searchsorted(hashed))
        if start == len(self._hashes) or self._hashes[start] != hashed:
            return None
        alike = self._order[start : self._hashes.searchsorted(hashed, "right")]
        rows = [row for row in alike.tolist() if self.ids[row].as_py() == transaction_id]
        return _place(self.ticks, self.series, max(rows)) if rows else None


def _place(ticks: Any, series: Any, row: int) -> Place:
    return Place(int(ticks[row]), tuple(number for number in series[:, row].tolist() if number != ABSENT))
