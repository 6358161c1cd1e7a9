"""The model card: what was trained, how it was chosen, what was tried, and what it reaches."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fraudgate.engines.repository import Manifest
from models.network import Recipe
from models.protocol import FOLD_STARTS, TRAIN_START, Quality, Split
from models.ramps import ramp_layer
from models.served import Comparison
from models.thresholds import DECLINE_PRECISION, REVIEW_PRECISION, Caught

TRIED = Path(__file__).parent / "tried.json"
SOURCES = {
    "handbook": 'the public card-fraud benchmark ("Reproducible Machine Learning for Credit Card Fraud Detection -\n'
    'Practical Handbook"), which its authors simulated',
    "simulated": "the project's own simulator; it stands in where the public benchmark is absent",
}
HEADINGS = ("AUC ROC", "average precision", "card precision@100")


class Facts(NamedTuple):
    """Everything that a card says."""

    manifest: Manifest
    recipe: Recipe
    seed: int
    validation: Sequence[Sequence[Quality]]  # [seeds][folds], INT8 as served
    caught: Sequence[Caught]
    week: Split
    comparison: Comparison
    golden_rows: int


def render(facts: Facts) -> str:
    """The card as Markdown."""
    parts = [
        _about(facts),
        _test_week(facts),
        _validation(facts),
        _tried(facts.manifest.name),
        _decisions(facts),
        _int8(facts),
    ]
    return "\n\n".join(parts) + "\n"


def test_week_table(manifest: Manifest) -> str:
    """The test week's numbers, INT8 and FP32."""
    rows = [(precision.upper(), *manifest.metrics[precision].values()) for precision in ("int8", "fp32")]
    return _table(("", *HEADINGS), rows)


def _about(facts: Facts) -> str:
    manifest, week, recipe = facts.manifest, facts.week, facts.recipe
    return f"""# Model `{manifest.name}`

The probability that a card payment is a fraud, from the fifteen features of the `handbook` schema. Trained on
{SOURCES[manifest.name]}.
Neither is real traffic: before it decides about real payments, train it on yours.

* Trained on the week from {week.start} alone: {len(week.train):,} rows, {int(week.train_fraud.sum()):,} frauds.
* Features replayed through the feature store, so they are those that serving gathers.
* {len(ramp_layer(recipe.ramps).bias)} fixed ramps -> {recipe.hidden} ReLU, in INT8 -> 1 logit -> probability.
* {recipe.epochs} epochs of AdamW, learning rate {recipe.learning_rate}, weight decay {recipe.weight_decay},
  batches of {recipe.batch_rows} rows, seed {facts.seed}.
* Made by `{manifest.command}`."""


def _test_week(facts: Facts) -> str:
    return f"""## The test week

The protocol's test week, two weeks after the train week: {len(facts.week.test):,} rows,
{int(facts.week.test_fraud.sum())} frauds. Looked at once, with every choice made. The standard deviation of AUC ROC on
one such week is about 0.015.

{test_week_table(facts.manifest)}

Floor that the served model is held to: {_named(facts.manifest.metrics["floor"])}."""


def _validation(facts: Facts) -> str:
    means = np.mean(facts.validation, axis=1).tolist()
    seeds = [(f"{seed}{' (chosen)' if seed == facts.seed else ''}", *mean) for seed, mean in enumerate(means)]
    weeks = list(zip(FOLD_STARTS, facts.validation[facts.seed], strict=True))
    return f"""## Validation folds

Train weeks from {", ".join(FOLD_STARTS)}, each tested two weeks later; INT8 as served. The seed
is the one with the best mean average precision; the published network is that seed, fitted on the week from
{TRAIN_START}.

{_table(("seed, mean of the folds", *HEADINGS), seeds)}

{_table((f"seed {facts.seed}, train week", *HEADINGS), [(f"from {start}", *quality) for start, quality in weeks])}"""


def _tried(name: str) -> str:
    rows = json.loads(TRIED.read_text()).get(name, []) if TRIED.exists() else []
    if not rows:
        return "## What was tried\n\nNothing but the ten seeds: the recipe is taken over from the `handbook` model."
    table = _table(
        ("recipe", "ramps", *HEADINGS),
        [(row["name"], str(row["ramps"]), *(row[key] for key in Quality._fields)) for row in rows],
    )
    return f"""## What was tried

`python -m models.compare --dataset {name}`: means over four seeds and the four folds, in FP32. Each differs from the
recipe in what its name says. Seeds differ by about 0.0008 of average precision, so differences under 0.002 say nothing.

{table}

What was tried by hand before that, on the same folds of the benchmark, is listed in `models/README.md`."""


def _decisions(facts: Facts) -> str:
    rows = [
        (item.name, f"{item.threshold:.3f}", f"{item.share:.2%}", f"{item.precision:.1%}", f"{item.recall:.1%}")
        for item in facts.caught
    ]
    calibration = facts.manifest.calibration
    return f"""## Calibration and thresholds

Logit x {calibration.scale:.4f} {calibration.bias:+.4f}, folded into the last layer: the most likely scale and bias for
the logits of the train week's days, each day's from a network of the same seed that saw the other six. The thresholds
are the lowest scores at or over which {DECLINE_PRECISION:.0%} (decline) and {REVIEW_PRECISION:.0%} (review)
of the rows of all folds together are frauds.

{_table(("at or over", "score", "of transactions", "frauds among them", "of all frauds"), rows)}"""


def _int8(facts: Facts) -> str:
    found, metrics = facts.comparison, facts.manifest.metrics
    loss = {key: metrics["fp32"][key] - metrics["int8"][key] for key in ("auc_roc", "average_precision")}
    return f"""## INT8

* Loss against FP32, test week: AUC ROC {loss["auc_roc"]:+.5f}, average precision {loss["average_precision"]:+.5f}.
* Largest change of a score {found.largest_change:.4f}; {found.distinct_scores:,} distinct scores.
* CPU time of one run at 32 rows, one core of the machine that trained it: INT8 {found.run_us["int8"]:.1f} us,
  FP32 {found.run_us["fp32"]:.1f} us.
* Kernels: {", ".join(found.kernels["int8"])}.
* {facts.golden_rows:,} golden rows, from the project's simulator."""


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings)]
    lines += [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _named(values: dict[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in values.items())
