"""What is dear to make and asked for often: made at most once in a while, whoever asks."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from fraudgate.clock import Clock

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """The last ``make()``, for ``lifetime_ns`` from when it began. Any thread may ask; one makes, the others wait."""

    def __init__(self, make: Callable[[], _T], lifetime_ns: int, clock: Clock) -> None:
        self._make, self._lifetime_ns, self._clock = make, lifetime_ns, clock
        self._making = Lock()
        self._made: tuple[int, _T] | None = None

    def get(self) -> _T:
        """Raises what ``make`` raises; the next who asks tries again."""
        with self._making:
            now_ns = self._clock()
            if self._made is None or now_ns - self._made[0] >= self._lifetime_ns:
                self._made = (now_ns, self._make())
            return self._made[1]
