"""A server with faults that somebody else calls for: ``python -m benchmarks.faulty_server SOCKET ENGINE ARGUMENT...``.

ENGINE: ``real``, or ``known`` for that of ``overload_server``. The arguments are those of ``fraudgate``. Each
connection to the Unix socket says a fault's name and its length in milliseconds, and is answered when that is over, or
armed where something else sets it off.
"""

import asyncio
import ctypes
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import overload_server
from fraudgate import cli
from fraudgate.app import Service
from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.rotation import RotatedFiles
from fraudgate.engines.fleet import Fleet
from fraudgate.features.embedded import EmbeddedStore

GARBAGE_PER_MS = 12_000
"""Objects that a full collection visits in a millisecond, more or less."""


class Faults:
    """One loop's faults, each called for from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._armed: dict[str, float] = {}
        self._lock = threading.Lock()
        self._log_lock = threading.Lock()
        self._kept: list[list[object]] = []
        self._wrap(EmbeddedStore, "apply_and_gather", partial(self._sleep_if_armed, "store"))
        self._wrap(Fleet, "_changed", partial(self._sleep_if_armed, "swap"))
        self._lock_log()

    def _wrap(self, kind: type, name: str, before: Callable[[], None]) -> None:
        sound = getattr(kind, name)

        def spoilt(*arguments: Any, **named: Any) -> Any:
            before()
            return sound(*arguments, **named)

        setattr(kind, name, spoilt)

    def _sleep_if_armed(self, name: str) -> None:
        seconds = self._armed.pop(name, 0.0)
        if seconds:
            time.sleep(seconds)

    def _lock_log(self) -> None:
        """A log as it must not be: its queue shares a lock with the write, which syncs."""
        write, append = RotatedFiles.write, BatchLog.append

        def slow(files: RotatedFiles, *arguments: Any) -> None:
            if "fsync" in self._armed:  # the log as it is: only its own thread waits
                write(files, *arguments)
                os.fsync(files._descriptor)
                self._sleep_if_armed("fsync")
                return
            with self._log_lock:
                write(files, *arguments)
                if "fsync_locked" in self._armed:
                    os.fsync(files._descriptor)
                    self._sleep_if_armed("fsync_locked")

        def locked(log: BatchLog, *arguments: Any) -> bool:
            with self._log_lock:
                return append(log, *arguments)

        RotatedFiles.write, BatchLog.append = slow, locked  # type: ignore[method-assign, assignment]

    def call(self, name: str, milliseconds: float) -> None:
        """Let it happen, or arm it."""
        seconds = milliseconds / 1_000
        match name:
            case "garbage":
                self._kept.append([[] for _ in range(round(milliseconds * GARBAGE_PER_MS))])
            case "gc":
                gc.collect()
            case "spin":
                self._on_the_loop(partial(_spin, seconds))
            case "lock":
                self._block_the_loop(seconds)
            case "interpreter":
                ctypes.PyDLL(None).usleep(round(seconds * 1e6))  # a call that does not let the interpreter go
            case _:
                self._armed[name] = seconds

    def _on_the_loop(self, act: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(act)
        self._loop.call_soon_threadsafe(done.set)
        done.wait()

    def _block_the_loop(self, seconds: float) -> None:
        """Hold a lock that the loop wants."""

        def take() -> None:
            with self._lock:
                pass

        with self._lock:
            self._loop.call_soon_threadsafe(take)
            time.sleep(seconds)


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1_000))


def _listen(path: str, faults: Faults) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                name, milliseconds = connection.recv(100).decode().split()
                faults.call(name, float(milliseconds))
                connection.sendall(b"done")


def call(path: str, name: str, milliseconds: float = 0.0) -> None:
    """Call for a fault, and wait for the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(f"{name} {milliseconds}".encode())
        if connection.recv(100) != b"done":
            raise RuntimeError(f"the fault {name} did not happen")


def main(arguments: Sequence[str]) -> int:
    path, engine, *rest = arguments
    if engine == "known":
        overload_server.install()
    start = Service.start

    async def started(service: Service) -> None:
        faults = Faults(asyncio.get_running_loop())
        await start(service)
        threading.Thread(target=_listen, args=(path, faults), daemon=True).start()

    Service.start = started  # type: ignore[method-assign, assignment]
    return cli.main(rest)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
