"""The demo's child process: watched, reported on when it dies, and never left behind."""

import asyncio
import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from fraudgate.demo.server import Ports, Server, ServerDied, free_ports, serve_command, to_toml, while_alive

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def process(code: str, lines: list[str]) -> Server:
    return Server("test", [sys.executable, "-c", code], free_ports(), lines.append)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def wait_for(lines: list[str], text: str) -> None:
    while text not in lines:
        await asyncio.sleep(0.01)


async def test_its_lines_are_passed_on_and_it_is_stopped() -> None:
    lines: list[str] = []
    with process(SLEEPER, lines) as server:
        await wait_for(lines, "ready")
        assert (server.resident_bytes() or 1) > 0
        assert (server.cpu_seconds() or 0.0) >= 0
    assert not is_running(server.pid)


async def test_it_is_stopped_when_the_demo_breaks_off() -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), process(SLEEPER, lines) as server:
        raise KeyboardInterrupt
    assert not is_running(server.pid)


async def test_a_process_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudgate.demo.server.STOP_SECONDS_MAX", 0.2)
    lines: list[str] = []
    with process(STUBBORN, lines) as server:
        await wait_for(lines, "ready")
        assert server.stop() == -signal.SIGKILL


async def test_a_start_that_fails_is_told_with_its_last_lines() -> None:
    lines: list[str] = []
    message = r"exit status 1\)\n  \| no such model"
    with process("import sys; sys.exit('no such model')", lines) as server, pytest.raises(ServerDied, match=message):
        await server.serving()


async def test_death_in_the_middle_ends_the_work() -> None:
    lines: list[str] = []
    with process(SLEEPER, lines) as server:
        await wait_for(lines, "ready")

        async def work() -> None:
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(60)

        with pytest.raises(ServerDied, match="killed by SIGKILL"):
            await while_alive(server, work())


async def test_work_that_ends_gives_its_result() -> None:
    lines: list[str] = []

    async def work() -> int:
        return 7

    with process(SLEEPER, lines) as server:
        assert await while_alive(server, work()) == 7


def test_the_configuration_is_toml() -> None:
    form = {"log": {"dir": 'a "quoted" \\ path'}, "model": {"name": "handbook", "count": 3, "on": True, "share": 0.5}}
    assert tomllib.loads(to_toml(form)) == form


def test_ports_differ_and_the_command_names_the_configuration() -> None:
    ports = free_ports()
    assert isinstance(ports, Ports)
    assert len({ports.data, ports.control, ports.ops}) == 3
    assert "run.toml" in serve_command(Path("run.toml"), "aio")
