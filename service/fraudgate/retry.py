"""The client's side of the status table: what a refusal says, and when the same transaction is sent again.

    UNAVAILABLE, INTERNAL               after a pause that doubles
    RESOURCE_EXHAUSTED with RetryInfo   after what RetryInfo advises
    DEADLINE_EXCEEDED                   once
    everything else                     never

RESOURCE_EXHAUSTED without RetryInfo is a message too large.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.rpc import error_details_pb2, status_pb2

from fraudgate.errors import FraudgateError
from fraudgate.limits import SECOND_NS
from fraudgate.v1 import scoring_pb2 as pb

ATTEMPT_S = 0.2
"""For one attempt: four times the server's budget."""
ATTEMPTS_MAX = 4
BACKOFF_S, BACKOFF_S_MAX = 0.01, 0.2
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Refused(FraudgateError):  # noqa: N818 - the field says "refused"
    """There is no decision. field_violations: what is wrong, by field path; retry_delay: seconds, as advised."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        field_violations: Mapping[str, str] | None = None,
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code, self.message, self.retry_delay = code, message, retry_delay
        self.field_violations = dict(field_violations or {})

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> "Refused":
        """From a google.rpc.Status."""
        violations, retry, delay_s = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo(), None
        for detail in status.details:
            detail.Unpack(violations)
            if detail.Unpack(retry):
                delay_s = retry.retry_delay.ToNanoseconds() / SECOND_NS
        paths = {violation.field: violation.description for violation in violations.field_violations}
        return cls(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, paths, delay_s)

    @classmethod
    def of_call(cls, error: Any) -> "Refused":
        """From a grpc.RpcError, blocking or aio."""
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        status = status_pb2.Status.FromString(details or b"")
        status.code, status.message = error.code().value[0], error.details() or ""
        return cls.of_status(status)

    @property
    def retryable(self) -> bool:
        """True where the same transaction_id may be sent again."""
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_delay is not None
        return self.code.name in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Reply:
    """A decision; ``replayed``: the stored answer of an earlier attempt."""

    response: pb.ScoreResponse
    replayed: bool


Result: TypeAlias = pb.ScoreResponse | Refused
"""What became of one row of a batch or a stream."""


def result_of(result: pb.ScoreResult, transaction_id: str) -> Result:
    """The decision of this transaction, or Refused: whatever else calls itself OK is no decision."""
    if result.HasField("error"):
        return Refused.of_status(result.error)
    if result.response.decision and result.response.transaction_id == transaction_id:
        return result.response
    return Refused(grpc.StatusCode.UNKNOWN, f"the server's answer is no decision of {transaction_id!r}")


@dataclass(frozen=True, slots=True)
class Retry:
    """How a call is repeated. ``jitter`` draws from [0, 1); ``clock`` counts seconds."""

    attempt_s: float = ATTEMPT_S
    attempts_max: int = ATTEMPTS_MAX
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


class Patience:
    """Of one call: how long an attempt may take, and whether another one follows."""

    def __init__(self, retry: Retry, deadline_s: float) -> None:
        self._retry = retry
        self._ends_s = retry.clock() + deadline_s
        self._attempts = 0
        self._was_late = False

    def begin_attempt(self) -> float:
        """The seconds that the next attempt may take."""
        self._attempts += 1
        return min(self._retry.attempt_s, self._ends_s - self._retry.clock())

    def wait_s(self, refused: Refused) -> float | None:
        """Seconds until the same may be sent again; None = this refusal stands."""
        late = refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
        if not refused.retryable or (late and self._was_late) or self._attempts >= self._retry.attempts_max:
            return None
        self._was_late |= late
        wait_s = self._advised_s(refused) * (1 + self._retry.jitter() / 2)
        return wait_s if self._retry.clock() + wait_s < self._ends_s else None

    def _advised_s(self, refused: Refused) -> float:
        """The least wait; jitter only adds to it, so that nobody comes back before the server asked to."""
        if refused.retry_delay is not None:
            return max(refused.retry_delay, 0.0)
        return min(BACKOFF_S * 2.0 ** (self._attempts - 1), BACKOFF_S_MAX)
