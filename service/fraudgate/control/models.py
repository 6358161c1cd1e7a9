"""ModelService: the model repository over gRPC, and what is live. Runs on the scoring loop, between two batches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from google.rpc import code_pb2

from fraudgate.clock import Clock
from fraudgate.control.candidate import Candidate
from fraudgate.control.requests import abort
from fraudgate.engines.base import Engine
from fraudgate.engines.fleet import GATE, STAGES_PERCENT, Fleet, Gate, Loaded
from fraudgate.engines.report import trial_report
from fraudgate.engines.repository import Manifest, ModelEntry, list_models, read_manifest, resolve
from fraudgate.errors import EngineRefused, ModelMissing
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.v1 import models_pb2, models_pb2_grpc

Check = Callable[[Path, Manifest, Engine], Awaitable[list[str]]]
Open = Callable[[Path, Manifest], Awaitable[Loaded]]

_STAGES_MAX = 100
_REASON_BYTES_MAX = 1_024


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Lists ``root`` and changes what ``fleet`` serves. ``check`` and ``open_`` raise EngineRefused.

    One change at a time: a check takes seconds of the processor.
    """

    def __init__(self, root: Path, fleet: Fleet, check: Check, open_: Open, clock: Clock) -> None:
        self._root, self._fleet = root, fleet
        self._check, self._open, self._clock = check, open_, clock
        self._checked: dict[tuple[str, str], list[str]] = {}  # by the digest of the version, and what was live
        self._candidate = Candidate()
        self._busy = asyncio.Lock()

    async def ListModels(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.ListModelsRequest, context: Any
    ) -> models_pb2.ListModelsResponse:
        entries = await self._entries()
        now_ns = self._clock()
        events = [
            models_pb2.ModelEvent(age_seconds=(now_ns - event.now_ns) / SECOND_NS, model=event.model, what=event.what)
            for event in self._fleet.events
        ]
        models = [self._to_wire(entry) for entry in entries]
        return models_pb2.ListModelsResponse(models=models, events=events, trial=self._trial())

    async def LoadModel(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.LoadModelRequest, context: Any
    ) -> models_pb2.LoadModelResponse:
        async with self._busy, _refusing(context):
            loaded, manifest, lines = await self._loaded(request.name, request.version)
            self._candidate.keep(manifest, loaded)
        return models_pb2.LoadModelResponse(model=self._of(manifest), checks=lines)

    async def PromoteModel(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.PromoteModelRequest, context: Any
    ) -> models_pb2.PromoteModelResponse:
        gate = await self._gate(context, request)
        if len(request.stages_percent) > _STAGES_MAX:
            await abort(context, refusals.invalid("stages_percent", f"has more than {_STAGES_MAX} entries"))
        async with self._busy, _refusing(context):
            loaded, manifest, _ = await self._loaded(request.name, request.version)
            self._fleet.promote(loaded, list(request.stages_percent) or STAGES_PERCENT, gate)
        return models_pb2.PromoteModelResponse(model=self._of(manifest))

    async def RollbackModel(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.RollbackModelRequest, context: Any
    ) -> models_pb2.RollbackModelResponse:
        if len(request.reason.encode()) > _REASON_BYTES_MAX:
            await abort(context, refusals.invalid("reason", f"is longer than {_REASON_BYTES_MAX} bytes"))
        async with _refusing(context):
            live = self._fleet.rollback(request.reason or "by hand")
        return models_pb2.RollbackModelResponse(live=self._to_wire(_entry_of(live)))

    async def SetShadow(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.SetShadowRequest, context: Any
    ) -> models_pb2.SetShadowResponse:
        async with self._busy, _refusing(context):
            if not request.name:
                self._fleet.shadow(None)
                return models_pb2.SetShadowResponse()
            loaded, manifest, _ = await self._loaded(request.name, request.version)
            self._fleet.shadow(loaded)
        return models_pb2.SetShadowResponse(shadow=self._of(manifest))

    async def _gate(self, context: Any, request: models_pb2.PromoteModelRequest) -> Gate:
        if request.stage_rows_min < 0:
            await abort(context, refusals.invalid("stage_rows_min", "is negative"))
        seconds = request.stage_seconds_min if request.HasField("stage_seconds_min") else GATE.ns_min / SECOND_NS
        if not 0 <= seconds <= DAY_SECONDS:
            await abort(context, refusals.invalid("stage_seconds_min", f"is not within 0..{DAY_SECONDS}"))
        return Gate(request.stage_rows_min or GATE.rows_min, int(seconds * SECOND_NS))

    async def _loaded(self, name: str, version: str) -> tuple[Loaded, Manifest, list[str]]:
        """A version, and what its check found. The candidate, or opened: a shadow binds it to a slab of its own."""
        directory = await asyncio.to_thread(resolve, self._root, name, version or None)
        manifest = await asyncio.to_thread(read_manifest, directory)
        key = manifest.digest, self._fleet.live.name
        if key not in self._checked:
            self._checked[key] = await self._check(directory, manifest, self._fleet.live.engine)
        loaded = self._candidate.take(manifest) or await self._open(directory, manifest)
        return loaded, manifest, self._checked[key]

    async def _entries(self) -> list[ModelEntry]:
        # Files are read and hashed: on a thread, so that the loop does not stall.
        return await asyncio.to_thread(list_models, self._root)

    def _of(self, manifest: Manifest) -> models_pb2.ModelVersion:
        return self._to_wire(ModelEntry(manifest.name, manifest.version, manifest, ""))

    def _to_wire(self, entry: ModelEntry) -> models_pb2.ModelVersion:
        return to_wire(entry, self._fleet.state_of(f"{entry.name}/{entry.version}"))

    def _trial(self) -> models_pb2.Trial | None:
        report = trial_report(self._fleet)
        return models_pb2.Trial(**asdict(report)) if report is not None else None


@asynccontextmanager
async def _refusing(context: Any) -> AsyncIterator[None]:
    """Within, a version that is not there ends the call NOT_FOUND, one that cannot be served FAILED_PRECONDITION."""
    try:
        yield
    except ModelMissing as missing:
        await abort(context, Refusal(code_pb2.NOT_FOUND, str(missing)))
    except EngineRefused as refused:
        await abort(context, Refusal(code_pb2.FAILED_PRECONDITION, str(refused)))


def _entry_of(loaded: Loaded) -> ModelEntry:
    return ModelEntry(loaded.engine.info.name, loaded.engine.info.version, None, "")


def to_wire(entry: ModelEntry, state: str) -> models_pb2.ModelVersion:
    """One version as a message; a manifest that cannot be read leaves its fields empty."""
    version = models_pb2.ModelVersion(
        name=entry.name, version=entry.version, live=state == "live", state=state, problem=entry.problem
    )
    if manifest := entry.manifest:
        version.engine_digest = manifest.engine_digest
        version.precision = manifest.precision
        version.schema_fingerprint = manifest.schema_fingerprint
        version.published_at_seconds = int(manifest.published_at.timestamp())
    return version
