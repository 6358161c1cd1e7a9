"""The degradation ladder: what is asked for a decision, and what stands in for it while that is away.

    away               stands in                                      the answer says
    the store          request features, declared defaults; nothing   DEFAULTED_FEATURES
                       is applied
    the large engine   the small one, see ``engines.routes.Tier``     SMALL_MODEL
    the engine         the rules alone                                RULES_ONLY
    the rules          the configured static policy                   STATIC_POLICY

Away is what fails now, and what has failed or lagged so much lately that its breaker is open: see ``breaker``.
"""

import logging
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fraudgate.breaker import Breaker, BreakerSettings, State
from fraudgate.clock import Clock
from fraudgate.engines.base import Inference
from fraudgate.errors import EngineFailed
from fraudgate.features.defaults import Defaults
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import FeatureStore, Gathered
from fraudgate.guardrails.decision import overrule
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.rules import RuleSet
from fraudgate.guardrails.static_policy import StaticPolicy
from fraudgate.latency.recorder import Counters
from fraudgate.limits import BUDGET_NS
from fraudgate.tensors import quiet_context
from fraudgate.transaction import Answers, Columns, Fallback, Float32, Mark, UInt64

_log = logging.getLogger(__name__)

RUNGS = {
    "store": Fallback.DEFAULTED_FEATURES,
    "large": Fallback.SMALL_MODEL,
    "engine": Fallback.RULES_ONLY,
    "rules": Fallback.STATIC_POLICY,
}
"""What the answers say at best while a dependency is away."""


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """When a dependency counts as away, beyond the batch that it fails."""

    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    store_ns_max: int = BUDGET_NS
    engine_ns_max: int = BUDGET_NS


class Ladder:
    """Asks the dependencies of one pipeline, on the scoring loop; any thread may make a ``LadderReport``.

    settings: without them no breaker opens, and a batch that the store fails has no decision.
    tell: hears of every change of a breaker.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        counters: Counters,
        clock: Clock,
        settings: LadderSettings | None = None,
        policy: StaticPolicy | None = None,
        tell: Callable[[str], None] = _log.warning,
    ) -> None:
        limits = settings or LadderSettings()
        breaker = limits.breaker if settings else None
        self.store = Breaker("store", breaker, limits.store_ns_max, tell)
        self.large = Breaker("large", breaker, limits.engine_ns_max, tell)
        self.engine = Breaker("engine", breaker, limits.engine_ns_max, tell)
        self.rules = Breaker("rules", breaker, tell=tell)
        self._defaults = Defaults(schema) if settings else None
        self._policy = policy or StaticPolicy()
        self._counters, self._clock = counters, clock
        self._quiet = quiet_context()
        self._asked: Callable[[], Inference | None] = lambda: None  # weak: an engine that goes must not wait for us
        # The store's run that ends when its batch is packed: a clock read for it alone would cost more than the check.
        self._gathering = self._gathering_ns = 0

    def __repr__(self) -> str:
        return f"<Ladder {self.rung.name.lower()} {self.breakers}>"

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """From the top of the ladder down."""
        return self.store, self.large, self.engine, self.rules

    @property
    def rung(self) -> Fallback:
        """The worst of the dependencies that are not asked by every batch; NONE = the top."""
        away = (RUNGS[each.name] for each in self.breakers if each.state is not State.CLOSED)
        return max(away, default=Fallback.NONE)

    def gather(self, store: FeatureStore, columns: Columns, rows: list[int], now_ns: int) -> Gathered | None:
        """Apply these rows and read their features, or else their defaults; None where there is no such rung."""
        self._gathering = ticket = self.store.ticket or self.store.ask(now_ns)
        self._gathering_ns = now_ns
        if ticket:
            try:
                return store.apply_and_gather(columns, rows)
            except Exception:  # whatever it was, nothing is applied
                _log.exception("the store refused a batch of %d", len(rows))
                self._counters.count("fraudgate_store_failures_total")
                self._gathering = 0
                self.store.report(ticket, now_ns, now_ns, failed=True)
        if self._defaults is None:
            return None
        self._counters.count("fraudgate_unapplied_total", len(rows))
        return self._defaults.gather(columns, rows)

    async def infer(self, inference: Inference, slot: int, rows: int, now_ns: int) -> tuple[Float32, int]:
        """The scores of a slab, float32[rows], NaN while the engine is away, and when that was known.

        inference: the live one's. now_ns: what was gathered last is packed; nothing was awaited since.
        """
        store, engine = self.store, self.engine
        if self._gathering and not (store.is_clear and now_ns - self._gathering_ns <= store.allowance_ns):
            store.report(self._gathering, self._gathering_ns, now_ns)
        if inference is not self._asked():
            self._asked = weakref.ref(inference)
            engine.renew()
        ticket = engine.ticket or engine.ask(now_ns)
        if not ticket:
            return _no_scores(rows), self._clock()
        try:
            score = (await inference.infer(slot))[:rows]
        except Exception as failure:  # the events are applied: whatever it was, the rules decide
            if not isinstance(failure, EngineFailed):
                _log.exception("a mistake of ours in the engine: rules decide a batch of %d", rows)
            self._counters.count("fraudgate_engine_failures_total")
            engine.report(ticket, now_ns, ended_ns := self._clock(), failed=True)
            return _no_scores(rows), ended_ns
        ended_ns = self._clock()
        if 0.0 <= score.item(0) <= 1.0 and engine.is_clear and ended_ns - now_ns <= engine.allowance_ns:
            engine.ended_ns = ended_ns  # the common batch is told by its first row
        else:
            engine.report(ticket, now_ns, ended_ns, _is_unusable(score))
        return score, ended_ns

    def judge(self, rules: RuleSet, inputs: RuleInputs, decided: Answers, now_ns: int) -> None:
        """Let the rules, or while they are away the static policy, overrule what the score alone decided."""
        breaker, failed = self.rules, _NO_MARK
        if ticket := breaker.ticket or breaker.ask(now_ns):
            bits = decided["rules"].copy()  # side by side, which NumPy is quicker with
            try:
                union = self._quiet.run(rules.fire, inputs, bits)
            except Exception:  # the events are applied: whatever it was, the policy decides
                _log.exception("the rules failed on a batch of %d", inputs.rows)
                self._counters.count("fraudgate_rule_errors_total", inputs.rows)
                breaker.report(ticket, now_ns, now_ns, failed=True)
                failed = _RULE_ERROR
            else:
                if not breaker.is_clear:
                    breaker.report(ticket, now_ns, now_ns)
                if union:
                    self._overrule(rules, bits, union, decided)
                return
        self._policy.overrule(inputs, decided)
        decided["rules"] |= failed

    def _overrule(self, rules: RuleSet, bits: UInt64, union: int, decided: Answers) -> None:
        if union >> Mark.RULE_ERROR:
            self._counters.count("fraudgate_rule_errors_total", int(np.count_nonzero(bits & _RULE_ERROR)))
        decisions = decided["decision"].copy()
        overrule(rules, bits, union, decisions)
        decided["decision"], decided["rules"] = decisions, bits


_RULE_ERROR, _NO_MARK = np.uint64(1 << Mark.RULE_ERROR), np.uint64(0)


def _no_scores(rows: int) -> Float32:
    return np.full(rows, np.nan, np.float32)


def _is_unusable(score: Float32) -> bool:
    """No row has a score that may decide."""
    return not bool(((score >= 0.0) & (score <= 1.0)).any())


@dataclass(frozen=True, slots=True)
class BreakerReport:
    """One dependency; the names are those of ``fraudgate.v1.BreakerReport``."""

    dependency: str
    state: str
    changes: int
    bad_runs: int


@dataclass(frozen=True, slots=True)
class LadderReport:
    """The names are those of ``fraudgate.v1.LadderReport``."""

    rung: str
    breakers: tuple[BreakerReport, ...]
    """From the top of the ladder down."""

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def of(cls, ladder: Ladder) -> "LadderReport":
        rung = ladder.rung
        breakers = [
            BreakerReport(each.name, each.state.name.lower(), each.changes, each.bad_runs) for each in ladder.breakers
        ]
        return cls("full" if rung == Fallback.NONE else rung.name.lower(), tuple(breakers))
