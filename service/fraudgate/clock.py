"""The two clocks. Stamps are monotonic, event times are wall clock; the two never meet in one expression.

Core modules never read a clock: they take ``now_ns``. The edge reads one of these once a cycle.
"""

from collections.abc import Callable
from time import monotonic_ns, time_ns

Clock = Callable[[], int]
"""Returns nanoseconds as an integer."""

__all__ = ["Clock", "monotonic_ns", "time_ns"]
