"""Who runs where: the cores are divided between server and client, so that neither is measured by the other's work.

Without it the threads of both wander over the cores and wake each other up; on two cores that doubles the p99.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Placement(NamedTuple):
    """Cores of the server and of the client; both empty where they are not divided."""

    server: frozenset[int]
    client: frozenset[int]

    def __str__(self) -> str:
        if not self.server:
            return "server and client share what cores there are"
        return f"server on {_words(self.server)}, client on {_words(self.client)}"


def divide_cores() -> Placement:
    """One half of this process's cores each; not divided on one core, or where the system has no such thing."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    half = len(cores) // 2
    return Placement(frozenset(cores[:half]), frozenset(cores[half:] if half else ()))


def keep_to(cores: frozenset[int], pid: int) -> None:
    """Keep every thread of a process to ``cores``, and those that it starts later. Empty cores: no change."""
    threads = Path(f"/proc/{pid}/task")
    if cores and threads.is_dir():
        for thread in threads.iterdir():
            with suppress(OSError):  # it has ended, or the system forbids it
                os.sched_setaffinity(int(thread.name), cores)


def yield_to_no_one() -> None:
    """Let no thread of this process, and of those it starts, be interrupted by another of them waking up.

    SCHED_BATCH needs no privilege. A woken thread waits for the running one to block: grpc's poller hands over many
    events at once instead of one by one.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _words(cores: frozenset[int]) -> str:
    listed = ", ".join(str(core) for core in sorted(cores))
    return f"core {listed}" if len(cores) == 1 else f"cores {listed}"
