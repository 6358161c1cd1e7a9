"""ModelService: the model repository over gRPC."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fraudgate.engines.repository import ModelEntry, list_models
from fraudgate.v1 import models_pb2, models_pb2_grpc


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Lists ``root``; ``live`` gives the name and version that decide now, or None."""

    def __init__(self, root: Path, live: Callable[[], tuple[str, str] | None]) -> None:
        self._root, self._live = root, live

    async def ListModels(  # noqa: N802 - the name is the protocol's
        self, request: models_pb2.ListModelsRequest, context: Any
    ) -> models_pb2.ListModelsResponse:
        # Files are read and hashed: on a thread, so that the loop does not stall.
        entries = await asyncio.to_thread(list_models, self._root)
        live = self._live()
        return models_pb2.ListModelsResponse(models=[to_wire(entry, live) for entry in entries])


def to_wire(entry: ModelEntry, live: tuple[str, str] | None) -> models_pb2.ModelVersion:
    """One version as a message; a manifest that cannot be read leaves its fields empty."""
    version = models_pb2.ModelVersion(
        name=entry.name,
        version=entry.version,
        live=(entry.name, entry.version) == live,
        problem=entry.problem,
    )
    if manifest := entry.manifest:
        version.engine_digest = manifest.engine_digest
        version.precision = manifest.precision
        version.schema_fingerprint = manifest.schema_fingerprint
        version.published_at_seconds = int(manifest.published_at.timestamp())
    return version
