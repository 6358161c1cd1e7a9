"""Which front end serves the data plane."""

from collections.abc import Callable

from fraudgate import wheel
from fraudgate.errors import ConfigError
from fraudgate.frontend.aio_server import AioFrontend
from fraudgate.frontend.native import NativeFrontend

AIO_COST = "the reference front end grpc.aio costs about 9 times the CPU per decision"
HOW_TO_BUILD = "'make setup' builds it where cargo is installed"


def choose(wanted: str, say: Callable[[str], None]) -> type[AioFrontend] | type[NativeFrontend]:
    """The front end for ``server.frontend``: auto, native or aio. Raises ConfigError when native is not installed."""
    if wanted != "aio" and wheel.INSTALLED:
        return NativeFrontend
    if wanted == "native":
        raise ConfigError(f"server.frontend = 'native': the wheel fraudgate-ingress is not installed; {HOW_TO_BUILD}")
    if wanted == "auto":
        say(f"the native front end is not installed ({HOW_TO_BUILD}): {AIO_COST}")
    return AioFrontend
