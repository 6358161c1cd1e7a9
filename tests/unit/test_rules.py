"""Rules as text tables: the policy, its order of precedence, the packaged rules at their bounds, and every refusal.

In a refused file the sign ▶ stands just before the fault; the error must name that line and column.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.rules import NAMES as NAMES_OF_BENCHMARK
from benchmarks.rules import loud_batch, measure, quiet_batch
from fraudgate.errors import ConfigError, RuleError, SnapshotError
from fraudgate.features.schema import FeatureSchema
from fraudgate.guardrails.decision import UNSCORED, Thresholds, level_decisions, overrule, score_marks, usable
from fraudgate.guardrails.reasons import RuleTexts
from fraudgate.guardrails.rules import DEFAULT_RULES, RuleInputs, RuleSet
from fraudgate.transaction import ENTITIES, RULES_MAX, Decision, Mark
from tests.unit.rule_bits import fired_bits

THRESHOLDS = Thresholds(review=0.3, decline=0.8)
NAMES = ("TX_AMOUNT", "RISK")

# id          action  when
POLICY = """
over-limit  | block  | amount_minor > 22000
stolen      | block  | customer_id in ["c-stolen", "c-lost"]
vip         | allow  | customer_id == "c-vip"
risky       | review | features.RISK >= 0.5
stepped-up  | allow  | has(attributes.step_up) && attributes.step_up == 1.0
ratio       | review | 10000 / amount_minor >= 1000
sure        | allow  | score < 0.01
"""

# amount customer risk step_up score  decision  marks and fired rules
CASES = """
  # The score alone: its thresholds are reached at, not after.
  5000   c-1      0.0  -    0.29    APPROVE
  5000   c-1      0.0  -    0.3     REVIEW    SCORE_REVIEW
  5000   c-1      0.0  -    0.79    REVIEW    SCORE_REVIEW
  5000   c-1      0.0  -    0.8     DECLINE   SCORE_DECLINE
  # A review rule lifts an approval, and takes the decision from the threshold.
  5000   c-1      0.5  -    0.1     REVIEW    risky
  5000   c-1      0.5  -    0.9     REVIEW    risky SCORE_DECLINE
  # An allow rule beats review rules and thresholds.
  5000   c-vip    0.5  -    0.9     APPROVE   vip risky SCORE_DECLINE
  5000   c-1      0.0  1.0  0.5     APPROVE   stepped-up SCORE_REVIEW
  5000   c-1      0.0  0.0  0.5     REVIEW    SCORE_REVIEW
  # A block rule beats everything.
  22000  c-1      0.0  -    0.1     APPROVE
  22001  c-1      0.0  -    0.1     DECLINE   over-limit
  22001  c-vip    0.5  -    0.005   DECLINE   over-limit vip risky sure
  5000   c-stolen 0.0  -    0.1     DECLINE   stolen
  # A rule that fails (here: division by zero) lifts to REVIEW, and no further; a blocked payment stays blocked.
  0      c-1      0.0  -    0.1     REVIEW    RULE_ERROR
  0      c-1      0.0  -    0.9     DECLINE   SCORE_DECLINE RULE_ERROR
  0      c-vip    0.0  -    0.1     REVIEW    vip RULE_ERROR
  0      c-lost   0.0  -    0.1     DECLINE   stolen RULE_ERROR
  # Without a score rules decide; where none fires, a person does. A rule that needs the score fails.
  5000   c-1      0.0  -    absent  REVIEW    RULE_ERROR RULES_ONLY
  5000   c-vip    0.0  -    absent  REVIEW    vip RULE_ERROR RULES_ONLY
  22001  c-1      0.0  -    absent  DECLINE   over-limit RULE_ERROR RULES_ONLY
"""


def policy(table: str) -> RuleSet:
    rules = []
    for line in table.strip().splitlines():
        rule, action, when = (part.strip() for part in line.split("|", 2))
        rules.append({"id": rule, "action": action, "when": when, "code": rule.upper(), "text": f"It is {rule}."})
    return RuleSet.parse(yaml.safe_dump(rules, allow_unicode=True), "policy.yaml", NAMES)


def inputs(**columns: object) -> RuleInputs:
    """One row or several, of a quiet payment, with some columns given."""
    rows = max(len(column) for column in columns.values() if hasattr(column, "__len__"))  # type: ignore[arg-type]
    score = np.asarray(columns.get("score", np.full(rows, 0.1)), np.float64)
    texts = {name: columns.get(name, [None] * rows) for name in ENTITIES} | {"currency": ["EUR"] * rows}
    texts["currency"] = columns.get("currency", texts["currency"])
    return RuleInputs(
        rows=rows,
        score=score,
        scored=~np.isnan(score),
        amount_minor=np.asarray(columns.get("amount_minor", np.full(rows, 1_000)), np.int64),
        texts=texts.__getitem__,  # type: ignore[arg-type]
        features=np.asarray(columns.get("features", np.zeros((rows, len(NAMES))))),
        attributes=columns.get("attributes"),  # type: ignore[arg-type]
    )


def decided(ruleset: RuleSet, batch: RuleInputs) -> list[tuple[str, list[str]]]:
    """(decision, the fired rules' ids and the marks' codes) of each row."""
    level = THRESHOLDS.levels(batch.score.astype(np.float32))
    bits = score_marks(level)
    decisions = level_decisions(level)
    overrule(ruleset, bits, ruleset.fire(batch, bits), decisions)
    answers = []
    for decision, word in zip(decisions.tolist(), bits.tolist(), strict=True):
        marks = [mark.name for mark in Mark if word >> mark & 1]
        answers.append((Decision(decision).name, [*ruleset.reasons(word).rules_fired, *marks]))
    return answers


def policy_cases() -> list[list[str]]:
    return [line.split() for line in CASES.strip().splitlines() if not line.strip().startswith("#")]


def test_policy_in_order_of_precedence() -> None:
    cases = policy_cases()
    batch = inputs(
        amount_minor=[int(case[0]) for case in cases],
        customer_id=[case[1] for case in cases],
        features=np.array([[0.0, float(case[2])] for case in cases]),
        attributes=[{} if case[3] == "-" else {"step_up": float(case[3])} for case in cases],
        score=[np.nan if case[4] == "absent" else float(case[4]) for case in cases],
    )
    for case, answer in zip(cases, decided(policy(POLICY), batch), strict=True):
        assert answer == (case[5], case[6:]), " ".join(case)


def test_each_row_is_decided_alone() -> None:
    ruleset = policy(POLICY)
    amounts = [5_000, 22_001, 0, 9]
    together = decided(ruleset, inputs(amount_minor=amounts))
    assert together == [decided(ruleset, inputs(amount_minor=[amount]))[0] for amount in amounts]
    assert decided(ruleset, inputs(amount_minor=[])) == []


# amount currency attributes              features by name                                            score  fired
DEFAULT_CASES = """
  22000 EUR  {}                           {}                                                              0.1  -
  22001 EUR  {}                           {}                                                              0.1  amount-limit
  22001 USD  {}                           {}                                                              0.1  -
  3000  EUR  {strong_authentication:1.0}  {}                                                              0.4  strong-authentication
  3001  EUR  {strong_authentication:1.0}  {}                                                              0.4  -
  3000  EUR  {strong_authentication:1.0}  {}                                                              0.5  -
  3000  EUR  {strong_authentication:0.0}  {}                                                              0.4  -
  3000  EUR  {}                           {TERMINAL_ID_RISK_7DAY_WINDOW:0.5,TERMINAL_ID_NB_TX_7DAY_WINDOW:5}  0.1  terminal-risk
  3000  EUR  {}                           {TERMINAL_ID_RISK_7DAY_WINDOW:0.5,TERMINAL_ID_NB_TX_7DAY_WINDOW:4}  0.1  -
  3000  EUR  {}                           {TERMINAL_ID_RISK_7DAY_WINDOW:0.4,TERMINAL_ID_NB_TX_7DAY_WINDOW:5}  0.1  -
  9100  EUR  {}  {TX_AMOUNT:91,CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW:30,CUSTOMER_ID_NB_TX_30DAY_WINDOW:5}   0.1  own-mean-multiple
  9000  EUR  {}  {TX_AMOUNT:90,CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW:30,CUSTOMER_ID_NB_TX_30DAY_WINDOW:5}   0.1  -
  9100  EUR  {}  {TX_AMOUNT:91,CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW:30,CUSTOMER_ID_NB_TX_30DAY_WINDOW:4}   0.1  -
  3000  EUR  {}                           {TX_DURING_NIGHT:1}                                             0.2  night-score
  3000  EUR  {}                           {TX_DURING_NIGHT:0}                                             0.2  -
  3000  EUR  {}                           {TX_DURING_NIGHT:1}                                             0.19 -
  3000  EUR  {}                           {TX_DURING_NIGHT:1}                                             0.5  -
"""  # noqa: E501


def test_packaged_rules_at_their_bounds() -> None:
    names = FeatureSchema.named("handbook").names
    ruleset = RuleSet.load(DEFAULT_RULES, names)
    for line in DEFAULT_CASES.strip().splitlines():
        amount, currency, attributes, features, score, fired = line.replace(":", ": ").replace(": ", ":").split()
        values = yaml.safe_load(features.replace(":", ": "))
        batch = inputs(
            amount_minor=[int(amount)],
            currency=[currency],
            attributes=[yaml.safe_load(attributes.replace(":", ": "))],
            features=np.array([[values.get(name, 1.0 if "AVG" in name else 0.0) for name in names]], np.float64),
            score=[float(score)],
        )
        (bits,) = fired_bits(ruleset, batch).tolist()
        assert ruleset.reasons(bits).rules_fired == (() if fired == "-" else (fired,)), line
        assert not bits >> Mark.RULE_ERROR & 1, line


def test_absent_ids_are_empty_strings() -> None:
    ruleset = policy('none | block | customer_id == ""\nlate | review | terminal_id > customer_id')
    batch = inputs(customer_id=[None, "", "c", "d"], terminal_id=["t", None, None, "c"])
    assert fired_bits(ruleset, batch).tolist() == [0b11, 0b01, 0, 0]


def test_missing_attribute_fails_its_row_unless_guarded() -> None:
    ruleset = policy(
        "bare | review | attributes.x > 1.0\nguarded | review | has(attributes.x) && attributes['x'] > 1.0"
    )
    error = 1 << Mark.RULE_ERROR
    assert fired_bits(ruleset, inputs(attributes=[{"x": 2.0}, {"x": 1.0}, {}])).tolist() == [0b11, 0, error]
    assert fired_bits(ruleset, inputs(score=[0.1])).tolist() == [error]


def test_logic_absorbs_failures_on_either_side() -> None:
    # fails where the payment has no score | true or false
    ruleset = policy(
        "or-left | review | score > 0.5 || amount_minor > 0\n"
        "or-right | review | amount_minor > 0 || score > 0.5\n"
        "and-left | review | score > 0.5 && amount_minor < 0\n"
        "branch | review | amount_minor > 0 ? true : score > 0.5"
    )
    assert fired_bits(ruleset, inputs(score=[np.nan])).tolist() == [0b1011]


def test_the_last_bit_is_the_last_rule() -> None:
    ruleset = policy("\n".join(f"r{i} | review | amount_minor == {i}" for i in range(RULES_MAX)))
    bits = fired_bits(ruleset, inputs(amount_minor=list(range(RULES_MAX))))
    assert bits.dtype == np.uint64
    assert bits.tolist() == [1 << i for i in range(RULES_MAX)]
    assert ruleset.reasons(1 << RULES_MAX - 1).rules_fired == (f"r{RULES_MAX - 1}",)


def test_usable_scores() -> None:
    scores = np.array([0.0, 1.0, 0.5, -0.0, 1e-45, -1e-7, 1.0000001, np.nan, np.inf, -np.inf], np.float32)
    found = usable(THRESHOLDS.levels(scores))
    assert found is not None
    assert found.tolist() == [True] * 5 + [False] * 5
    assert usable(THRESHOLDS.levels(scores[:5])) is None
    assert usable(THRESHOLDS.levels(scores[[0, 1, 2, 4]])) is None, "the common case: no negative zero"
    assert all(usable(THRESHOLDS.levels(scores[i : i + 1])) is not None for i in range(5, 10))


def test_an_unscored_row_goes_to_a_person() -> None:
    level = np.array([UNSCORED])
    assert score_marks(level).tolist() == [1 << Mark.RULES_ONLY]
    assert level_decisions(level).tolist() == [Decision.REVIEW]


def test_overruling_leaves_the_bits_alone() -> None:
    bits, level = np.array([1], np.uint64), np.array([UNSCORED])
    overrule(policy(POLICY), bits, 1, level_decisions(level))
    assert (bits.tolist(), level.tolist()) == ([1], [UNSCORED])


def test_marks_and_decisions_are_new_for_every_batch() -> None:
    level_decisions(np.array([0, 1, 2, UNSCORED]))[:] = 0
    assert level_decisions(np.array([0, 1, 2, UNSCORED])).tolist() == [1, 2, 3, Decision.REVIEW]
    score_marks(np.array([0, 1, 2, UNSCORED]))[:] = 0
    expected = [0, 1 << Mark.SCORE_REVIEW, 1 << Mark.SCORE_DECLINE, 1 << Mark.RULES_ONLY]
    assert score_marks(np.array([0, 1, 2, UNSCORED])).tolist() == expected


@pytest.mark.parametrize(("review", "decline"), [(0.9, 0.8), (-0.1, 0.5), (np.nan, 0.5), (0.1, np.nan), (0.1, np.inf)])
def test_thresholds_out_of_order_are_refused(review: float, decline: float) -> None:
    with pytest.raises(ConfigError, match="0 <= review <= decline"):
        Thresholds(review, decline)


def test_reasons_are_rendered_from_stored_texts() -> None:
    ruleset = policy(POLICY)
    bits = 1 << 0 | 1 << 3 | 1 << Mark.SCORE_DECLINE
    expected = (
        ("OVER-LIMIT", "It is over-limit."),
        ("RISKY", "It is risky."),
        ("SCORE_DECLINE", "The score is at or over the decline threshold."),
    )
    assert ruleset.reasons(bits).reasons == expected
    stored = RuleTexts.from_dict(json.loads(json.dumps(ruleset.texts())))
    assert stored == ruleset.table
    assert stored.reasons(bits) == ruleset.reasons(bits)
    assert RuleTexts.from_dict(stored.to_dict()).version == ruleset.version


@pytest.mark.parametrize("stored", [{}, {"version": "1", "rules": [["a"]], "marks": []}, {"rules": 1}, None])
def test_unreadable_texts_are_refused(stored: object) -> None:
    with pytest.raises(SnapshotError, match="texts of a rule set"):
        RuleTexts.from_dict(stored)  # type: ignore[arg-type]


RULE = "- {id: a, action: block, code: C, text: t, when: 'true'}\n"


def rule(when: str) -> str:
    """A file whose one condition is written exactly so."""
    return f"- id: a\n  action: block\n  code: C\n  text: t\n  when: {when}\n"


REFUSED = {
    # The file.
    "▶": "a rule file is a list of rules",
    "▶id: a": "a rule file is a list of rules",
    "▶just text": "a rule file is a list of rules",
    "- id: 'a\n▶": "while scanning a quoted scalar, found unexpected end of stream",
    "- [▶}": "while parsing a flow node, expected the node content, but found '}'",
    "- id: ▶\x00": "the character U+0000 is not allowed",
    f"{RULE}▶--- {RULE}": "expected a single document in the stream, but found another document",
    "- ▶text": "a rule is a mapping with the keys id, action, when, code, text",
    "- id: a\n  ▶wen: 'true'": "unknown key 'wen'; a rule has id, action, when, code, text",
    "- id: a\n  ▶<<: {id: b}": "unknown key '<<'",
    "- id: a\n  ▶id: a": "the key 'id' is here twice",
    "- ▶id: a\n  action: block": "the rule has no 'when'",
    f"{RULE}- {{id: ▶a, action: allow, code: C, text: t, when: 'true'}}": "the id 'a' is taken",
    "- id: a\n  action: ▶stop": "'action' is one of block, allow, review, not 'stop'",
    "- id: ▶''": "'id' is empty",
    "- text: ▶'  '": "'text' is empty",
    "- when:▶\n": "'when' takes text: put it in quotes",
    "- when: ▶true": "'when' takes text: put it in quotes",
    "- code: ▶17": "'code' takes text: put it in quotes",
    "- code: ▶[C]": "'code' takes text: put it in quotes",
    "- text: ▶!!python/object/apply:os.getcwd []": "'text' takes text: put it in quotes",
    '- text: ▶"a\\tb"': "'text' holds a control character",
    '- text: ▶"\\ud800"': "'text' holds a lone surrogate",
    f"- text: ▶{'é' * 129}": "'text' is longer than 256 bytes",
    f"- id: ▶{'a' * 65}": "'id' is longer than 64 bytes",
    f"- when: ▶{'a' * 4097}": "'when' is longer than 4096 bytes",
    "- code: ▶RULE_ERROR": "'code' 'RULE_ERROR' is the service's own",
    "".join(RULE.replace("id: a", f"id: r{i}") for i in range(RULES_MAX)) + f"- ▶{RULE[2:]}": "more than 56 rules",
    # Names and types.
    rule("▶scor > 0.5"): "undeclared name 'scor'; did you mean 'score'?",
    rule("score > 0.5 && ▶features.RISKY > 0.5"): "undeclared name 'features.RISKY'; did you mean 'features.RISK'?",
    rule("▶nothing.of.that.kind"): "a selection from anything but features and attributes is not in",
    rule("score ▶> 1"): "'>' does not take (double, int); a double is written with a point: 1.0",
    rule("currency ▶== 1"): "'==' does not take (string, int)",
    rule("▶score + 0.5"): "the condition is of type double, not bool",
    rule("'  ▶amount_minor'"): "the condition is of type int, not bool",
    rule("score >▶"): "Syntax error",
    rule("score ▶= 0.5"): "Syntax error",
    rule("▶$"): "Syntax error",
    rule("score > 0.5 && (▶)"): "Syntax error",
    rule("▶99999999999999999999 > 1"): "invalid int literal",
    # What CEL has and rules have not.
    rule("▶size(currency) > 3"): "the function size() is not in the rules' subset of CEL",
    rule("currency.▶startsWith('E')"): "the function startsWith() is not in the rules' subset of CEL",
    rule("▶double(amount_minor) > 3.0"): "the function double() is not in",
    rule("amount_minor ▶% 2 == 0"): "'%' is not in the rules' subset of CEL",
    rule("currency ▶+ 'x' == 'y'"): "'+' on a string is not in the rules' subset of CEL",
    rule("'[1].▶exists(x, x > 0)'"): "a macro other than has() is not in the rules' subset of CEL",
    rule("'▶[1] == [1]'"): "a list outside of 'in [..]' is not in",
    rule("'score in ▶{1.0: true}'"): "'in' without a list is not in",
    rule("\"'x' in ▶attributes\""): "'in' without a list is not in",
    rule("1 ▶in [1, 2.0]"): "'in' needs a list of int only",
    rule("▶null == null"): "a null literal is not in",
    rule("▶1u == 2u"): "a uint literal is not in",
    rule("▶b'x' == b'y'"): "a bytes literal is not in",
    rule("▶features == score"): "'features' alone is not a value: write features.NAME",
    rule("▶attributes == attributes"): "'attributes' alone is not a value: write attributes.NAME",
    rule("attributes[▶currency] > 0.5"): "an attribute's name that is not a string literal is not in",
    rule("has(▶features.RISK)"): "has() is for attributes: a feature always has a value",
    rule("has(▶score)"): "has() argument must be a field selection",
    # The place survives YAML's quoting and folding.
    rule("'currency == ''é'' && ▶nope'"): "undeclared name 'nope'",
    rule('"currency == \\"\\u00e9\\x41\\" &&\\n ▶nope"'): "undeclared name 'nope'",
    rule('"currency == \\"\\u00e9\\" &&\\\n    \\ ▶nope"'): "undeclared name 'nope'",
    rule("score > 0.5\n    &&\n\n      ▶nope"): "undeclared name 'nope'",
    rule("|  # why\n    score > 0.5\n    && ▶nope"): "undeclared name 'nope'",
    rule(">-\n    score > 0.5\n\n      && currency == '😀'\n    && ▶nope"): "undeclared name 'nope'",
    rule(">\n    score >▶"): "Syntax error",
    rule("|\r\n    score > 0.5\r\n    && ▶nope"): "undeclared name 'nope'",
}


@pytest.mark.parametrize(("marked", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused_files_name_the_place(marked: str, message: str) -> None:
    text = marked.replace("▶", "")
    before = marked[: marked.index("▶")].replace("\r\n", "\n").split("\n")
    with pytest.raises(RuleError) as refused:
        RuleSet.parse(text, "rules.yaml", NAMES)
    assert str(refused.value).startswith(f"rules.yaml:{refused.value.line}:{refused.value.column}: {message}")
    assert (refused.value.line, refused.value.column) == (len(before), len(before[-1]) + 1)


def test_a_refused_file_leaves_the_running_rules() -> None:
    running = policy(POLICY)
    batch = inputs(amount_minor=[22_001, 5_000])
    before = fired_bits(running, batch).tolist()
    with pytest.raises(RuleError):
        RuleSet.parse(rule("nope"), "rules.yaml", NAMES)
    assert fired_bits(running, batch).tolist() == before == [1, 0]


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(b"[]")
    ruleset = RuleSet.load(path, NAMES)
    assert (ruleset.version, ruleset.rules) == ("4f53cda18c2b", ())  # SHA-256 of the two bytes
    assert fired_bits(ruleset, inputs(score=[0.1, 0.2])).tolist() == [0, 0]
    assert repr(ruleset) == "<RuleSet 4f53cda18c2b [0 rules]>"


def test_load_refuses_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    with pytest.raises(RuleError, match=r"cannot read the rule file .*No such file"):
        RuleSet.load(path, NAMES)
    path.write_bytes(b"- id: a\n  text: \xff")
    with pytest.raises(RuleError, match=r"rules\.yaml:2:9: the file is not UTF-8 from here on"):
        RuleSet.load(path, NAMES)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(RuleError, match="longer than 1048576 bytes"):
        RuleSet.load(path, NAMES)


def test_benchmark_smoke() -> None:
    figures = measure(batches=10, repeats=1)
    assert {"rules_cpu_us_per_batch", "rules_load_cpu_ms", "rule_amount_limit_cpu_us_per_batch"} <= figures.keys()
    rules = RuleSet.load(DEFAULT_RULES, NAMES_OF_BENCHMARK)
    assert not fired_bits(rules, quiet_batch()).any()
    fired = np.bitwise_or.reduce(fired_bits(rules, loud_batch()))
    assert rules.reasons(int(fired)).rules_fired == tuple(rule.id for rule in rules.rules)
