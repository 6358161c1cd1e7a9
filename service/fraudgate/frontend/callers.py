"""Who calls, by the bearer token in a call's metadata, and what they may call."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from fraudgate.batching.admission import ANONYMOUS, Bounds, Priority
from fraudgate.config import Config
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.sections import RPCS

SCHEME = "bearer "
EVERYTHING = (1 << len(RPCS)) - 1


class Known(NamedTuple):
    """A caller as the front ends know it; its place in their list is its number."""

    token_sha256: bytes
    """Empty for whoever shows no token."""
    priority: Priority
    share: int
    may: int
    """Bit i: it may call ``RPCS[i]``."""


def known(config: Config) -> list[Known]:
    """The anonymous caller, then those of the configuration."""
    callers = [Known(b"", Priority.NORMAL, 1, EVERYTHING)]
    for caller in config.callers:
        may = sum(1 << RPCS.index(rpc) for rpc in set(caller.may))
        priority = Priority[caller.priority.upper()]
        callers.append(Known(bytes.fromhex(caller.token_sha256), priority, caller.share, may))
    return callers


def bounds(config: Config, callers: Sequence[Known]) -> Bounds:
    """What admission decides by."""
    budget_ns, headroom = config.batching.budget_ns, config.admission
    return Bounds(
        budget_ns=budget_ns,
        allowances_ns=(
            int(budget_ns * headroom.headroom_high),
            int(budget_ns * headroom.headroom_normal),
            int(budget_ns * headroom.headroom_low),
        ),
        priorities=tuple(caller.priority for caller in callers),
        weights=tuple(caller.share for caller in callers),
    )


class Callers:
    """Tells callers by their tokens. Only digests are kept, and only digests are compared."""

    def __init__(self, callers: Sequence[Known], required: bool) -> None:
        self._callers = callers
        self._required = required
        self._numbers = {caller.token_sha256: number for number, caller in enumerate(callers) if number != ANONYMOUS}

    @property
    def alike(self) -> bool:
        """Nobody is told apart: no caller is configured and none is required."""
        return len(self._callers) == 1 and not self._required

    def identify(self, authorization: str | bytes | None, rpc: str) -> int | Refusal:
        """The caller's number, or why this call ends here. ``authorization``: that header's value, None without it.

        Where no caller is configured and none is required, the header is somebody else's and is not looked at.
        """
        if authorization is None or self.alike:
            return refusals.UNAUTHENTICATED if self._required else ANONYMOUS
        digest = _digest(authorization)
        if digest not in self._numbers:
            return refusals.UNAUTHENTICATED
        number = self._numbers[digest]
        return number if self._callers[number].may >> RPCS.index(rpc) & 1 else refusals.NOT_ALLOWED


def _digest(authorization: str | bytes) -> bytes:
    """Of the token; of no length, and so nobody's, where there is none."""
    text = authorization if isinstance(authorization, bytes) else authorization.encode()
    scheme, token = text[: len(SCHEME)], text[len(SCHEME) :]
    return hashlib.sha256(token).digest() if scheme.lower() == SCHEME.encode() else b""
