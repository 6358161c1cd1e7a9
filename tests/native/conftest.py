"""What the tests of the native front end share."""

from pathlib import Path

import pytest

from tests.integration.server import publish_small_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one small model for the schema "handbook"."""
    return publish_small_model(tmp_path_factory.mktemp("models"))
