"""Every problem by its path, each range at its bounds, and the columnar pass against a row-by-row oracle."""

import itertools
import math
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.features.currency import EXPONENTS
from fraudgate.limits import EVENT_TIME_NS_MIN
from fraudgate.transaction import ENTITIES, EVENT_TIME_MISSING_NS, EVENT_TIME_OUTSIDE_NS, Columns
from fraudgate.v1 import scoring_pb2
from fraudgate.validation import PROBLEMS, Validator, bad_attribute_key, bad_attribute_value, text_problem
from tests.unit.transactions import EVENT_TIME_NS, columns_of, numbered, transaction

NOW_NS = EVENT_TIME_NS + 3_600_000_000_000
VALIDATOR = Validator(EXPONENTS.keys())
TEXT_FIELDS = ("transaction_id", *ENTITIES)
TOO_LONG, CONTROL = "is longer than 64 bytes", "has a control character"
NO_ID, NO_TIME = "is required, 1 to 64 bytes", "is required, as a valid google.protobuf.Timestamp"
OUTSIDE_TIME = "is before 2000-01-01 or outside what 64-bit nanoseconds hold"
FUTURE = "is further in the future than the server allows (event_time_future_max)"
AMOUNT = "is not within 0..1,000,000,000,000"
CURRENCY = "is not an ISO 4217 code of three capital letters"
MANY = "has more than 64 entries"
KEY = "has a key that is empty, longer than 64 bytes or has a control character"
VALUE = "has a value that is not finite"


def problem_of(event_time_ns_max: int = NOW_NS, /, **changes: Any) -> tuple[str, str]:
    """(path, what is wrong) of one changed transaction between two clean ones; ("", "") where it is fine."""
    columns = columns_of(
        transaction(transaction_id="before"), transaction(**changes), transaction(transaction_id="after")
    )
    found = VALIDATOR.problems(columns, event_time_ns_max)
    if found is None:
        return PROBLEMS[0]
    assert found.dtype == np.uint16
    before, number, after = found.tolist()
    assert (before, after) == (0, 0), "a bad row does not disturb its neighbours"
    return PROBLEMS[number]


def test_the_numbers_stand_in_batch_logs() -> None:
    """Add at the end only."""
    expected = (
        ("", ""),
        ("transaction_id", NO_ID),
        ("currency", CURRENCY),
        ("event_time", NO_TIME),
        ("event_time", OUTSIDE_TIME),
        ("event_time", FUTURE),
        ("amount_minor", AMOUNT),
        ("attributes", MANY),
        ("attributes", KEY),
        ("attributes", VALUE),
        *((field, what) for field in TEXT_FIELDS for what in (TOO_LONG, CONTROL)),
    )
    assert expected == PROBLEMS
    fields = set(scoring_pb2.Transaction.DESCRIPTOR.fields_by_name)
    assert {path for path, _ in PROBLEMS[1:]} == fields, "every field can be wrong, by the name it has in the proto"


def test_a_clean_batch_has_no_problems() -> None:
    assert VALIDATOR.problems(columns_of(*numbered(32)), NOW_NS) is None
    bare = dict.fromkeys(ENTITIES, "")
    assert VALIDATOR.problems(columns_of(transaction(**bare)), NOW_NS) is None
    assert VALIDATOR.problems(columns_of(transaction(attributes={"risk": 0.5})), NOW_NS) is None


E_ACUTE, KATAKANA, EMOJI = "é", "ア", "😀"  # 2, 3 and 4 bytes of UTF-8
FINE_TEXTS = {
    "one byte": "x",
    "64 bytes": "x" * 64,
    "64 bytes, 32 characters": E_ACUTE * 32,
    "64 bytes, 16 characters": EMOJI * 16,
    "63 bytes, 21 characters": KATAKANA * 21,
    "letters of many scripts": "Ünïcode-кот-猫-ア-😀",
    "spaces and quotes": " a 'b' \"c\" \\ / ",
    "no-break space": "a\u00a0b",
    "line separator": "a\u2028b",
    "soft hyphen": "a\u00adb",
    "zero-width joiner": "a\u200db",
    "private use": "\ue000",
    "unassigned": "\u0378",
    "the character after C1": "\u00a0",
    "the character before DEL": "~",
}
BAD_TEXTS = {
    "65 bytes": ("x" * 65, TOO_LONG),
    "66 bytes, 33 characters": (E_ACUTE * 33, TOO_LONG),
    "65 bytes, 64 characters": ("x" * 63 + E_ACUTE, TOO_LONG),
    "68 bytes, 17 characters": (EMOJI * 17, TOO_LONG),
    "66 bytes, 22 characters": (KATAKANA * 22, TOO_LONG),
    "NUL": ("a\0b", CONTROL),
    "tab": ("a\tb", CONTROL),
    "line feed": ("a\n", CONTROL),
    "unit separator": ("a\x1fb", CONTROL),
    "DEL": ("a\x7f", CONTROL),
    "the first of C1": ("\x80", CONTROL),
    "next line": ("a\x85b", CONTROL),
    "the last of C1": ("\x9f", CONTROL),
    "both: the length is named": ("\t" * 65, TOO_LONG),
}


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("case", FINE_TEXTS)
def test_ids_that_are_fine(field: str, case: str) -> None:
    assert problem_of(**{field: FINE_TEXTS[case]}) == ("", "")
    assert text_problem(FINE_TEXTS[case]) is None


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("case", BAD_TEXTS)
def test_ids_that_are_not(field: str, case: str) -> None:
    text, what = BAD_TEXTS[case]
    assert problem_of(**{field: text}) == (field, what)
    assert text_problem(text) == what


def test_every_control_character_and_no_other() -> None:
    controls = [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))]
    assert [char for char in map(chr, range(0x300)) if text_problem(char)] == controls


def test_a_megabyte_is_not_searched_for_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two of them would hold up the scoring loop for seconds."""
    looked_at = Counter[str]()

    def category(char: str) -> str:
        looked_at[char] += 1
        return "Lu"

    monkeypatch.setattr(unicodedata, "category", category)
    assert problem_of(transaction_id=E_ACUTE * 500_000, attributes={"\t" * 500_000: 1.0}) == (
        "transaction_id",
        TOO_LONG,
    )
    assert problem_of(attributes={E_ACUTE * 500_000: 1.0}) == ("attributes", KEY)
    assert looked_at.total() < 1_000


def test_only_the_transaction_id_is_required() -> None:
    assert problem_of(transaction_id="") == ("transaction_id", NO_ID)
    for field in ENTITIES:
        assert problem_of(**{field: ""}) == ("", "")


@pytest.mark.parametrize(
    ("amount_minor", "fine"),
    [(0, True), (1, True), (10**12, True), (10**12 + 1, False), (-1, False), (2**63 - 1, False), (-(2**63), False)],
)
def test_amounts(amount_minor: int, fine: bool) -> None:
    assert problem_of(amount_minor=amount_minor) == (("", "") if fine else ("amount_minor", AMOUNT))


@pytest.mark.parametrize("code", ["EUR", "JPY", "KWD", "USD"])
def test_currencies_that_are_fine(code: str) -> None:
    assert problem_of(currency=code) == ("", "")


@pytest.mark.parametrize("code", ["", "eur", "EU", "EURO", "EUR ", "ZZZ", "978", "E\0R", "\u0415UR", "x" * 65])
def test_currencies_that_are_not(code: str) -> None:
    assert problem_of(currency=code) == ("currency", CURRENCY)


@pytest.mark.parametrize(
    ("event_time_ns", "what"),
    [
        (EVENT_TIME_NS_MIN, ""),
        (EVENT_TIME_NS_MIN - 1, OUTSIDE_TIME),
        (0, OUTSIDE_TIME),
        (-1, OUTSIDE_TIME),
        (-2_208_988_800 * 10**9, OUTSIDE_TIME),  # 1900
        (NOW_NS, ""),
        (NOW_NS + 1, FUTURE),
        (9_223_372_035 * 10**9, FUTURE),  # 2262
        (9_223_372_036 * 10**9, OUTSIDE_TIME),
        (253_402_300_799 * 10**9, OUTSIDE_TIME),  # the end of 9999
        (None, NO_TIME),
    ],
)
def test_event_times(event_time_ns: int | None, what: str) -> None:
    assert problem_of(event_time_ns=event_time_ns) == (("event_time", what) if what else ("", ""))


@pytest.mark.parametrize("nanos", [-1, 10**9, 2**31 - 1, -(2**31)])
def test_a_timestamp_that_is_malformed_counts_as_missing(nanos: int) -> None:
    made = transaction()
    made.event_time.nanos = nanos
    found = VALIDATOR.problems(columns_of(made), NOW_NS)
    assert found is not None
    assert PROBLEMS[found[0]] == ("event_time", NO_TIME)


@pytest.mark.parametrize("event_time_ns_max", [EVENT_TIME_OUTSIDE_NS - 1, EVENT_TIME_OUTSIDE_NS, 2**64])
def test_no_bound_on_the_future_lets_an_event_time_in_that_has_no_value(event_time_ns_max: int) -> None:
    assert problem_of(event_time_ns_max, event_time_ns=253_402_300_799 * 10**9) == ("event_time", OUTSIDE_TIME)
    assert problem_of(event_time_ns_max, event_time_ns=9_223_372_035 * 10**9) == ("", "")


ATTRIBUTES = {
    "none": ({}, ""),
    "64 of them": ({f"k{i}": 1.0 for i in range(64)}, ""),
    "65 of them": ({f"k{i}": 1.0 for i in range(65)}, MANY),
    "10,000 of them": ({f"k{i}": math.nan for i in range(10_000)}, MANY),
    "an empty key": ({"": 1.0}, KEY),
    "a key of 64 bytes": ({"k" * 64: 1.0}, ""),
    "a key of 65 bytes": ({"k" * 65: 1.0}, KEY),
    "a key of 66 bytes and 33 characters": ({E_ACUTE * 33: 1.0}, KEY),
    "a key with a control character": ({"a\x1fb": 1.0}, KEY),
    "a key in another script": ({"риск": 1.0}, ""),
    "NaN": ({"risk": math.nan}, VALUE),
    "infinity": ({"risk": math.inf}, VALUE),
    "minus infinity": ({"fine": 1.0, "risk": -math.inf}, VALUE),
    "the largest double": ({"risk": 1.7976931348623157e308}, ""),
    "the smallest double and minus zero": ({"risk": 5e-324, "other": -0.0}, ""),
    "key and value: the key is named": ({"": math.nan}, KEY),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes(case: str) -> None:
    values, what = ATTRIBUTES[case]
    assert problem_of(attributes=values) == (("attributes", what) if what else ("", ""))


def test_the_bad_attribute_is_named() -> None:
    assert bad_attribute_key({"fine": 1.0, "a\nb": 2.0, "": 3.0}) == "a\nb"
    assert bad_attribute_key({"fine": 1.0}) is None
    assert bad_attribute_value({"fine": 1.0, "nan": math.nan, "inf": math.inf}) == "nan"
    assert bad_attribute_value({"fine": 1.0}) is None


def test_each_row_of_a_batch_has_its_own_problem() -> None:
    columns = columns_of(
        transaction(transaction_id=""),
        transaction(),
        transaction(currency="eur"),
        transaction(event_time_ns=None),
        transaction(amount_minor=-1, card_id="\0"),
        transaction(attributes={"": 0.0}),
    )
    found = VALIDATOR.problems(columns, NOW_NS)
    assert found is not None
    assert [PROBLEMS[number][0] for number in found] == [
        "transaction_id",
        "",
        "currency",
        "event_time",
        "card_id",
        "attributes",
    ]


def test_rows_at_the_bounds_are_fine_beside_rows_beyond_them() -> None:
    """A column that fails is looked at row by row: by the same bounds."""
    times_ns = [EVENT_TIME_NS_MIN, NOW_NS, EVENT_TIME_NS_MIN - 1, NOW_NS + 1]
    amounts = [0, 10**12, -1, 10**12 + 1]
    rows = [transaction(event_time_ns=time_ns) for time_ns in times_ns]
    rows += [transaction(amount_minor=amount) for amount in amounts]
    rows += [transaction(customer_id=text) for text in ("x" * 64, "~", "x" * 65, "\x7f")]
    found = VALIDATOR.problems(columns_of(*rows), NOW_NS)
    assert found is not None
    assert (found > 0).tolist() == [False, False, True, True] * 3


# -- the oracle: one row at a time, one check after the other ----------------------------------------------------------


def first_problem(columns: Columns, row: int, event_time_ns_max: int) -> tuple[str, str]:
    if not columns.transaction_id[row]:
        return "transaction_id", NO_ID
    for field in TEXT_FIELDS:
        text = columns.transaction_id[row] if field == "transaction_id" else columns.ids[field][row]
        if text and len(text.encode()) > 64:
            return field, TOO_LONG
        if text and any(unicodedata.category(char) == "Cc" for char in text):
            return field, CONTROL
    if columns.currency[row] not in EXPONENTS:
        return "currency", CURRENCY
    time_ns, amount = int(columns.event_time_ns[row]), int(columns.amount_minor[row])
    if time_ns == EVENT_TIME_MISSING_NS:
        return "event_time", NO_TIME
    if time_ns < EVENT_TIME_NS_MIN or time_ns == EVENT_TIME_OUTSIDE_NS:
        return "event_time", OUTSIDE_TIME
    if time_ns > event_time_ns_max:
        return "event_time", FUTURE
    if not 0 <= amount <= 10**12:
        return "amount_minor", AMOUNT
    attributes = columns.attributes[row] if columns.attributes else {}
    if len(attributes) > 64:
        return "attributes", MANY
    for key in attributes:
        if not 0 < len(key.encode()) <= 64 or any(unicodedata.category(char) == "Cc" for char in key):
            return "attributes", KEY
    if not all(map(math.isfinite, attributes.values())):
        return "attributes", VALUE
    return "", ""


def mostly(fine: object, other: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.just(fine), st.just(fine), st.just(fine), other)


odd_texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    st.builds(lambda char, count: char * count, st.sampled_from("xé\x7f"), st.integers(30, 66)),
    st.sampled_from(["", *FINE_TEXTS.values(), *(text for text, _ in BAD_TEXTS.values())]),
)
times = st.sampled_from(
    [None, 0, EVENT_TIME_NS_MIN - 1, EVENT_TIME_NS_MIN, NOW_NS, NOW_NS + 1, 2**63 - 1, 253_402_300_799 * 10**9]
)
odd_attributes = st.dictionaries(odd_texts, st.sampled_from([0.0, -1.5, math.nan, math.inf]), max_size=2)
odd_rows = st.fixed_dictionaries(
    {
        "transaction_id": mostly("tx", odd_texts),
        "currency": mostly("EUR", st.sampled_from(["", "eur", "USD", "EURO"])),
        "event_time_ns": mostly(EVENT_TIME_NS, times),
        "amount_minor": mostly(1, st.sampled_from([0, -1, 10**12, 10**12 + 1, 2**63 - 1, -(2**63)])),
        "attributes": mostly({}, odd_attributes),
        **{name: mostly("x", odd_texts) for name in ENTITIES},
    }
)


@given(st.lists(odd_rows, min_size=1, max_size=6), st.sampled_from([NOW_NS, EVENT_TIME_NS - 1, EVENT_TIME_OUTSIDE_NS]))
def test_the_columnar_pass_is_the_row_by_row_oracle(rows: list[dict[str, object]], event_time_ns_max: int) -> None:
    columns = columns_of(*(transaction(**row) for row in rows))
    expected = [first_problem(columns, row, event_time_ns_max) for row in range(len(rows))]
    found = VALIDATOR.problems(columns, event_time_ns_max)
    if found is None:
        assert set(expected) == {("", "")}
    else:
        assert [PROBLEMS[number] for number in found] == expected
        assert Counter(expected)["", ""] < len(rows), "None says that every row is clean"
    assert plain_too(columns, event_time_ns_max) == (None if found is None else found.tolist())


def plain_too(columns: Columns, event_time_ns_max: int) -> list[int] | None:
    """The numbers where the front end says that the texts are ``plain``, as it may only where they are."""
    texts = filter(None, itertools.chain(columns.transaction_id, *columns.ids.values()))
    plain = all(columns.transaction_id) and all(re.fullmatch("[ -~]{1,64}", text) for text in texts)
    found = VALIDATOR.problems(replace(columns, plain=plain), event_time_ns_max)
    return None if found is None else found.tolist()
