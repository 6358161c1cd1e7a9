"""Two sound versions, and servers that change between them while callers call."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fraudgate.engines.base import Engine
from fraudgate.transaction import Float32
from fraudgate.v1 import models_pb2 as mb
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.sabotaged import sound
from tests.integration.server import Running, serve, transaction

NAME = "handbook"
FIRST, SECOND = sound().declaring(version="1"), sound().declaring(version="2")
MOVED = SECOND.changing("output_bias", lambda bias: bias + np.float32(0.01)).forged()
"""A sound version whose every score differs a little from the first one's."""
ROWS = 32
Spoil = Callable[[Callable[[int], Float32], int], Float32]
"""From the sound ``run`` and a slot to what is given instead."""
QUICK: Mapping[str, Any] = {"stage_rows_min": 64, "stage_seconds_min": 0.0}


def publish_two(root: Path) -> Path:
    """Versions 1 and 2 of one model; ``root``."""
    for version in (FIRST, MOVED):
        version.write(root)
    return root


def payment(number: int) -> pb.Transaction:
    """Of a customer and at a terminal that no other payment has: its score depends on nothing but itself."""
    amount_minor = int(np.random.default_rng(number).random() ** 4 * 20_000)
    return transaction(f"tx-{number}", amount_minor=amount_minor, terminal_id=f"T-{number}")


class Caller:
    """Sends payments, 32 at a time, and keeps every answer."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self.answers: list[pb.ScoreResponse] = []

    async def send(self) -> list[pb.ScoreResponse]:
        """The answers of the next 32; each must be a decision."""
        first = len(self.answers)
        ends = await self._server.score_rows([payment(number) for number in range(first, first + ROWS)])
        answers = [end.response for end in ends]
        self.answers += answers
        return answers

    async def send_until_live(self, version: str) -> None:
        """Send until that version decides everything."""
        fleet = self._server.service.parts.fleet
        async with asyncio.timeout(20):
            while fleet.live.name != f"{NAME}/{version}":
                await self.send()

    @asynccontextmanager
    async def steadily(self) -> AsyncIterator[None]:
        """Send meanwhile, one call after the other."""
        enough = asyncio.Event()
        calling = asyncio.create_task(self._send_until(enough))
        try:
            yield
        finally:
            enough.set()
            await calling

    async def _send_until(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            await self.send()
            await asyncio.sleep(0.001)


def versions(answers: Sequence[pb.ScoreResponse]) -> set[str]:
    return {answer.model.version for answer in answers}


async def promote(server: Running, version: str, **asked: Any) -> mb.ModelVersion:
    request = mb.PromoteModelRequest(name=NAME, version=version, **{**QUICK, **asked})
    return (await server.models.PromoteModel(request)).model


async def rollback(server: Running, reason: str = "") -> mb.ModelVersion:
    return (await server.models.RollbackModel(mb.RollbackModelRequest(reason=reason))).live


async def listed(server: Running) -> mb.ListModelsResponse:
    return await server.models.ListModels(mb.ListModelsRequest())


async def scores_of(root: Path, version: str, rows: int) -> list[float]:
    """The scores of the first payments on a server that has never served another version."""
    async with serving(root, version) as server:
        caller = Caller(server)
        while len(caller.answers) < rows:
            await caller.send()
        return [answer.score for answer in caller.answers]


def serving(root: Path, version: str = "1", **sections: Mapping[str, Any]) -> AbstractAsyncContextManager[Running]:
    """A server of that version."""
    return serve(root, model={"repository": str(root), "name": NAME, "version": version}, **sections)


class Spoilt:
    """An ``Engine`` that a test spoils; ``run`` is what it does instead."""

    def __init__(self, engine: Engine, run: "Spoil") -> None:
        self.info, self.features, self.run_ns = engine.info, engine.features, engine.run_ns
        self._engine, self._run_instead = engine, run

    def bind(self, slabs: object) -> None:
        raise AssertionError("bound already")

    def run(self, slot: int) -> Float32:
        return self._run_instead(self._engine.run, slot)
