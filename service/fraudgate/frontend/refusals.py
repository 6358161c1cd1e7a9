"""Every way a request can end without a decision, as the contract's table gives it: status, message, details."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from fraudgate.limits import ID_BYTES_MAX, SCORE_BATCH_ROWS_MAX
from fraudgate.transaction import Status
from fraudgate.validation import PROBLEMS, attribute_at_fault

RETRY_NS = 50_000_000
"""What RetryInfo advises: one latency budget, by when the queue that refused has moved on."""


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


def exhausted(why: str) -> Refusal:
    """RESOURCE_EXHAUSTED with RetryInfo: the same id may be sent again."""
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=RETRY_NS))
    return Refusal(Status.RESOURCE_EXHAUSTED, f"{why}; send the same transaction_id again after the delay", (retry,))


def conflict(transaction_id: str) -> Refusal:
    """ALREADY_EXISTS: the id was used with another payload."""
    info = error_details_pb2.ErrorInfo(
        reason="TRANSACTION_ID_REUSED", domain="fraudgate", metadata={"transaction_id": transaction_id}
    )
    return Refusal(Status.ALREADY_EXISTS, "this transaction_id was already used with another payload", (info,))


QUEUE_FULL = exhausted("the queue is full")
BUDGET_SPENT = exhausted("waiting has used up the server's latency budget")
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
