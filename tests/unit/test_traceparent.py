"""The W3C traceparent, by its specification."""

import pytest

from fraudgate.ops.traceparent import Parent, parent_of, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_good_one_names_the_callers_span(value: str, sampled: bool) -> None:
    assert parse(value) == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        GOOD[:-1],
        GOOD + "-more",
        GOOD + " ",
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[:-1]}é-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.",
    ],
)
def test_anything_else_begins_a_new_trace(value: str) -> None:
    assert parse(value) is None


def test_it_is_taken_from_the_metadata_where_there_is_one_alone() -> None:
    assert parent_of([("user-agent", "x"), ("traceparent", GOOD)]) == parse(GOOD)
    assert parent_of([]) is None
    assert parent_of([("traceparent", GOOD), ("traceparent", GOOD)]) is None
    assert parent_of([("traceparent", GOOD.encode())]) is None
