"""A ``fraudgate serve`` in a child process: started, watched until SERVING, measured, and always stopped."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from fraudgate.config import ENVIRONMENT_PREFIX
from fraudgate.errors import FraudgateError

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 12.0
POLL_SECONDS = 0.05
TAIL_LINES = 20

Result = TypeVar("Result")


class ServerDied(FraudgateError):  # noqa: N818 - it says what happened
    """The server ended, or never came up; the message holds its last lines."""


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one server."""

    data: int
    control: int
    ops: int


def free_ports() -> Ports:
    """Three ports that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def to_toml(config: Mapping[str, Mapping[str, str | int | float | bool]]) -> str:
    """TOML of sections with plain values; a JSON string, number or boolean is one of TOML too."""
    lines = []
    for section, values in config.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def serve_command(config: Path, frontend: str) -> list[str]:
    """The command line of a server, run by the Python that runs the demo."""
    return [sys.executable, "-m", "fraudgate", "serve", "--config", str(config), "--frontend", frontend]


class Server:
    """A context manager around one server process.

    ``say`` receives each line that the process prints, on a thread of its own.
    """

    def __init__(self, name: str, command: Sequence[str], ports: Ports, say: Callable[[str], None]) -> None:
        self.name, self.target, self.control = name, f"127.0.0.1:{ports.data}", f"127.0.0.1:{ports.control}"
        self._command, self._say = command, say
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends the server. No settings from outside:
        # the demo's configuration is the whole of it.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)},
        )
        self._reader = Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(1.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """Ask it to drain, and wait: its exit status, negative for a signal."""
        self.__exit__(None, None, None)
        return self._process.returncode

    async def serving(self) -> float:
        """Wait until the health service says SERVING; the seconds that took. Raises ServerDied."""
        started = monotonic()
        async with grpc.aio.insecure_channel(self.target) as channel:
            check = HealthStub(channel).Check
            while monotonic() - started < START_SECONDS_MAX:
                self.check_alive()
                try:
                    answer = await check(HealthCheckRequest(), timeout=1.0)
                    if answer.status == HealthCheckResponse.SERVING:
                        return monotonic() - started
                except grpc.aio.AioRpcError:
                    pass  # not listening yet
                await asyncio.sleep(POLL_SECONDS)
        raise ServerDied(f"the {self.name} server did not serve within {START_SECONDS_MAX:.0f} s\n{self._last_lines()}")

    async def died(self) -> None:
        """Raises ServerDied once the process has ended; never returns."""
        while True:
            self.check_alive()
            await asyncio.sleep(POLL_SECONDS)

    def check_alive(self) -> None:
        """Raises ServerDied, with the server's last lines, if the process has ended."""
        status = self._process.poll()
        if status is None:
            return
        self._reader.join(1.0)
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise ServerDied(f"the {self.name} server ended ({how})\n{self._last_lines()}")

    def resident_bytes(self) -> int | None:
        """Resident memory of the process now; None where /proc does not exist."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float | None:
        """CPU time that the process has used, user and system; None where /proc does not exist."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._tail.append(line.rstrip())
            self._say(line.rstrip())

    def _last_lines(self) -> str:
        return "\n".join(f"  | {line}" for line in self._tail) or "  it printed nothing"


async def while_alive(server: Server, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``. Raises ServerDied as soon as the server has ended."""
    task, watch = asyncio.create_task(work), asyncio.create_task(server.died())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        server.check_alive()  # its death is the cause, what the client saw of it the effect
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
