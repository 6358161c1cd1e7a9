"""FeatureService: profile values in, features out, and the snapshot. Runs on the scoring loop, between two batches."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from fraudgate.control.requests import Refused, abort, instant_ns, refuse, require_entity
from fraudgate.errors import FraudgateError
from fraudgate.features.store import FeatureStore
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.limits import SECOND_NS
from fraudgate.state import Written
from fraudgate.transaction import ENTITIES
from fraudgate.v1 import features_pb2, features_pb2_grpc
from fraudgate.validation import text_problem

_NO_STATE_DIR = Refusal(
    code_pb2.FAILED_PRECONDITION,
    "the server has nowhere to write to: set state.dir (FRAUDGATE_STATE__DIR) and start it again",
)


class FeatureServicer(features_pb2_grpc.FeatureServiceServicer):
    """Writes and reads one store. ``snapshot`` writes the state; None = there is no state.dir."""

    def __init__(self, store: FeatureStore, snapshot: Callable[[], Awaitable[Written]] | None = None) -> None:
        self._store = store
        self._snapshot = snapshot

    async def PutFeatures(  # noqa: N802 - the name is the protocol's
        self, request_iterator: AsyncIterator[features_pb2.PutFeaturesRequest], context: Any
    ) -> features_pb2.PutFeaturesResponse:
        stored = features_pb2.PutFeaturesResponse()
        try:
            async for request in request_iterator:
                self._put(request)
                stored.entities += 1
                stored.values += len(request.values)
        except Refused as refused:
            await abort(context, refused.refusal)
        return stored

    def _put(self, request: features_pb2.PutFeaturesRequest) -> None:
        require_entity(request.entity, request.id, ENTITIES, text_problem(request.id))
        for name, value in request.values.items():
            if not math.isfinite(value):
                refuse(refusals.invalid(f"values[{name!r}]", "is not finite"))
        try:
            self._store.put_profile(request.entity, request.id, dict(request.values))
        except FraudgateError as error:
            raise Refused(refusals.invalid("values", str(error))) from error

    async def GetFeatures(  # noqa: N802 - the name is the protocol's
        self, request: features_pb2.GetFeaturesRequest, context: Any
    ) -> features_pb2.GetFeaturesResponse:
        try:
            require_entity(request.entity, request.id, ENTITIES, text_problem(request.id))
            at_ns = instant_ns(request.at, "at") if request.HasField("at") else None
        except Refused as refused:
            await abort(context, refused.refusal)
        view = self._store.read_entity(request.entity, request.id, at_ns)
        response = features_pb2.GetFeaturesResponse(values=view.values, defaulted=view.defaulted, buckets=view.buckets)
        if view.latest_event_time_ns is not None:
            seconds, nanos = divmod(view.latest_event_time_ns, SECOND_NS)
            response.latest_event_time.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
        return response

    async def Snapshot(  # noqa: N802 - the name is the protocol's
        self, request: features_pb2.SnapshotRequest, context: Any
    ) -> features_pb2.SnapshotResponse:
        if self._snapshot is None:
            await abort(context, _NO_STATE_DIR)
        try:
            written = await self._snapshot()
        except OSError as error:
            await abort(context, Refusal(code_pb2.INTERNAL, f"cannot write the snapshot: {error}"))
        return features_pb2.SnapshotResponse(
            directory=str(written.directory),
            size_bytes=written.size_bytes,
            stored_decisions=written.stored_decisions,
            duration_ns=written.duration_ns,
        )
