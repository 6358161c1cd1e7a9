"""Faults by seed: when each begins, how long it lasts, and what is wrong at the moment."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np

from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.profiles import Profile

Kind = Literal[
    "stall",
    "store_slow",
    "store_failure",
    "engine_slow",
    "engine_failure",
    "engine_unusable",
    "log_crash",
    "swap",
    "outcome",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LASTS_NS: dict[str, tuple[int, int]] = {
    "stall": (2 * MILLISECOND_NS, 40 * MILLISECOND_NS),
    "store_slow": (50 * MILLISECOND_NS, 400 * MILLISECOND_NS),
    "store_failure": (1, 15 * MILLISECOND_NS),
    "engine_slow": (50 * MILLISECOND_NS, 400 * MILLISECOND_NS),
    "engine_failure": (20 * MILLISECOND_NS, 300 * MILLISECOND_NS),
    "engine_unusable": (20 * MILLISECOND_NS, 300 * MILLISECOND_NS),
    "log_crash": (50 * MILLISECOND_NS, SECOND_NS),
    "swap": (1, 2),
    "outcome": (1, 2),
}
"""The least and the most."""


class Fault(NamedTuple):
    """Something that goes wrong, or that an operator does."""

    at_ns: int
    kind: Kind
    lasts_ns: int
    share: float
    """0 to 1: how bad it is, or which of several things it is."""


def plan(random: np.random.Generator, profile: Profile, start_ns: int, end_ns: int) -> list[Fault]:
    """The faults of a run in the order of their time."""
    seconds = (end_ns - start_ns) / SECOND_NS
    made: list[Fault] = []
    for kind in KINDS:
        count = int(random.poisson(getattr(profile, f"{kind}_hz") * seconds))
        at_ns, lasts_ns = random.integers(start_ns, end_ns, count), random.integers(*_LASTS_NS[kind], count)
        made += map(Fault, at_ns.tolist(), [kind] * count, lasts_ns.tolist(), random.random(count).tolist())
    return sorted(made)


class Weather:
    """What is wrong now: by kind, the fault that began last."""

    def __init__(self) -> None:
        self._until_ns = dict.fromkeys(KINDS, 0)
        self._share = dict.fromkeys(KINDS, 0.0)
        self._begun = dict.fromkeys(KINDS, 0)

    def begin(self, fault: Fault, now_ns: int) -> None:
        """It lasts from now on."""
        self._begun[fault.kind] += 1
        self._until_ns[fault.kind] = now_ns + fault.lasts_ns
        self._share[fault.kind] = fault.share

    @property
    def seen(self) -> dict[str, int]:
        """How often each kind began, of those that did."""
        return {kind: count for kind, count in self._begun.items() if count}

    def is_on(self, kind: Kind, now_ns: int) -> bool:
        return now_ns < self._until_ns[kind]

    def last_ns(self, kinds: Iterable[Kind]) -> int:
        """When the last of these ended or will end; 0 where none has begun."""
        return max((self._until_ns[kind] for kind in kinds), default=0)

    def delay_ns(self, kind: Kind, now_ns: int, most_ns: int) -> int:
        """How much longer something takes: up to ``most_ns``, 0 when nothing is wrong."""
        return int(most_ns * self._share[kind]) if self.is_on(kind, now_ns) else 0
