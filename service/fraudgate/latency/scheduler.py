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


class RunQueues:
    """That of all threads of one name, for whoever waits for one of them: at each look the longest counts."""

    def __init__(self, name: str) -> None:
        self._queues = [RunQueue(thread) for thread in threads_named(name)]
        self._last_ns = [queue.waiting_ns() for queue in self._queues]
        self._waited_ns = 0

    def __len__(self) -> int:
        return len(self._queues)

    def waiting_ns(self) -> int:
        """Since the first look; 0 for ever where there is no such thread."""
        now_ns = [queue.waiting_ns() for queue in self._queues]
        self._waited_ns += max((now - last for now, last in zip(now_ns, self._last_ns, strict=True)), default=0)
        self._last_ns = now_ns
        return self._waited_ns

    def close(self) -> None:
        for queue in self._queues:
            queue.close()


def threads_named(name: str) -> list[int]:
    """Native ids, ascending."""
    found = []
    with suppress(OSError):
        for thread in THREADS.iterdir():
            with suppress(OSError):  # it has just ended
                if (thread / "comm").read_text().rstrip() == name:
                    found.append(int(thread.name))
    return sorted(found)
