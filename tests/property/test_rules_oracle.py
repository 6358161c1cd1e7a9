"""The columnar compiler against the CEL engine, row by row: the same values, the same errors.

The fuzz tests hold the loader to its promise that a bad rule file is a RuleError with a place in the file.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import yaml
from cel_expr_python import cel
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudgate.errors import RuleError
from fraudgate.guardrails.cel import Environment
from fraudgate.guardrails.rule_file import RuleFile
from fraudgate.guardrails.rules import RuleInputs, RuleSet
from fraudgate.transaction import ENTITIES, Mark
from tests.unit.rule_bits import fired_bits

FEATURES = ("A", "B")
INT64 = np.iinfo(np.int64)
FAILED = "failed"

ENVIRONMENT = Environment(FEATURES)
ORACLE = cel.NewEnv(
    variables={
        "score": cel.Type.DOUBLE,
        "amount_minor": cel.Type.INT,
        "currency": cel.Type.STRING,
        "attributes": cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE),
    }
    | dict.fromkeys(ENTITIES, cel.Type.STRING)
    | {f"features.{name}": cel.Type.DOUBLE for name in FEATURES}
)

# Values that meet each other often: the edges of int64 and float64, and strings that are equal, prefixes, or not ASCII.
INTS = st.sampled_from([0, 1, -1, 2, 3, -7, 22_000, 3_037_000_500, 1 << 32, INT64.max, INT64.min, INT64.min + 1]) | (
    st.integers(INT64.min, INT64.max)
)
DOUBLES = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 5e-324, 1.7e308, math.inf, -math.inf, math.nan]) | st.floats()
STRINGS = st.sampled_from(["", "EUR", "EURO", "USD", "é", "\uffff", "😀", 'a"\\b', "\n"])


@dataclass
class Row:
    score: float | None
    amount_minor: int
    currency: str
    ids: dict[str, str | None]
    features: list[float]
    attributes: dict[str, float]


ROWS = st.builds(
    Row,
    score=st.none() | DOUBLES,
    amount_minor=INTS,
    currency=STRINGS,
    ids=st.fixed_dictionaries(dict.fromkeys(ENTITIES, st.none() | STRINGS)),
    features=st.lists(DOUBLES, min_size=len(FEATURES), max_size=len(FEATURES)),
    attributes=st.dictionaries(st.sampled_from(["x", "y z"]), DOUBLES),
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def double_literal(value: float) -> str:
    if math.isnan(value):
        return "(0.0 / 0.0)"
    if math.isinf(value):
        return "(1.0 / 0.0)" if value > 0 else "(-1.0 / 0.0)"
    return repr(value) if any(mark in repr(value) for mark in ".e") else repr(value) + ".0"


LEAVES: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["true", "false", "has(attributes.x)", "score > 0.5", "amount_minor / 0 == 1"]),
    "int": INTS.map(str) | st.just("amount_minor"),
    "double": DOUBLES.map(double_literal)
    | st.sampled_from(["score", "features.A", "features.B", "attributes.x", 'attributes["y z"]']),
    "string": STRINGS.map(quoted) | st.sampled_from(["currency", "customer_id", "ip_address"]),
}
KINDS = st.sampled_from(sorted(LEAVES))


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int) -> str:
    """An expression of a type, made of the subset's operators only."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(LEAVES[kind])

    def part(of: str) -> str:
        return f"({draw(expressions(of, depth - 1))})"

    if draw(st.integers(0, 4)) == 0:
        return f"{part('bool')} ? {part(kind)} : {part(kind)}"
    if kind == "bool":
        return draw(bool_expressions(part))
    if kind == "string":
        return draw(LEAVES[kind])
    operator = draw(st.sampled_from(["+", "-", "*", "/", "negate"]))
    return f"-{part(kind)}" if operator == "negate" else f"{part(kind)} {operator} {part(kind)}"


@st.composite
def bool_expressions(draw: st.DrawFn, part: Any) -> str:
    form = draw(st.sampled_from(["logic", "logic", "not", "compare", "compare", "in"]))
    if form == "logic":
        return f"{part('bool')} {draw(st.sampled_from(['&&', '||']))} {part('bool')}"
    if form == "not":
        return f"!{part('bool')}"
    kind = draw(KINDS)
    if form == "in":
        literals = draw(st.booleans())
        members = [draw(LEAVES[kind]) if literals else part(kind) for _ in range(draw(st.integers(0, 3)))]
        return f"{part(kind)} in [{', '.join(members)}]"
    return f"{part(kind)} {draw(st.sampled_from(['==', '!=', '<', '<=', '>', '>=']))} {part(kind)}"


def columns(rows: list[Row]) -> RuleInputs:
    attributes, currency = [row.attributes for row in rows], {"currency": [row.currency for row in rows]}
    return RuleInputs(
        rows=len(rows),
        score=np.array([math.nan if row.score is None else row.score for row in rows]),
        scored=np.array([row.score is not None for row in rows]),
        amount_minor=np.array([row.amount_minor for row in rows], np.int64),
        texts=({name: [row.ids[name] for row in rows] for name in ENTITIES} | currency).__getitem__,
        features=np.array([row.features for row in rows]),
        attributes=attributes if any(attributes) else None,
    )


def columnar_values(text: str, rows: list[Row]) -> list[Any]:
    with np.errstate(all="ignore"):
        values, failed = ENVIRONMENT.compile(text).run(columns(rows))
    values = np.broadcast_to(values, len(rows)).tolist()
    failures = [False] * len(rows) if failed is None else np.broadcast_to(failed, len(rows)).tolist()
    return [FAILED if fails else value for value, fails in zip(values, failures, strict=True)]


def engine_values(text: str, rows: list[Row]) -> list[Any]:
    expression = ORACLE.compile(text)
    results = []
    for row in rows:
        data = {"amount_minor": row.amount_minor, "currency": row.currency, "attributes": row.attributes}
        data |= {name: value or "" for name, value in row.ids.items()}
        data |= {f"features.{name}": value for name, value in zip(FEATURES, row.features, strict=True)}
        if row.score is not None:
            data["score"] = row.score
        result = expression.eval(data=data)
        results.append(FAILED if result.type() == cel.Type.ERROR else result.plain_value())
    return results


def same(one: Any, other: Any) -> bool:
    """Equal in type and value; all NaNs are one, the two zeros are two."""
    if isinstance(one, float) and isinstance(other, float):
        return one.hex() == other.hex()
    return type(one) is type(other) and bool(one == other)


@settings(max_examples=400)
@given(KINDS.flatmap(lambda kind: expressions(kind, 4)), st.lists(ROWS, min_size=1, max_size=6))
@example(
    "attributes.x", [Row(None, 0, "", dict.fromkeys(ENTITIES), [0.0, 0.0], {"x": -0.0} if i else {}) for i in (0, 1)]
)
@example(
    "score > 0.5 || amount_minor / 0 == 1 || true || attributes.x > 0.0",
    [Row(None, 0, "", dict.fromkeys(ENTITIES), [0.0, 0.0], {})],
)
@example("amount_minor * amount_minor", [Row(None, INT64.min, "", dict.fromkeys(ENTITIES), [0.0, 0.0], {})])
@example("-1 * amount_minor", [Row(None, INT64.min, "", dict.fromkeys(ENTITIES), [0.0, 0.0], {})])
@example("customer_id == '' && !(ip_address != '')", [Row(None, 0, "", dict.fromkeys(ENTITIES), [0.0, 0.0], {})])
def test_columns_equal_the_engine(text: str, rows: list[Row]) -> None:
    expected = engine_values(text, rows)
    found = columnar_values(text, rows)
    assert all(map(same, found, expected)), f"{text}\n{rows}\ncolumnar {found}\nengine   {expected}"


@settings(max_examples=100)
@given(st.lists(expressions("bool", 3), min_size=1, max_size=5), st.lists(ROWS, min_size=1, max_size=6))
def test_bits_are_the_rules_that_the_engine_fires(conditions: list[str], rows: list[Row]) -> None:
    fields = [
        {"id": f"r{i}", "action": "review", "when": text, "code": "C", "text": "t"} for i, text in enumerate(conditions)
    ]
    ruleset = RuleSet.parse(yaml.safe_dump(fields), "rules.yaml", FEATURES)
    with np.errstate(all="ignore"):
        bits = fired_bits(ruleset, columns(rows)).tolist()
    by_rule = [engine_values(text, rows) for text in conditions]
    for row, values in enumerate(zip(*by_rule, strict=True)):
        fired = sum(1 << bit for bit, value in enumerate(values) if value is True)
        assert bits[row] == fired | (FAILED in values) << Mark.RULE_ERROR


def refusal(text: str) -> RuleError | None:
    try:
        RuleSet.parse(text, "rules.yaml", FEATURES)
    except RuleError as error:
        return error
    return None


def check_refusal(text: str) -> None:
    """The text is a rule set, or refused with a place inside it; any other exception fails the test."""
    error = refusal(text)
    if error is not None:
        assert 1 <= error.line <= 1 + sum(text.count(mark) for mark in "\n\r\x85\u2028\u2029")
        assert 1 <= error.column <= len(text) + 1
        assert str(error).startswith(f"rules.yaml:{error.line}:{error.column}: ")


CEL_PIECES = ["score", "features.A", "features.Z", "attributes", ".", "x", "(", ")", "[", "]", "has", "1", "1.0", "0x1"]
CEL_PIECES += [
    "+",
    "-",
    "%",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "==",
    "<",
    " in ",
    "'a'",
    "b'a'",
    "'",
    '"',
    "\\",
    "\n",
    "é",
    "😀",
]
CEL_PIECES += ["all", "size", "null", "{", "}", ",", "u", "`", "//", "dyn", "\ud800", "\x00"]
YAML_PIECES = [
    "- id: a",
    "\n",
    "  ",
    "action: block",
    "when: 'true'",
    "code: C",
    "text: t",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
]
YAML_PIECES += [
    "'",
    '"',
    "|",
    ">",
    "#",
    "&a",
    "*a",
    "!!python/object:os.system",
    "%YAML 1.1",
    "---",
    "\\UFFFFFFFF",
    "\r",
]
YAML_PIECES += ["\t", "?", "!", "\ufeff", "\x00", "\ud800", "é", "<<", "true", "1", "@", "`", "\u2028"]


def joined(pieces: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=25).map("".join)


@settings(max_examples=300)
@given(joined(CEL_PIECES) | st.text(max_size=60), st.sampled_from(["'", '"', "|", ">", "plain"]))
def test_rubbish_conditions_are_rule_errors(condition: str, style: str) -> None:
    scalar = yaml.ScalarNode("tag:yaml.org,2002:str", condition, style=None if style == "plain" else style)
    entry = [(yaml.ScalarNode("tag:yaml.org,2002:str", "when"), scalar)]
    others = [
        (yaml.ScalarNode("tag:yaml.org,2002:str", key), yaml.ScalarNode("tag:yaml.org,2002:str", value))
        for key, value in {"id": "a", "action": "block", "code": "C", "text": "t"}.items()
    ]
    rule = yaml.MappingNode("tag:yaml.org,2002:map", entry + others)
    check_refusal(yaml.serialize(yaml.SequenceNode("tag:yaml.org,2002:seq", [rule]), allow_unicode=True))


@settings(max_examples=300)
@given(joined(YAML_PIECES) | st.text(max_size=80))
@example("[" * 5_000)
@example('- "\\UFFFFFFFF"')
@example("&a [*a]")
def test_rubbish_files_are_rule_errors(text: str) -> None:
    check_refusal(text)


@pytest.mark.parametrize("style", ["plain", "'", '"', "|", ">"])
@settings(max_examples=60)
@given(before=st.lists(st.sampled_from(["true", "'é'", "😀", "||", "'it''s'", '"a\\tb"', "\n", "  "]), max_size=8))
def test_a_fault_is_placed_where_it_is_written(style: str, before: list[str]) -> None:
    # NOWHERE is the fault; whatever quoting and folding stand before it, the mapping must land on its first letter.
    condition = " ".join(before) + " NOWHERE"
    text = yaml.dump([{"when": condition}], default_style=None if style == "plain" else style, allow_unicode=True)
    node = yaml.compose(text).value[0].value[0][1]
    assert node.value == condition
    error = RuleFile(text, "rules.yaml").condition_error("fault", node, node.value.index("NOWHERE"))
    line = text.splitlines()[error.line - 1]
    assert line[error.column - 1 :].startswith("NOWHERE")
