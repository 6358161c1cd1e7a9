"""The engines' part of ``assembly``: from the configuration and the repository to a fleet."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from fraudgate.clock import Clock
from fraudgate.config import Config
from fraudgate.drift.reference import Reference
from fraudgate.editions import Edition, Editions
from fraudgate.engines.base import Engine
from fraudgate.engines.bounds import Bounds
from fraudgate.engines.conformance import Request
from fraudgate.engines.fleet import Large, Loaded
from fraudgate.engines.loading import Opened, bound
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.pacing import paced
from fraudgate.engines.providers import engine_cache
from fraudgate.engines.repository import DRIFT, read_manifest, read_optional, resolve
from fraudgate.engines.routes import Member, Tier
from fraudgate.engines.sandbox import check_model
from fraudgate.errors import EngineRefused
from fraudgate.features.schema import FeatureSchema
from fraudgate.guardrails.decision import Thresholds
from fraudgate.guardrails.rules import RuleSet
from fraudgate.tensors import Slab


class Engines:
    """Opens engines for one pipeline, and names their decisions."""

    def __init__(
        self, config: Config, schema: FeatureSchema, slabs: Sequence[Slab], rules: RuleSet, editions: Editions
    ) -> None:
        self._config, self._schema, self._slabs = config, schema, slabs
        self._rules, self._editions = rules, editions

    def path(self, name: str, version: str) -> Path:
        """The directory of a version, "" the one published last. Raises EngineRefused."""
        return resolve(Path(self._config.model.repository), name, version or None)

    def engine(self, directory: Path) -> Engine:
        """Load, warm up and prove a version. Raises EngineRefused."""
        model = self._config.model
        cache_dir = engine_cache(model.cache_dir)
        return OnnxEngine.load(directory, self._schema.fingerprint, model.provider, model.allow_fallback, cache_dir)

    def loaded(self, opened: Opened, reference: Reference | None) -> Loaded:
        """An opened engine that may decide: on the loop, which numbers the editions."""
        edition = self._editions.add(_edition(opened.engine, self._rules))
        member = Member(opened.inference, _thresholds(opened.engine), edition)
        return Loaded(opened, member, reference.columns[-1] if reference is not None else None)

    def reference(self, directory: Path) -> Reference | None:
        """What a version's transactions are compared with, if it brings that and drift is on. Raises EngineRefused."""
        if not self._config.drift.enabled:
            return None
        data = read_optional(directory, read_manifest(directory), DRIFT)
        return Reference.from_json(data, self._schema.names) if data is not None else None

    def load(self, name: str, version: str) -> Loaded:
        """A version that may decide, at the start. Raises EngineRefused."""
        return self.loaded(*self._open(self.path(name, version)))

    async def open(self, directory: Path) -> Loaded:
        """A version that may decide, while others do: files, warm-up and golden rows on a thread, in small pieces."""
        with paced():
            return self.loaded(*await asyncio.to_thread(self._open, directory))

    async def check(self, directory: Path, against: Engine) -> list[str]:
        """``fraudgate model check`` in a process of its own, beside the engine that is live: its lines.

        Raises EngineRefused with what speaks against the version.
        """
        live = self.path(against.info.name, against.info.version)
        request = Request(str(directory), self._config.features.schema, self._config.model.provider, True, str(live))
        verdict = await asyncio.to_thread(check_model, request)
        if not verdict.holds:
            raise EngineRefused(f"{directory.parent.name}/{directory.name}: {verdict.reason}")
        return [f"{result.check}: {result.detail}" for result in verdict.results]

    def large(self, clock: Clock) -> Large | None:
        """The large engine and its route, where one is configured. Raises EngineRefused."""
        tier = self._config.tier
        if not tier.name:
            return None
        try:
            loaded = self.load(tier.name, tier.version)
        except EngineRefused as refused:
            raise EngineRefused(f"[tier] {refused}") from refused
        return Large(loaded, Tier(loaded.member, tier.low, tier.high, tier.wait_ns_max, clock))

    def bounds(self) -> Bounds:
        """What ends a trial."""
        return Bounds(**msgspec.structs.asdict(self._config.trial))

    def _open(self, directory: Path) -> tuple[Opened, Reference | None]:
        reference = self.reference(directory)  # first: once bound, an engine has a thread
        return bound(self.engine(directory), directory, self._slabs), reference


def _thresholds(engine: Engine) -> Thresholds:
    """As float32, like the scores: a score that reads .9 reaches a threshold of .9."""
    manifest = engine.info.thresholds
    return Thresholds(float(np.float32(manifest.review)), float(np.float32(manifest.decline)))


def _edition(engine: Engine, rules: RuleSet) -> Edition:
    info = engine.info
    return Edition(secrets.token_hex(5), info.name, info.version, info.engine_digest, info.precision, rules.table)
