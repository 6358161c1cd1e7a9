"""CPU time of the guardrails on one full batch: each packaged rule, the whole set, the decision. Prints JSON.

python -m benchmarks.rules
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from time import process_time_ns

import numpy as np

from fraudgate.features.schema import FeatureSchema
from fraudgate.guardrails.cel import Environment
from fraudgate.guardrails.decision import Thresholds, level_decisions, overrule, score_marks, usable
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleInputs, RuleSet
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import ENTITIES, Float64

SEED = 20_180_808
NAMES = FeatureSchema.named("handbook").names
THRESHOLDS = Thresholds(review=0.3, decline=0.8)


def quiet_batch() -> RuleInputs:
    """A usual batch: no rule fires, so what follows the first && is hardly looked at."""
    random = np.random.default_rng(SEED)
    rows = BATCH_ROWS_MAX
    texts = {name: [f"{name}-{row}" for row in range(rows)] for name in ENTITIES} | {"currency": ["EUR"] * rows}
    return RuleInputs(
        rows=rows,
        score=random.uniform(0.0, 0.2, rows).astype(np.float32),
        scored=None,
        amount_minor=random.integers(100, 20_000, rows),
        texts=texts.__getitem__,
        features=_features(random, amount=50.0, risk=0.0, night=0.0),
        attributes=None,
    )


def loud_batch() -> RuleInputs:
    """The costly case: every rule is looked at to its end and fires, and every row has an attribute."""
    random = np.random.default_rng(SEED)
    batch = quiet_batch()
    batch.score = random.uniform(0.0, 1.0, batch.rows).astype(np.float32)
    batch.amount_minor = random.integers(100, 30_000, batch.rows)
    batch.score[0], batch.amount_minor[0] = 0.3, 1_000  # the one row that the allow rule takes
    batch.features = _features(random, amount=500.0, risk=1.0, night=1.0)
    batch.attributes = [{"strong_authentication": 1.0}] * batch.rows
    return batch


def _features(random: np.random.Generator, amount: float, risk: float, night: float) -> Float64:
    features = random.uniform(1.0, 10.0, (BATCH_ROWS_MAX, len(NAMES)))
    for name, value in {"TX_AMOUNT": amount, "TX_DURING_NIGHT": night, "AVG_AMOUNT": 60.0, "RISK": risk}.items():
        features[:, [index for index, feature in enumerate(NAMES) if name in feature]] = value
    return features


def measure(batches: int = 5_000, repeats: int = 5) -> dict[str, float]:
    """Microseconds of CPU per batch of 32, the best of ``repeats``; loading in milliseconds."""

    def best(call: Callable[[], object], calls: int = batches) -> float:
        return min(_cpu_us(call, calls) for _ in range(repeats))

    ruleset = RuleSet.load(DEFAULT_RULES, NAMES)
    quiet, loud = quiet_batch(), loud_batch()
    scores = np.linspace(0.0, 1.0, BATCH_ROWS_MAX, dtype=np.float32)
    figures = {"rules_load_cpu_ms": best(lambda: RuleSet.load(DEFAULT_RULES, NAMES), max(batches // 1_000, 1)) / 1_000}
    environment = Environment(NAMES)
    for rule in ruleset.rules:
        name, condition = rule.id.replace("-", "_"), environment.condition(rule.when).run
        figures[f"rule_{name}_cpu_us_per_batch"] = best(partial(condition, quiet))
        figures[f"rule_{name}_loud_cpu_us_per_batch"] = best(partial(condition, loud))
    figures["rules_cpu_us_per_batch"] = best(lambda: _guard(ruleset, quiet))
    figures["rules_loud_cpu_us_per_batch"] = best(lambda: _guard(ruleset, loud))
    figures["rules_cpu_us_per_decision"] = figures["rules_cpu_us_per_batch"] / BATCH_ROWS_MAX
    figures["usable_cpu_us_per_batch"] = best(lambda: usable(THRESHOLDS.levels(scores)))
    return {name: round(value, 3) for name, value in figures.items()}


def _guard(ruleset: RuleSet, batch: RuleInputs) -> None:
    level = THRESHOLDS.levels(batch.score.astype(np.float32, copy=False))
    bits = score_marks(level)
    decisions = level_decisions(level)
    if union := ruleset.fire(batch, bits):
        overrule(ruleset, bits, union, decisions)


def _cpu_us(call: Callable[[], object], calls: int) -> float:
    start_ns = process_time_ns()
    for _ in range(calls):
        call()
    return (process_time_ns() - start_ns) / calls / 1_000


def figures() -> dict[str, float]:
    """The figures of the results file."""
    chosen = ("rules_cpu_us_per_batch", "rules_loud_cpu_us_per_batch")
    return {key: value for key, value in measure().items() if key in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=5_000)
    print(json.dumps(measure(parser.parse_args().batches), indent=2))


if __name__ == "__main__":
    main()
