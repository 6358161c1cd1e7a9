"""The engines' part of ``assembly``: from the configuration and the repository to a fleet."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from fraudgate.breaker import Breaker
from fraudgate.clock import Clock
from fraudgate.config import Config
from fraudgate.drift.reference import Reference
from fraudgate.editions import Edition, Editions
from fraudgate.engines.base import Engine
from fraudgate.engines.bounds import Bounds
from fraudgate.engines.conformance import Request
from fraudgate.engines.fleet import Large, Loaded
from fraudgate.engines.loading import Opened, bound, opened
from fraudgate.engines.pacing import paced
from fraudgate.engines.providers import engine_cache
from fraudgate.engines.repository import DRIFT, Manifest, Version, read_version, resolve
from fraudgate.engines.routes import Member, Tier
from fraudgate.engines.sandbox import Sandbox
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

    def engine(self, version: Version) -> Engine:
        """Open, warm up and prove a version. Raises EngineRefused."""
        model = self._config.model
        cache_dir = engine_cache(model.cache_dir)
        provider, fallback, plan_dir = model.provider, model.allow_fallback, Path(model.plan_dir)
        return opened(version, self._schema.fingerprint, provider, fallback, cache_dir, plan_dir)

    def loaded(self, engine: Opened, reference: Reference | None) -> Loaded:
        """An opened engine that may decide: on the loop, which numbers the editions."""
        edition = self._editions.add(_edition(engine.engine, self._rules))
        member = Member(engine.inference, thresholds_of(engine.engine), edition)
        return Loaded(engine, member, reference, reference.columns[-1] if reference is not None else None)

    def load(self, name: str, version: str) -> Loaded:
        """A version that may decide, at the start. Raises EngineRefused."""
        return self.loaded(*self._open(self.path(name, version)))

    async def open(self, directory: Path, manifest: Manifest | None = None) -> Loaded:
        """A version that may decide, while others do: files, warm-up and golden rows on a thread, in small pieces.

        ``manifest``: the one that was checked, which the files must still fit. Raises EngineRefused.
        """
        with paced():
            return self.loaded(*await asyncio.to_thread(self._open, directory, manifest))

    async def check(self, directory: Path, manifest: Manifest, against: Engine) -> list[str]:
        """``fraudgate model check`` in a process of its own, beside the engine that is live: its lines.

        Raises EngineRefused with what speaks against the version, or where it is not ``manifest`` that was checked.
        """
        live = self.path(against.info.name, against.info.version)
        model, schema = self._config.model, self._config.features.schema
        request = Request(str(directory), schema, model.provider, True, str(live), model.plan_dir)
        sandbox = Sandbox()
        try:
            verdict = await asyncio.to_thread(sandbox.check, request)
        finally:  # where nobody waits any more, as when the server ends, the thread must not wait for the child either
            sandbox.end()
        if not verdict.holds:
            raise EngineRefused(f"{manifest.name}/{manifest.version}: {verdict.reason}")
        if verdict.digest != manifest.digest:
            raise EngineRefused(f"{manifest.name}/{manifest.version} changed while it was checked: publish it anew")
        return [f"{result.check}: {result.detail}" for result in verdict.results]

    def large(self, clock: Clock, breaker: Breaker) -> Large | None:
        """The large engine and its route, where one is configured. Raises EngineRefused."""
        tier = self._config.tier
        if not tier.name:
            return None
        try:
            loaded = self.load(tier.name, tier.version)
        except EngineRefused as refused:
            raise EngineRefused(f"[tier] {refused}") from refused
        return Large(loaded, Tier(loaded.member, tier.low, tier.high, tier.wait_ns_max, clock, breaker=breaker))

    def bounds(self) -> Bounds:
        """What ends a trial."""
        return Bounds(**msgspec.structs.asdict(self._config.trial))

    def _open(self, directory: Path, manifest: Manifest | None = None) -> tuple[Opened, Reference | None]:
        version = read_version(directory, manifest)
        reference = self._reference(version)  # first: once bound, an engine has a thread
        return bound(self.engine(version), version.files, self._slabs), reference

    def _reference(self, version: Version) -> Reference | None:
        """What a version's transactions are compared with, if it brings that and drift is on. Raises EngineRefused."""
        data = version.files.get(DRIFT)
        if data is None or not self._config.drift.enabled:
            return None
        if version.manifest.schema_fingerprint != self._schema.fingerprint:
            return None  # refused as the engine is opened, which names both schemas
        return Reference.from_json(data, self._schema.names)


def thresholds_of(engine: Engine) -> Thresholds:
    """As float32, like the scores: a score that reads .9 reaches a threshold of .9."""
    manifest = engine.info.thresholds
    return Thresholds(float(np.float32(manifest.review)), float(np.float32(manifest.decline)))


def _edition(engine: Engine, rules: RuleSet) -> Edition:
    info = engine.info
    return Edition(secrets.token_hex(5), info.name, info.version, info.engine_digest, info.precision, rules.table)
