"""Calls of the data plane by method and code: what ``grpc_server_*`` is made from."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from fraudgate.latency.histogram import CELLS, Distribution, Filled, index_of

SERVICE = "fraudgate.v1.ScoringService"
SCORING = ("Score", "ScoreBatch", "ScoreStream")
"""The methods of ScoringService."""
METHODS = {
    "Score": ("unary", SERVICE),
    "ScoreBatch": ("unary", SERVICE),
    "ScoreStream": ("bidi_stream", SERVICE),
    "Check": ("unary", "grpc.health.v1.Health"),
    "Watch": ("server_stream", "grpc.health.v1.Health"),
    "ServerReflectionInfo": ("bidi_stream", "grpc.reflection.v1alpha.ServerReflection"),
    "unknown": ("unknown", "unknown"),
}
"""``grpc_type`` and ``grpc_service`` of each method; whatever else was asked for is ``unknown``."""


class CallsCopy(NamedTuple):
    """What was counted up to one instant, since the start."""

    started: dict[str, int]
    """By method."""
    handled: dict[tuple[str, str], int]
    """By method and code; see ``CODE_NAMES``."""
    took: dict[str, Distribution]
    """By method, nanoseconds; empty where nobody measured."""


class CallCounts(Protocol):
    """Counts calls, never their rows: a ScoreBatch of 512 is one. Any thread may read."""

    def copy(self) -> CallsCopy: ...


class NativeCalls:
    """What the native front end counts. ``named``: by method its name, calls begun, calls ended by code 0 to 16."""

    def __init__(self, named: Callable[[], Iterable[tuple[str, int, list[int]]]]) -> None:
        self._named = named

    def copy(self) -> CallsCopy:
        """A code that no call of its method has ended with is left out, OK excepted."""
        started: dict[str, int] = {}
        handled: dict[tuple[str, str], int] = {}
        for method, begun, ended in self._named():
            started[method] = begun
            handled |= {(method, code): n for code, n in zip(CODE_NAMES, ended, strict=True) if n or code == "OK"}
        return CallsCopy(started, handled, {})


class Calls:
    """Counts the calls of ScoringService for a front end in Python. One thread, the event loop, counts."""

    def __init__(self) -> None:
        self._started = dict.fromkeys(SCORING, 0)
        self._handled = dict.fromkeys(((method, "OK") for method in SCORING), 0)
        self._took = {method: np.zeros(CELLS, np.int64) for method in SCORING}
        self._views = {method: cells.data for method, cells in self._took.items()}  # faster than NumPy for one

    def __repr__(self) -> str:
        return f"<Calls [{sum(self._started.values()):,} started, {sum(self._handled.values()):,} handled]>"

    def start(self, method: str) -> None:
        self._started[method] += 1

    def end(self, method: str, code: str, took_ns: int) -> None:
        """A call that was started has ended with ``code``, a value of ``CODE_NAMES``."""
        key = (method, code)
        self._handled[key] = self._handled.get(key, 0) + 1
        self._views[method][index_of(took_ns)] += 1

    def copy(self) -> CallsCopy:
        took = {method: Distribution.of(Filled.copy(cells)) for method, cells in self._took.items()}
        handled = dict(self._handled)  # before the started ones, which it must not exceed
        return CallsCopy(dict(self._started), handled, took)


CODE_NAMES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
    "DataLoss", "Unauthenticated",
)  # fmt: skip
"""By status number, spelled as go-grpc-prometheus spells ``grpc_code``, which dashboards of this field filter on."""
