"""Progress of long work: a bar on a terminal, one line every few seconds elsewhere."""

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self, TextIO

LINE_SECONDS = 3.0
BAR_SECONDS = 0.1
BAR_CELLS = 30


class Progress:
    """Counts towards ``total`` and says so on ``stream`` (default: standard error).

    with Progress("loading history", total=1_236_698, unit="events") as progress:
        progress.advance(65_536)

    On leaving, the last line states what was done and how fast, whether or not the work came to its end.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "rows",
        stream: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._bar = self._stream.isatty()
        self._every = BAR_SECONDS if self._bar else LINE_SECONDS
        self._started = self._shown = clock()
        self._width = 0
        self.done = 0

    def advance(self, count: int) -> None:
        """``count`` more units are done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """``done`` units are done in all."""
        self.done = done
        now = self._clock()
        if now - self._shown >= self._every:
            self._shown = now
            self._write(self._line(now), last=False)

    def close(self) -> None:
        """Write the last line."""
        self._write(self._summary(self._clock()), last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, now: float) -> str:
        share = min(1.0, self.done / self._total) if self._total else 1.0
        counts = f"{self.done:,} of {self._total:,} {self._unit}, {self._rate(now)}"
        if not self._bar:
            return f"{self._title}: {share:4.0%}, {counts}"
        full = round(share * BAR_CELLS)
        return f"{self._title} [{'#' * full}{'.' * (BAR_CELLS - full)}] {share:4.0%}  {counts}"

    def _summary(self, now: float) -> str:
        short = "" if self.done >= self._total else f" of {self._total:,}"
        seconds = now - self._started
        return f"{self._title}: {self.done:,}{short} {self._unit} in {seconds:.1f} s, {self._rate(now)}"

    def _rate(self, now: float) -> str:
        seconds = now - self._started
        return f"{self.done / seconds:,.0f}/s" if seconds > 0 else "-/s"

    def _write(self, line: str, last: bool) -> None:
        if self._bar:
            # The spaces wipe what a longer line left behind.
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
