"""What the tests over the wire share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudgate import wheel
from tests.integration import server
from tests.integration.server import JumpingClock, publish_small_model

FRONTENDS = ("aio", "native")
"""What the tests of the data plane run on."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one small model for the schema "handbook"."""
    return publish_small_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def clock() -> Iterator[JumpingClock]:
    """The monotonic clock of every service that this test starts."""
    with JumpingClock.everywhere() as clock:
        yield clock


@pytest.fixture(scope="module", params=FRONTENDS)
def frontend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every server that the tests of this module start has this front end."""
    if request.param == "native" and not wheel.INSTALLED:
        pytest.skip("the native front end is not built; 'sh .ci/ingress build' does it, or says what is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "frontend", request.param)
        yield request.param
