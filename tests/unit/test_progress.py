"""Progress: one line every few seconds in a log, a bar on a terminal."""

import io

from fraudgate.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_three_seconds_and_one_at_the_end() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress("loading", 1_000, "events", out, clock) as progress:
        for second in range(1, 6):
            clock.now = second
            progress.advance(200)
    assert out.getvalue() == (
        "loading:  60%, 600 of 1,000 events, 200/s\n"
        "loading: 1,000 events in 5.0 s, 200/s\n"
    )  # fmt: skip


def test_a_terminal_gets_a_bar_that_is_written_over() -> None:
    out, clock = Terminal(), Clock()
    progress = Progress("loading", 10, "rows", out, clock)
    clock.now = 0.2
    progress.reach(5)
    clock.now = 0.25
    progress.reach(6)  # too soon after the last
    progress.close()
    first, last = out.getvalue().removeprefix("\r").split("\r")
    assert first == "loading [###############...............]  50%  5 of 10 rows, 25/s"
    assert last.rstrip(" \n") == "loading: 6 of 10 rows in 0.2 s, 24/s"
    assert last.endswith("\n")
    assert len(last.rstrip("\n")) >= len(first)


def test_nothing_to_do_is_no_division_by_zero() -> None:
    out = io.StringIO()
    with Progress("loading", 0, "rows", out, Clock()) as progress:
        progress.advance(0)
    assert out.getvalue() == "loading: 0 rows in 0.0 s, -/s\n"
