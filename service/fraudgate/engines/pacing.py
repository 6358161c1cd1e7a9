"""Opening an engine in small pieces, where payments are decided beside it.

Opening is milliseconds of processor and interpreter. The scoring loop that wakes up meanwhile may have to wait on its
core until the thread that opens has slept, see ``scheduling.prefer_batches``: so that thread sleeps often.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import sleep

PAUSE_SECONDS = 0.0005
PAUSE_RUNS = 8
"""Runs of an engine between two pauses."""

_paced: ContextVar[bool] = ContextVar("paced", default=False)


@contextmanager
def paced() -> Iterator[None]:
    """Whatever opens an engine within, in this context and in threads begun with a copy of it, pauses."""
    token = _paced.set(True)
    try:
        yield
    finally:
        _paced.reset(token)


def pause() -> None:
    """Let others have the processor; nothing outside ``paced``."""
    if _paced.get():
        sleep(PAUSE_SECONDS)
