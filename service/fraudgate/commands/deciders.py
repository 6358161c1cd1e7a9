"""The engines and rules that a batch log names, opened from a repository and rule files to decide its rows again."""

from collections.abc import Sequence
from pathlib import Path

from fraudgate.audit.decisions import Decider
from fraudgate.audit.edition_file import LoggedEdition
from fraudgate.engines.base import Engine
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import read_version, resolve
from fraudgate.errors import ConfigError, EngineRefused
from fraudgate.fleet_assembly import thresholds_of
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleSet
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32, Float64


class Deciders:
    """Opens what an edition names: versions of ``repository``, on the CPU, and the rule files by their digests."""

    def __init__(self, repository: Path, rule_files: Sequence[Path], feature_names: Sequence[str]) -> None:
        """Raises RuleError."""
        rules = [RuleSet.load(path, feature_names) for path in (DEFAULT_RULES, *rule_files)]
        self._repository, self._rules = repository, {each.version: each for each in rules}

    def open(self, edition: LoggedEdition) -> Decider:
        """Raises ConfigError where no rule file fits, EngineRefused where the version is not that of the log."""
        rules = self._rules.get(edition.rules_version)
        if rules is None:
            raise ConfigError(f"rules {edition.rules_version} decided: name their file with --rules")
        engine = self._engine(edition)
        slab = Slab(engine.features)
        engine.bind([slab])

        def score(features: Float64) -> Float32:
            slab.write(features)
            return engine.run(0)[: len(features)].copy()

        return Decider(score, thresholds_of(engine), rules)

    def _engine(self, edition: LoggedEdition) -> Engine:
        version = read_version(resolve(self._repository, edition.model_name, edition.model_version))
        if version.manifest.engine_digest != edition.engine_digest:
            raise EngineRefused(f"{edition.model} in {self._repository} is not the one that decided: another engine")
        return OnnxEngine.of(version, version.manifest.schema_fingerprint)
