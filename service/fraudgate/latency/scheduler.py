"""What the system's scheduler says of a thread: how long it was ready to run while no CPU was free (Linux)."""

import os
from contextlib import suppress
from pathlib import Path

THREADS = Path("/proc/self/task")


class RunQueue:
    """The run-queue delay of one thread of this process; 0 for ever where the system does not tell."""

    def __init__(self, thread: int | None = None) -> None:
        """``thread``: its native id; else the calling one."""
        self._file: int | None = None
        with suppress(OSError):
            path = f"{THREADS}/{thread}" if thread else "/proc/thread-self"
            self._file = os.open(f"{path}/schedstat", os.O_RDONLY)

    @classmethod
    def named(cls, name: str) -> "RunQueue | None":
        """That of the first thread of this name, if there is one."""
        with suppress(OSError):
            for thread in THREADS.iterdir():
                if (thread / "comm").read_text().rstrip() == name:
                    return cls(int(thread.name))
        return None

    def waiting_ns(self) -> int:
        """Since the thread began."""
        if self._file is None:
            return 0
        try:
            return int(os.pread(self._file, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):  # the thread is gone
            return 0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
