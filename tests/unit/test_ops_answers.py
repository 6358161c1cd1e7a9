"""Requests read and answers written by the ops port, without a socket."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.limits import SECOND_NS
from fraudgate.ops.answers import HEAD_BYTES_MAX, Answer, Ask, RateBound, Shared, parse, tagged, text
from fraudgate.testing import FakeClock


def test_a_request_is_read() -> None:
    head = b'GET /latency.hgrm?stage=total HTTP/1.1\r\nHost: x\r\nif-none-match: "abc"\r\n\r\n'
    assert parse(head) == Ask("GET", "/latency.hgrm", {"stage": ["total"]}, '"abc"')
    assert all(parse(head[:n]) is None for n in range(len(head)))
    assert parse(b"GET / HTTP/1.0\n\n") == Ask("GET", "/", {}, "")


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /livez FTP/9\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /?" + b"&".join([b"a=1"] * 9) + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * HEAD_BYTES_MAX, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES_MAX, 431),
    ],
)
def test_what_is_no_request_gets_an_error(received: bytes, status: int) -> None:
    answer = parse(received)
    assert isinstance(answer, Answer)
    assert answer.status == status


@given(st.binary(max_size=200) | st.from_regex(rb"GET /[a-z?=&%]{0,20} HTTP/1\.1\r\n[ -~\r\n]{0,80}", fullmatch=True))
def test_any_bytes_are_read_answered_or_waited_for(received: bytes) -> None:
    told = parse(received)
    assert told is None or isinstance(told, Ask) or told.status >= 400


def test_a_response_is_safe_and_says_its_length() -> None:
    head, _, body = text("ok\n", HTTPStatus.OK, ("X-One", "1")).to_bytes().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.0 200 OK"
    assert {"X-One: 1", "Content-Length: 3", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"} <= {*lines}
    assert any(line.startswith("Content-Security-Policy: default-src 'self'") for line in lines)
    assert body == b"ok\n"


def test_who_has_the_body_gets_none() -> None:
    answer = tagged("text/plain", b"the same")
    assert b"Cache-Control: max-age=1\r\n" in answer.to_bytes()
    assert answer.to_bytes(answer.etag).startswith(b"HTTP/1.0 304 ")
    assert answer.to_bytes(answer.etag).endswith(b"\r\n\r\n")
    assert answer.to_bytes(f'"other", {answer.etag}').startswith(b"HTTP/1.0 304 ")
    assert answer.to_bytes(tagged("text/plain", b"another").etag).endswith(b"the same")


def test_a_rate_is_bounded_on_average_and_at_once() -> None:
    bound = RateBound(per_second=10, burst=3)
    assert [bound.take(0) for _ in range(4)] == [True, True, True, False]
    assert not bound.take(SECOND_NS // 10 - 1)
    assert bound.take(SECOND_NS // 10)
    assert sum(bound.take(SECOND_NS + ns) for ns in range(0, 10 * SECOND_NS, SECOND_NS // 100)) <= 103


def test_a_shared_answer_is_made_once_a_second_after_its_burst() -> None:
    clock, made = FakeClock(0), iter(range(100))
    shared = Shared(lambda: ("text/plain", str(next(made)).encode()), clock, burst=2)
    assert [shared({}).body for _ in range(4)] == [b"0", b"1", b"1", b"1"]
    clock.advance(SECOND_NS)
    assert [shared({}).body for _ in range(2)] == [b"2", b"2"]
