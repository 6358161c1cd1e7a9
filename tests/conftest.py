"""Every run draws the same examples: a failure seen once is seen again. Wall-clock deadlines have no place in tests."""

import gc

import pytest
from hypothesis import settings

from fraudgate import wheel

settings.register_profile("fraudgate", derandomize=True, deadline=None, database=None)
settings.load_profile("fraudgate")


@pytest.fixture(autouse=True)
def nothing_older_is_visited() -> None:
    """A server that starts collects once: .3 s each time among everything that all tests have imported."""
    gc.freeze()


@pytest.fixture(params=["reference", "kernel"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the Python code of the feature store and the idempotency table, and again with their native
    kernels where those are installed."""
    if request.param == "reference":
        monkeypatch.setattr(wheel, "INSTALLED", False)
    elif not wheel.INSTALLED:
        pytest.skip("the wheel fraudgate-ingress is not installed")
    return str(request.param)
