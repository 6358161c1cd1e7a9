"""OutcomeService: what became of a payment. Applied on the scoring loop, between two batches."""

from collections.abc import AsyncIterator
from typing import Any

from google.rpc import code_pb2

from fraudgate.control.requests import Refused, abort, instant_ns, refuse
from fraudgate.errors import UnknownTransaction
from fraudgate.features.store import FeatureStore, Outcome
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.latency.recorder import Counters
from fraudgate.v1 import outcomes_pb2, outcomes_pb2_grpc
from fraudgate.validation import text_problem

_ENTITIES = ("customer_id", "terminal_id", "card_id", "merchant_id", "device_id")


class OutcomeServicer(outcomes_pb2_grpc.OutcomeServiceServicer):
    """Applies outcomes to one store."""

    def __init__(self, store: FeatureStore, counters: Counters) -> None:
        self._store = store
        self._counters = counters

    async def ReportOutcome(  # noqa: N802 - the name is the protocol's
        self, request: outcomes_pb2.ReportOutcomeRequest, context: Any
    ) -> outcomes_pb2.ReportOutcomeResponse:
        try:
            return outcomes_pb2.ReportOutcomeResponse(applied=self._apply(request))
        except Refused as refused:
            await abort(context, refused.refusal)

    async def ReportOutcomes(  # noqa: N802 - the name is the protocol's
        self, request_iterator: AsyncIterator[outcomes_pb2.ReportOutcomeRequest], context: Any
    ) -> AsyncIterator[outcomes_pb2.ReportOutcomeResult]:
        async for request in request_iterator:
            result = outcomes_pb2.ReportOutcomeResult(transaction_id=request.transaction_id)
            try:
                result.applied = self._apply(request)
            except Refused as refused:
                result.code, result.message = refused.refusal.status, refused.refusal.message
            yield result

    def _apply(self, request: outcomes_pb2.ReportOutcomeRequest) -> bool:
        """True when a window changed. Raises Refused."""
        outcome = _outcome(request)
        try:
            applied = self._store.apply_outcome(outcome)
        except UnknownTransaction as unknown:
            raise Refused(Refusal(code_pb2.NOT_FOUND, str(unknown))) from unknown
        self._counters.count("fraudgate_outcomes_total")
        return applied


def _outcome(request: outcomes_pb2.ReportOutcomeRequest) -> Outcome:
    if not request.transaction_id:
        refuse(refusals.invalid("transaction_id", "is required, 1 to 64 bytes"))
    for name in ("transaction_id", *_ENTITIES):
        problem = text_problem(getattr(request, name))
        if problem:
            refuse(refusals.invalid(name, problem))
    event_time_ns = instant_ns(request.event_time, "event_time") if request.HasField("event_time") else None
    if request.HasField("reported_at"):
        instant_ns(request.reported_at, "reported_at")
    ids = {name: getattr(request, name) for name in _ENTITIES if getattr(request, name)}
    return Outcome(request.transaction_id, request.is_fraud, event_time_ns, ids)
