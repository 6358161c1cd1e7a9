"""A rule set as one function against each of its conditions alone, and the levels of scores against comparisons."""

import math
from typing import Any

import numpy as np
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudgate.guardrails.cel import Environment
from fraudgate.guardrails.decision import UNSCORED, Thresholds
from fraudgate.guardrails.inputs import RuleInputs
from fraudgate.guardrails.rules import RuleSet
from fraudgate.transaction import ENTITIES, Mark
from tests.unit.rule_bits import fired_bits

FEATURES = ("A", "B", "C")
ENVIRONMENT = Environment(FEATURES)

DOUBLES = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e308])
COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
NUMBERS = st.sampled_from(["features.A", "features.B", "features.C", "0.5", "1.0", "-1.0", "2.0 * features.A"])
NUMBERS |= st.sampled_from(["features.B - features.C", "features.A / features.B", "1.0 / 0.0", "-features.C"])
PLAIN = st.builds("{} {} {}".format, NUMBERS, COMPARISONS, NUMBERS)
PLAIN |= st.builds("amount_minor {} {}".format, COMPARISONS, st.sampled_from(["-1", "0", "1", "100 / 3"]))
OTHERS = st.sampled_from(
    [
        "true",
        "false",
        "score >= 0.5",
        "score < 0.2",
        "has(attributes.x)",
        "attributes.x == 1.0",
        'currency == "EUR"',
        'currency != "EUR"',
        'customer_id in ["", "c"]',
        'terminal_id != ""',
        "10 / amount_minor > 1",
        "amount_minor * 4611686018427387904 > 0",
    ]
)
CONJUNCTIONS = st.lists(PLAIN | OTHERS, min_size=1, max_size=4).map(" && ".join)
CONDITIONS = CONJUNCTIONS | st.builds("({}) || {}".format, CONJUNCTIONS, PLAIN | OTHERS)
CONDITIONS |= st.builds("({} || {}) && {}".format, PLAIN, OTHERS, CONJUNCTIONS)
CONDITIONS |= st.builds("({}) == ({}) && !({})".format, PLAIN, PLAIN, OTHERS)


@st.composite
def batches(draw: st.DrawFn) -> RuleInputs:
    rows = draw(st.integers(1, 40))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    scored = draw(st.none() | st.just(np.array(column(st.booleans()))))
    score = np.array(column(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])), np.float32)
    texts = {name: column(st.sampled_from([None, "", "c", "t"])) for name in ENTITIES}
    texts["currency"] = column(st.sampled_from(["EUR", "USD"])) if draw(st.booleans()) else ["EUR"] * rows
    attributes = column(st.sampled_from([{}, {"x": 1.0}, {"x": 0.0}]))
    return RuleInputs(
        rows,
        score if scored is None else np.where(scored, score, np.nan),
        scored,
        np.array(column(st.sampled_from([-1, 0, 1, 33, 34, 1 << 40])), np.int64),
        texts.__getitem__,
        np.array([column(DOUBLES) for _ in FEATURES], np.float64).T.copy(),
        attributes if draw(st.booleans()) else None,
    )


def each_alone(conditions: list[str], inputs: RuleInputs) -> list[int]:
    bits = [0] * inputs.rows
    for i, text in enumerate(conditions):
        values, failed = ENVIRONMENT.condition(text).run(inputs)
        fails = np.broadcast_to(False if failed is None else failed, inputs.rows).tolist()
        for row, fires in enumerate(np.broadcast_to(values, inputs.rows).tolist()):
            bits[row] |= fires << i | fails[row] << Mark.RULE_ERROR
    return bits


def ruleset(conditions: list[str]) -> RuleSet:
    fields = [
        {"id": f"r{i}", "action": "review", "when": text, "code": "C", "text": "t"} for i, text in enumerate(conditions)
    ]
    return RuleSet.parse(yaml.safe_dump(fields), "rules.yaml", FEATURES)


@settings(max_examples=300)
@given(st.lists(CONDITIONS, min_size=1, max_size=6), batches(), st.integers(0, 3))
def test_a_rule_set_fires_what_its_conditions_fire(conditions: list[str], inputs: RuleInputs, mark: int) -> None:
    before = np.full(inputs.rows, mark << Mark.SCORE_DECLINE, np.uint64)
    bits = before.copy()
    with np.errstate(all="ignore"):
        union = ruleset(conditions).fire(inputs, bits)
        expected = each_alone(conditions, inputs)
    assert (bits - before).tolist() == expected
    assert union == int(np.bitwise_or.reduce(np.array(expected, np.uint64)))


def test_the_longest_conditions_fire() -> None:
    """The parser of CEL stops at a depth of 32, long before the one of Python; a chain of ``&&`` has no depth."""
    conditions = [" + ".join(["features.A"] * 30) + " >= 30.0", " && ".join(["features.A > 0.5"] * 200)]
    features = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    inputs = RuleInputs(2, np.zeros(2), None, np.zeros(2, np.int64), lambda _: [], features, None)
    with np.errstate(all="ignore"):
        assert fired_bits(ruleset(conditions), inputs).tolist() == [0b11, 0]


THRESHOLDS = st.sampled_from([0.0, -0.0, 0.3, 0.8, 1.0, 1.0000001, 1.5, 1e-60, 1e-45, 1e300]) | st.floats(0.0, 2.0)
SCORES = st.sampled_from([0.0, -0.0, 1.0, 1e-45, -1e-45, math.nan, -math.nan, math.inf, -math.inf, 0.3, 0.8])


@settings(max_examples=300)
@given(THRESHOLDS, THRESHOLDS, st.lists(SCORES | st.floats(width=32), min_size=1, max_size=32))
@example(1.0, 1.0, [1.0, 0.99999994, 1.0000001])
def test_levels_are_what_comparisons_say(one: float, other: float, values: list[float]) -> None:
    thresholds = Thresholds(min(one, other), max(one, other))
    near = np.float32(min(one, 2.0))
    score = np.array(
        [*values, near, np.nextafter(near, np.float32(0.0)), np.nextafter(near, np.float32(3.0))], np.float32
    )
    expected = [
        (value >= thresholds.review) + (value >= thresholds.decline) if 0.0 <= value <= 1.0 else UNSCORED
        for value in score.tolist()
    ]
    assert thresholds.levels(score).tolist() == expected
