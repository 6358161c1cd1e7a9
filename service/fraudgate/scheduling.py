"""How the operating system schedules this process."""

import os
from contextlib import suppress


def prefer_batches() -> None:
    """Let a thread that wakes up not interrupt a running one, here and in children.

    grpc's poller then hands over many events at once. Two quiet cores, open loop at 2,000/s: p99 13 to 46 ms from run
    to run without it, 13 to 18 with. It needs no privilege; where the system has no SCHED_BATCH nothing changes.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
