"""Memory ahead of its use: a thread that has the system provide the pages which the scoring loop will touch next.

Large tables are zeroed memory that the system provides at the first touch. A huge page of it costs the toucher 0.2 ms,
and on a virtual machine whose host has to find it, too, 4 or 5. Nothing is provided before the first claim or event,
and then never more than ``ENTRIES_AHEAD`` entries beyond those in use.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from fraudgate import wheel

PERIOD_SECONDS = 0.05
ENTRIES_AHEAD = 32_768
"""Of each table: more than come in some periods."""

Extent = tuple[int, int]
"""Address and bytes."""
Ahead = Callable[[int], Sequence[Extent]]
"""Where the next so many entries of a table will lie; empty while it is not in use, and once all of it is."""


class Pager:
    """Without the wheel it does nothing. Start it once, stop it once."""

    def __init__(self, tables: Sequence[Ahead], populate: Any = None) -> None:
        """``populate``: has extents provided; by default the native kernel."""
        self._tables, self._populate = tables, populate or wheel.kernel("populate")
        self._seen: dict[int, Sequence[Extent]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pager", daemon=True)

    def start(self) -> None:
        if self._populate is not None:
            self._thread.start()

    def stop(self) -> None:
        """End. Does nothing when not started."""
        if self._thread.is_alive():
            self._end.set()
            self._thread.join()

    def _run(self) -> None:
        self.look()
        while not self._end.wait(PERIOD_SECONDS):
            self.look()

    def look(self) -> None:
        """Have memory provided for the tables that have grown since the last look."""
        for number, ahead in enumerate(self._tables):
            extents = ahead(ENTRIES_AHEAD)
            if extents and extents != self._seen.get(number, extents):
                self._populate(extents)
            self._seen[number] = extents
