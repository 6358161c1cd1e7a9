"""A circuit breaker: whether to ask a dependency that has failed lately, or was too slow.

    closed      asked by every batch     -> open after ``failures_max`` bad runs in a row, or a share of the last ones
    open        not asked                -> half-open when the wait is over
    half-open   asked by one batch at a time: a bad run -> open, ``good_runs`` good ones in a row -> closed

A run is bad that fails or takes longer than its allowance; one that hangs keeps the next away for one wait more. The
wait doubles each time the breaker opens, up to ``wait_ns_max``, and begins anew only when the breaker has stayed closed
for that long. So, however the dependency fails, a breaker opens in t at most

    (1 + t / wait_ns_max) x (1 + log2(wait_ns_max / wait_ns_min)) times, both rounded up.

No clock and no IO: who asks says what time it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from fraudgate.limits import MILLISECOND_NS, SECOND_NS

NO_ALLOWANCE_NS = 1 << 62
"""For a dependency that may take as long as it likes."""


class State(IntEnum):
    """What ``/metrics`` shows of a breaker."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens, for how long, and what closes it again."""

    failures_max: int = 5
    """Bad runs in a row."""
    window_runs: int = 32
    failures_share: float = 0.5
    """So many of the last ``window_runs`` runs, if they are bad, open it too."""
    wait_ns_min: int = SECOND_NS // 4
    wait_ns_max: int = 8 * SECOND_NS
    good_runs: int = 3


def _silent(change: str) -> None:
    """Nobody listens."""


class Breaker:
    """The breaker of one dependency. It never opens without ``settings``; ``tell`` hears of every change of state.

    Who asks for every batch saves the calls while all is well: ``ticket`` instead of ``ask``, and a good run need not
    be reported that ends while ``is_clear`` and took no longer than ``allowance_ns``. See ``Ladder``.
    """

    def __init__(
        self,
        name: str,
        settings: BreakerSettings | None = None,
        allowance_ns: int = NO_ALLOWANCE_NS,
        tell: Callable[[str], None] = _silent,
    ) -> None:
        self.name = name
        self.state = State.CLOSED
        self.changes = 0
        """Changes of state since the start."""
        self.bad_runs = 0
        """Since the start."""
        self._opens = settings is not None
        self._settings = settings = settings or BreakerSettings()
        self.allowance_ns, self._tell = allowance_ns, tell
        assert settings.failures_max <= settings.window_runs, "the window holds the row of failures"
        self._row, self._window = (1 << settings.failures_max) - 1, (1 << settings.window_runs) - 1
        self.ticket = 1
        """What ``ask`` gives while it is closed; else 0."""
        self.is_clear = True
        """It is closed, and has seen no bad run in its window."""
        self.ended_ns = 0
        """The end of the last run."""
        self._number = 1  # of the tickets that are good now
        self._history = 0  # the runs since it was closed: bit 0 the last one, 1 = bad
        self._is_probed = False
        self._good = 0
        self._wait_ns = 0  # 0: it has not been open yet
        self._until_ns = self._closed_ns = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state.name.lower()} [{self.changes} changes, {self.bad_runs} bad runs]>"

    def ask(self, now_ns: int) -> int:
        """A ticket to ask the dependency with, for ``report``; 0 = do not ask it."""
        if self.ticket:
            return self.ticket
        if self.state is State.OPEN:
            if now_ns < self._until_ns:
                return 0
            self._become(State.HALF_OPEN, "it is asked by one batch at a time")
        elif self._is_probed and now_ns < self._until_ns:
            return 0
        self._is_probed, self._until_ns = True, now_ns + self._wait_ns  # by then it is lost, or hangs
        return self._number

    def report(self, ticket: int, started_ns: int, now_ns: int, failed: bool = False) -> None:
        """How a run went; of every ticket once. Runs follow one another: waiting for the one before is no fault."""
        took_ns = now_ns - max(started_ns, self.ended_ns)
        self.ended_ns = now_ns
        if ticket != self._number:  # it was asked before the last change of state, and says nothing of now
            return
        if failed or took_ns > self.allowance_ns:
            self.bad_runs += 1
            self._take_bad(now_ns, "it failed" if failed else f"it took {took_ns / MILLISECOND_NS:.1f} ms")
        elif self.ticket:
            self._history = self._history << 1 & self._window
            self.is_clear = not self._history
        else:
            self._take_good_probe(now_ns)

    def renew(self) -> None:
        """Another dependency stands behind this breaker from now on, of which nothing bad is known."""
        self._wait_ns = 0
        if self.state is State.CLOSED:
            self._begin()
        else:
            self._become(State.CLOSED, "it is another one now")

    def _take_bad(self, now_ns: int, why: str) -> None:
        if self.ticket:
            self._history = (self._history << 1 | 1) & self._window
            self.is_clear = False
            if not (self._opens and self._is_spoilt()):
                return
        self._open(now_ns, why)

    def _is_spoilt(self) -> bool:
        if self._history & self._row == self._row:
            return True
        return self._history.bit_count() >= self._settings.failures_share * self._settings.window_runs

    def _open(self, now_ns: int, why: str) -> None:
        settings = self._settings
        was_sound = self.ticket and now_ns - self._closed_ns >= settings.wait_ns_max
        if self._wait_ns == 0 or was_sound:
            self._wait_ns = settings.wait_ns_min
        else:
            self._wait_ns = min(2 * self._wait_ns, settings.wait_ns_max)
        self._until_ns = now_ns + self._wait_ns
        self._become(State.OPEN, f"{why}; it is not asked for {self._wait_ns / SECOND_NS:.2f} s")

    def _take_good_probe(self, now_ns: int) -> None:
        self._is_probed = False
        self._good += 1
        if self._good >= self._settings.good_runs:
            self._closed_ns = now_ns
            self._become(State.CLOSED, f"{self._good} runs were good")

    def _become(self, state: State, why: str) -> None:
        self.state = state
        self.changes += 1
        self._begin()
        self._tell(f"{self.name} {state.name.lower().replace('_', '-')}: {why}")

    def _begin(self) -> None:
        """A new time of the same state: what was asked before says nothing of it."""
        self._number += 1
        self._is_probed, self._good = False, 0
        self.is_clear = self.state is State.CLOSED
        self.ticket = self._number if self.is_clear else 0
        self._history = 0
