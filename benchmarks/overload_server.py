"""``fraudgate serve`` with an engine of known service time: a batch takes 2 ms, so 16,000 rows a second and no more.

``python -m benchmarks.overload_server serve ...``, with the arguments of ``fraudgate``.
"""

import sys
from time import monotonic_ns, sleep

from fraudgate import cli
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.transaction import Float32

BATCH_NS = 2 * MILLISECOND_NS
HAND_OVER_NS = MILLISECOND_NS // 2
"""A device has a queue of its own: a batch that comes so soon after the one before begins without a gap."""


class Device:
    """Busy for ``BATCH_NS`` with every batch, one after the other."""

    def __init__(self) -> None:
        self._score = OnnxEngine.run
        self._free_ns = 0

    def score(self, engine: OnnxEngine, slot: int) -> Float32:
        """The engine's own scores, when the device would have them."""
        now_ns = monotonic_ns()
        began_ns = self._free_ns if now_ns - self._free_ns < HAND_OVER_NS else now_ns
        scores = self._score(engine, slot)
        self._free_ns = began_ns + BATCH_NS
        sleep(max(self._free_ns - monotonic_ns(), 0) / SECOND_NS)
        return scores


def install() -> None:
    """Every engine of this process is such a device from now on."""
    device = Device()
    setattr(OnnxEngine, "run", lambda engine, slot: device.score(engine, slot))  # noqa: B010 - a method, not a function


if __name__ == "__main__":
    install()
    sys.exit(cli.main())
