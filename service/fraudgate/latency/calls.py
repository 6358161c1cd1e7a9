"""Calls of the data plane by method and code, for a front end in Python: what ``grpc_server_*`` is made from.

One thread, the event loop, counts; any thread may read.
"""

from typing import NamedTuple

import numpy as np

from fraudgate.latency.histogram import CELLS, Distribution, Filled, index_of

METHOD_TYPES = {"Score": "unary", "ScoreBatch": "unary", "ScoreStream": "bidi_stream"}
"""The methods of ScoringService, and what ``grpc_type`` calls them."""


class CallsCopy(NamedTuple):
    """What was counted up to one instant, since the start."""

    started: dict[str, int]
    """By method."""
    handled: dict[tuple[str, str], int]
    """By method and code; see ``CODE_NAMES``."""
    took: dict[str, Distribution]
    """By method, nanoseconds."""


class Calls:
    """Counts calls, never their rows: a ScoreBatch of 512 is one."""

    def __init__(self) -> None:
        self._started = dict.fromkeys(METHOD_TYPES, 0)
        self._handled = dict.fromkeys(((method, "OK") for method in METHOD_TYPES), 0)
        self._took = {method: np.zeros(CELLS, np.int64) for method in METHOD_TYPES}
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
