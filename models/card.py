"""The model card: what was trained, how it was chosen, what was tried, and what it reaches."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fraudgate.engines.repository import Manifest
from models.choice import Chosen
from models.protocol import FOLD_STARTS, TRAIN_START, Quality, Split
from models.ramps import ramp_layer
from models.recipe import Recipe, Rounding
from models.served import Comparison
from models.sources import HISTORY_SUFFIX
from models.thresholds import DECLINE_PRECISION, REVIEW_PRECISION, flips

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
    chosen: Chosen
    week: Split
    train_from: str  # the first day of the train rows
    comparison: Comparison  # test week, quantisation-aware: the served model
    post_training: Comparison  # test week, the same student before it was trained on
    golden_rows: int


def render(facts: Facts) -> str:
    """The card as Markdown."""
    parts = [
        _about(facts),
        _test_week(facts),
        _validation(facts),
        _tried(facts.manifest.name.removesuffix(HISTORY_SUFFIX)),
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
    first, later = recipe.hidden[0], "".join(f"{width} ReLU -> " for width in recipe.hidden[1:])
    rounding, schema = recipe.rounding, recipe.schema
    return f"""# Model `{manifest.name}`

The probability that a card payment is a fraud, from the {len(schema.names)} features of the `{schema.name}` schema.
Trained on {SOURCES[manifest.name.removesuffix(HISTORY_SUFFIX)]}.
Neither is real traffic: before it decides about real payments, train it on yours.

* Labels of the days from {facts.train_from} to the end of the week that begins on {week.start}:
  {len(week.train):,} rows, {int(week.train_fraud.sum()):,} frauds. All are known when the test week begins.
* Features replayed through the feature store, so they are those that serving gathers.
* {_ramps(recipe)} -> {first} ReLU in INT8 -> {later}1 logit -> probability.
  Ramps, later layers and sigmoid are in float.
{_teaching(facts)}
* {recipe.epochs} epochs of AdamW, learning rate {recipe.learning_rate}, weight decay {recipe.weight_decay},
  batches of {recipe.batch_rows} rows, seed {facts.chosen.seed}.
* Then {rounding.epochs} epochs at {rounding.learning_rate} with the first layer rounded, to its own
  answers in float (NVIDIA ModelOpt).{_settled(rounding)}
* Made by `{manifest.command}`."""


def _settled(rounding: Rounding) -> str:
    bits = " Its weights have 8 bits, in pairs that saturate on no CPU." * rounding.paired
    return bits + f" Rounding settled in {rounding.settling_sweeps} sweeps." * (rounding.settling_sweeps > 0)


def _ramps(recipe: Recipe) -> str:
    twice = recipe.rounding.doubled_ramps
    ends = "ramps, their ends fitted too" if recipe.ramp_rate else "fixed ramps"
    return f"{len(ramp_layer(recipe.ramps).bias)} {ends}" + f", {twice} of them twice" * (twice > 0)


def _teaching(facts: Facts) -> str:
    teacher, distillation = facts.recipe.teacher, facts.recipe.distillation
    if not distillation.taught:
        return "* Fitted to labels alone: a teacher that is no better than its student has nothing to add."
    hidden, share = "-".join(map(str, teacher.hidden)), f"{teacher.forest_share:.0%}"
    networks = teacher.networks * len(teacher.network_ramps)
    return f"""\
* Teacher: {teacher.forests} x boosted trees ({share} of the answer) and {networks} x a network of {hidden},
  fitted {teacher.groups} times, each time without a group of customers that the rest then answers for.
* Student: label's share of the loss {distillation.alpha}, temperature {distillation.temperature},
  {_delay_week(facts)}."""


def _delay_week(facts: Facts) -> str:
    if not facts.recipe.distillation.delay_week:
        return "train rows alone"
    return f"and the teacher's answers alone for the {len(facts.week.delay):,} rows of the delay week, without labels"


def _test_week(facts: Facts) -> str:
    return f"""## The test week

The protocol's test week, two weeks after the train week: {len(facts.week.test):,} rows,
{int(facts.week.test_fraud.sum())} frauds. No label of it was seen in training or choice. The standard deviation of AUC
ROC on one such week is about 0.015. Earlier recipes were judged on it before: see models/README.md.

{test_week_table(facts.manifest)}

Floor that the served model is held to: {_named(facts.manifest.metrics["floor"])}."""


def _validation(facts: Facts) -> str:
    chosen = facts.chosen
    means = np.mean(chosen.validation, axis=1).tolist()
    seeds = [(f"{seed}{' (chosen)' if seed == chosen.seed else ''}", *mean) for seed, mean in enumerate(means)]
    seeds.append(("mean", *np.mean(means, axis=0).tolist()))
    versions = [(name, *np.mean(found, axis=0).tolist()) for name, found in chosen.versions.items()]
    weeks = list(zip(FOLD_STARTS, chosen.validation[chosen.seed], strict=True))
    return f"""## Validation folds

Train weeks from {", ".join(FOLD_STARTS)}, each tested two weeks later; INT8 as served. The seed
gives the most distinct scores of those whose means reach all that the folds are to reach; where none does, or
nothing is asked of them, it has the best mean average precision. Either flatters it; the mean of all seeds does not.
The published network is that seed, fitted to the end of the week from {TRAIN_START}.

{_table(("seed, mean of the folds", *HEADINGS), seeds)}

{_table((f"seed {chosen.seed}, mean of the folds", *HEADINGS), versions)}

{_table((f"seed {chosen.seed}, train week", *HEADINGS), [(f"from {start}", *quality) for start, quality in weeks])}"""


def _tried(name: str) -> str:
    rows = json.loads(TRIED.read_text()).get(name, []) if TRIED.exists() else []
    if not rows:
        return "## What was tried\n\nNothing but the seeds: the recipe is taken over from the `handbook` model."
    table = _table(
        ("recipe", "ramps", *HEADINGS),
        [(row["name"], str(row["ramps"]), *(row[key] for key in Quality._fields)) for row in rows],
    )
    return f"""## What was tried

`python -m models.compare --dataset {name}`: means over two seeds and the four folds, in FP32. Each differs from the
recipe of the second row in what its name says. Seeds differ by about 0.0005 of average precision: differences under
0.001 say nothing.

{table}

What was tried by hand before that, on the same folds of the benchmark, is listed in `models/README.md`."""


def _decisions(facts: Facts) -> str:
    rows = [
        (item.name, f"{item.threshold:.3f}", f"{item.share:.2%}", f"{item.precision:.1%}", f"{item.recall:.1%}")
        for item in facts.chosen.caught
    ]
    calibration = facts.manifest.calibration
    return f"""## Calibration and thresholds

Logit x {calibration.scale:.4f} {calibration.bias:+.4f}, folded into the last layer: the most likely scale and bias for
the test weeks of all folds together, which the folds' networks did not see. On the same rows the thresholds are the
lowest scores at or over which {DECLINE_PRECISION:.0%} (decline) and {REVIEW_PRECISION:.0%} (review) are frauds.

{_table(("at or over", "score", "of transactions", "frauds among them", "of all frauds"), rows)}"""


def _int8(facts: Facts) -> str:
    served, headings = (
        facts.comparison,
        ("test week, INT8 against FP32", "quantisation-aware (served)", "post-training"),
    )
    columns = [_losses(facts, found) for found in (served, facts.post_training)]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return f"""## INT8

{_table(headings, rows)}

* CPU time of one run at 32 rows, one core of the machine that trained it: INT8 {served.run_us["int8"]:.1f} us,
  FP32 {served.run_us["fp32"]:.1f} us.
* Kernels: {", ".join(served.kernels["int8"])}.
* {facts.golden_rows:,} golden rows, from the project's simulator."""


def _losses(facts: Facts, found: Comparison) -> dict[str, str]:
    """What INT8 costs a network, by name."""
    quality = {precision: facts.week.measure(scores) for precision, scores in found.scores.items()}
    changed = flips(found.scores["fp32"], found.scores["int8"], facts.manifest.thresholds)
    return {
        "AUC ROC, INT8": f"{quality['int8'].auc_roc:.4f}",
        "average precision, INT8": f"{quality['int8'].average_precision:.4f}",
        "loss of AUC ROC": f"{quality['fp32'].auc_roc - quality['int8'].auc_roc:+.5f}",
        "loss of average precision": f"{quality['fp32'].average_precision - quality['int8'].average_precision:+.5f}",
        "largest change of a score": f"{found.largest_change:.4f}",
        "distinct scores": f"{found.distinct_scores:,}",
        "decided otherwise": f"{changed:,} of {len(facts.week.test):,}",
    }


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings)]
    lines += [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _named(values: dict[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in values.items())
