"""The published model with longer windows, served over the wire with its schema, and refused with another."""

from pathlib import Path

import pytest

from fraudgate.errors import EngineRefused
from tests.integration.server import request, serve

REPOSITORY = Path(__file__).parents[2] / "models" / "repository"
MODEL = "handbook-history"


async def test_it_decides_with_its_own_schema() -> None:
    async with serve(REPOSITORY, model={"name": MODEL}, features={"schema": "handbook_history"}) as server:
        small = (await server.score(request("small", amount_minor=1_250))).response
        large = (await server.score(request("large", amount_minor=99_900))).response
    assert small.model.name == large.model.name == MODEL
    assert 0 <= small.score < large.score <= 1


async def test_another_schema_is_refused_by_its_fingerprint() -> None:
    with pytest.raises(EngineRefused, match=rf"^{MODEL}/.*: trained on feature schema \w+, but \w+ is served"):
        async with serve(REPOSITORY, model={"name": MODEL}):
            pass
