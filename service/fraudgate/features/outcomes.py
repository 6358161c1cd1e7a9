"""What the store remembers of single transactions: which were reported as fraud, and where recent decisions belong."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa

from fraudgate.features.windows import ABSENT
from fraudgate.limits import OUTCOME_INDEX_ENTRIES_MAX
from fraudgate.transaction import Int64, UInt32

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

    New decisions are kept as they come, batch by batch; asking for one scans them, which is rare. A full page is sealed
    into arrays sorted by the hash of the id, a third of what a dictionary takes; the oldest page is dropped whole.
    """

    def __init__(self, kinds: int, entries_max: int = OUTCOME_INDEX_ENTRIES_MAX) -> None:
        self._kinds = kinds
        self._place_bytes = 8 * (1 + kinds)
        self._pages: deque[_Page] = deque(maxlen=max(1, -(-entries_max // PAGE_ENTRIES)))
        self._open: list[tuple[Any, bytes]] = []
        self._open_rows = 0

    def __len__(self) -> int:
        return sum(len(page.ticks) for page in self._pages) + self._open_rows

    def add(self, transaction_ids: Any, places: bytes) -> None:
        """Remember decisions.

        transaction_ids: a list of texts, or the batch in the front end's memory, see ``Columns.native``.
        places: the bytes of int64 [rows, 1 + kinds]: tick, then series by kind, ABSENT where a transaction has no such
        id. The arguments are kept: they must not change later.
        """
        self._open.append((transaction_ids, places))
        self._open_rows += len(places) // self._place_bytes
        if self._open_rows >= PAGE_ENTRIES:
            self._pages.append(_Page(*self._open_ids(), *self._open_places()))
            self._open, self._open_rows = [], 0

    def find(self, transaction_id: str) -> Place | None:
        """Where the latest decision of this id belongs; None when it is not remembered."""
        for batch, places in reversed(self._open):
            ids = _texts(batch)
            if transaction_id in ids:
                ticks, series = self._columns(places)
                return _place(ticks, series, max(row for row, each in enumerate(ids) if each == transaction_id))
        hashed = np.uint32(_hash(transaction_id))
        for page in reversed(self._pages):
            place = page.find(transaction_id, hashed)
            if place is not None:
                return place
        return None

    def dump(self) -> tuple[Any, Int64, Int64]:
        """Everything, oldest first: ids (Arrow) [N], ticks [N], series [kinds, N]."""
        pages = [(page.ids, page.ticks, page.series) for page in self._pages]
        pages.append((self._open_ids()[0], *self._open_places()))
        return (
            pa.concat_arrays([ids for ids, _, _ in pages]),
            np.concatenate([ticks for _, ticks, _ in pages]),
            np.concatenate([series for _, _, series in pages], axis=1),
        )

    def load(self, ids: list[str], ticks: Int64, series: Int64) -> None:
        """Add what ``dump`` returned."""
        for start in range(0, len(ids), PAGE_ENTRIES):
            page = slice(start, start + PAGE_ENTRIES)
            self.add(ids[page], np.vstack((ticks[page], series[:, page])).T.tobytes())

    def _open_ids(self) -> tuple[Any, UInt32]:
        """The ids of the open page (Arrow) and their hashes."""
        batches = [batch for batch, _ in self._open]
        if batches and not any(isinstance(batch, list) for batch in batches):
            offsets, texts, hashes = batches[0].joined_ids(batches)
            ids = pa.StringArray.from_buffers(self._open_rows, pa.py_buffer(offsets), pa.py_buffer(texts))
            return ids, np.frombuffer(hashes, np.uint32)
        names = list(chain.from_iterable(map(_texts, batches)))
        return pa.array(names, pa.utf8()), np.fromiter(map(_hash, names), np.uint32, len(names))

    def _open_places(self) -> tuple[Int64, Int64]:
        return self._columns(b"".join(places for _, places in self._open))

    def _columns(self, places: bytes) -> tuple[Int64, Int64]:
        """Ticks [rows] and series [kinds, rows]."""
        columns = np.frombuffer(places, np.int64).reshape(-1, 1 + self._kinds).T
        return columns[0], columns[1:]


class _Page:
    """Sealed decisions: columns in the order of arrival, and that order sorted by hash."""

    def __init__(self, ids: Any, hashes: UInt32, ticks: Int64, series: Int64) -> None:
        self.ids = ids
        self.ticks = ticks.copy()
        self.series: Any = series.astype(np.int32, "C")
        self._order = hashes.argsort().astype(np.int32)
        self._hashes = hashes[self._order]

    def find(self, transaction_id: str, hashed: np.uint32) -> Place | None:
        start = int(self._hashes.searchsorted(hashed))
        if start == len(self._hashes) or self._hashes[start] != hashed:
            return None
        alike = self._order[start : self._hashes.searchsorted(hashed, "right")].tolist()
        rows = [row for row in alike if self.ids[row].as_py() == transaction_id]
        return _place(self.ticks, self.series, max(rows)) if rows else None


def _texts(batch: Any) -> list[str]:
    """The transaction ids of what was given to ``add``."""
    return batch if isinstance(batch, list) else batch.texts(0)


def _hash(transaction_id: str) -> int:
    """As the native side hashes ids."""
    return crc32(transaction_id.encode())


def _place(ticks: Any, series: Any, row: int) -> Place:
    return Place(int(ticks[row]), tuple(number for number in series[:, row].tolist() if number != ABSENT))
