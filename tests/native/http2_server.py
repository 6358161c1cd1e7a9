"""Servers with the native front end, here or in a child, and what each must still do whatever a stranger does to it."""

import asyncio
import re
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast

from fraudgate.demo.server import Server, free_ports, serve_command, to_toml
from fraudgate.frontend.native import NativeFrontend
from fraudgate.latency.recorder import TOTALS
from fraudgate.limits import SECOND_NS
from fraudgate.ops.metrics import TEXT_NS
from tests.integration.server import PATIENCE_SECONDS, Child, Running, sections_of, serve
from tests.native.http2_peer import Peer, assert_decides

IO_THREADS = 3
"""Of a server in this process; one in a child has as many as the machine's CPUs ask for."""


class Native(Protocol):
    """A server with the native front end, here or in a child."""

    data_port: int

    async def totals(self) -> Mapping[str, int]:
        """Its named totals."""


async def watched(server: Native) -> dict[str, int]:
    """The totals that strangers move, by their short names; and panics."""
    totals = await server.totals()
    names = [name for name in TOTALS if name.startswith(("fraudgate_connections_", "fraudgate_answers_"))]
    short = {name.removeprefix("fraudgate_").removesuffix("_total"): totals[name] for name in names}
    del short["connections"]
    return short | {"panics": totals["fraudgate_native_panics_total"]}


@asynccontextmanager
async def bystander(address: int | str, tls: ssl.SSLContext | None) -> AsyncIterator[Peer]:
    """A connection that is decided for, call after call, all the while."""
    peer = await Peer.greet(address, tls=tls)

    async def call() -> None:
        while True:
            await assert_decides(peer)
            await asyncio.sleep(0)

    await assert_decides(peer)
    calling = asyncio.create_task(call())
    yield peer
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    await peer.close()


@asynccontextmanager
async def withstands(
    server: Native, address: int | str | None = None, tls: ssl.SSLContext | None = None, **moved: int | range
) -> AsyncIterator[Peer]:
    """An attack stands within. All the while calls on one connection are decided, and after it those on one from before
    and on a new one; the totals in ``moved`` moved by so much, the others not at all, and nothing panicked. Yields the
    connection from before.
    """
    address = address or server.data_port
    before = await watched(server)
    assert moved.keys() <= before.keys()
    wanted = {name: by if isinstance(by := moved.get(name, 0), range) else range(by, by + 1) for name in before}
    neighbour = await Peer.greet(address, tls=tls)
    await assert_decides(neighbour)
    async with bystander(address, tls):
        yield neighbour
    await assert_decides(neighbour)
    newcomer = await Peer.greet(address, tls=tls)
    await assert_decides(newcomer)
    for _ in range(200):  # an end is counted just after the peer has seen it
        after = await watched(server)
        wrong = {name: by for name in wanted if (by := after[name] - before[name]) not in wanted[name]}
        if not wrong:
            break
        await asyncio.sleep(0.01)
    assert not wrong, f"moved by {wrong}"
    await neighbour.close()
    await newcomer.close()


class NativeRunning(Running):
    """A service in this process with the native front end."""

    async def totals(self) -> Mapping[str, int]:
        return self.service.parts.counters.copy().totals

    @property
    def connections(self) -> int:
        """Open connections of the data plane."""
        front = self.service._front
        assert isinstance(front, NativeFrontend)
        return int(front._native.connections)


@asynccontextmanager
async def serve_native(models: Path, **sections: Mapping[str, object]) -> AsyncIterator[NativeRunning]:
    """A service in this process with the native front end, on several IO threads; drained at the end."""
    server = {"frontend": "native", **sections.pop("server", {})}
    ingress = {"threads": IO_THREADS, **sections.pop("ingress", {})}
    async with serve(models, server=server, ingress=ingress, **sections) as running:
        running.__class__ = NativeRunning
        yield cast(NativeRunning, running)


class NativeChild(Child):
    """A service in a child process with the native front end."""

    ops_port: int

    async def totals(self) -> Mapping[str, int]:
        """What ``/metrics`` says, once its text is made anew."""
        await asyncio.sleep(TEXT_NS / SECOND_NS)
        text = await asyncio.to_thread(self._metrics)
        counts = {name: float(count) for name, count in re.findall(r"^(fraudgate_\w+) (\S+)$", text, re.MULTILINE)}
        return {name: int(counts[name]) for name in TOTALS}

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
            return text


@asynccontextmanager
async def serve_native_child(
    directory: Path, models: Path, **sections: Mapping[str, Any]
) -> AsyncIterator[NativeChild]:
    """A child that is SERVING, and stopped at the end."""
    ports = free_ports()
    addresses = {f"{plane}_address": f"127.0.0.1:{getattr(ports, plane)}" for plane in ("data", "control", "ops")}
    form = sections_of(models, {**sections, "server": {**addresses, **sections.get("server", {})}})
    path = directory / "native.toml"
    path.write_text(to_toml(form), "utf-8")
    lines: list[str] = []
    with Server("native", serve_command(path, "native"), ports, lines.append) as process:
        await process.serving()
        child = NativeChild(process, lines)
        child.ops_port = ports.ops
        try:
            yield child
        finally:
            await child.close()
