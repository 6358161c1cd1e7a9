"""Every way a request can end without a decision, as the contract's table gives it: status, message, details."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from fraudgate.limits import ID_BYTES_MAX, SCORE_BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import Status
from fraudgate.validation import PROBLEMS, attribute_at_fault

RETRY_NS = 50_000_000
"""What RetryInfo advises where nothing was predicted: one latency budget, by when the queue has moved on."""
RETRY_STEPS_NS = tuple(step * 1_000_000 for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))
"""What it advises otherwise: the first that is not less than the predicted time, so that refusals are ready made."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status in place of a decision."""

    status: int
    message: str
    details: tuple[Message, ...] = field(default=())

    def to_status(self) -> status_pb2.Status:
        """The google.rpc.Status of this refusal."""
        packed = []
        for detail in self.details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        return status_pb2.Status(code=self.status, message=self.message, details=packed)


def invalid(path: str, what: str) -> Refusal:
    """INVALID_ARGUMENT with the field's path."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=path, description=what)
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    return Refusal(Status.INVALID_ARGUMENT, f"{path} {what}", (detail,))


def invalid_problem(problem: int, prefix: str, attributes: Mapping[str, float]) -> Refusal:
    """INVALID_ARGUMENT for a row's problem number; ``prefix`` is the path of its Transaction."""
    name, what = PROBLEMS[problem]
    key = attribute_at_fault(problem, attributes)
    at = f"[{key!r}]" if key is not None and len(key) <= ID_BYTES_MAX else ""
    return invalid(f"{prefix}.{name}{at}", what)


def exhausted(why: str, retry_ns: int = RETRY_NS) -> Refusal:
    """RESOURCE_EXHAUSTED with RetryInfo: the same id may be sent again."""
    seconds, nanos = divmod(retry_ns, SECOND_NS)
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))
    return Refusal(Status.RESOURCE_EXHAUSTED, f"{why}; retry with the same transaction_id", (retry,))


def conflict(transaction_id: str) -> Refusal:
    """ALREADY_EXISTS: the id was used with another payload."""
    info = error_details_pb2.ErrorInfo(
        reason="TRANSACTION_ID_REUSED", domain="fraudgate", metadata={"transaction_id": transaction_id}
    )
    return Refusal(Status.ALREADY_EXISTS, "this transaction_id was already used with another payload", (info,))


WORDS = {
    "budget": "the latency budget is spent on waiting",
    "overload": "the transactions ahead would use up the call's deadline",
    "priority": "the rest of the latency budget is kept for higher priorities",
    "fairness": "the queue holds this caller's share already",
    "queue_full": "the queue is full",
}
"""By reason, see ``batching.admission``."""
_DELAYED = {reason: [exhausted(why, step_ns) for step_ns in RETRY_STEPS_NS] for reason, why in WORDS.items()}


def delayed(reason: str, retry_ns: int) -> Refusal:
    """RESOURCE_EXHAUSTED for one of ``WORDS``, to be tried again after ``retry_ns`` or a little more."""
    return _DELAYED[reason][min(bisect_left(RETRY_STEPS_NS, retry_ns), len(RETRY_STEPS_NS) - 1)]


def all_delayed(reason: str) -> list[Refusal]:
    """By ``RETRY_STEPS_NS``."""
    return _DELAYED[reason]


BUDGET_SPENT = exhausted(WORDS["budget"])
UNAUTHENTICATED = Refusal(Status.UNAUTHENTICATED, "no known caller has this token, or none was sent")
NOT_ALLOWED = Refusal(Status.PERMISSION_DENIED, "this caller may not call this method")
DEADLINE = Refusal(Status.DEADLINE_EXCEEDED, "the deadline has passed, or is shorter than the gate plus one batch")
CANCELLED = Refusal(Status.CANCELLED, "the caller went away")
DRAINING = Refusal(Status.UNAVAILABLE, "the server is draining; send the same transaction_id elsewhere or later")
INTERNAL = Refusal(Status.INTERNAL, "our fault, before the event was applied; send the same transaction_id again")
UNDECODABLE = invalid("transaction", "does not decode: cut, or not UTF-8")
MISSING = invalid("transaction", "is required")
ROWS = invalid("transactions", f"needs 1 to {SCORE_BATCH_ROWS_MAX} entries")

BY_STATUS = {
    Status.CANCELLED: CANCELLED,
    Status.DEADLINE_EXCEEDED: DEADLINE,
    Status.RESOURCE_EXHAUSTED: BUDGET_SPENT,
    Status.INTERNAL: INTERNAL,
    Status.UNAVAILABLE: DRAINING,
}
"""Refusals that do not depend on the row."""

assert code_pb2.RESOURCE_EXHAUSTED == Status.RESOURCE_EXHAUSTED
