"""What the ops port says: an HTTP request head read, an answer written, and an answer made once for all who ask.

Pure: sockets are ``ops.listener``'s.
"""

import re
from collections.abc import Callable
from hashlib import blake2b
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs

from fraudgate.clock import Clock
from fraudgate.limits import SECOND_NS

HEAD_BYTES_MAX = 8_192
TEXT = "text/plain; charset=utf-8"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[!-~]*) HTTP/1\.[01]\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_IF_NONE_MATCH = re.compile(rb"\nif-none-match:[ \t]*([ -~]*)", re.IGNORECASE)
_SAFETY = (
    "Content-Security-Policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n"
)

Query = dict[str, list[str]]


class Answer(NamedTuple):
    """What a route gives back."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    """With it the asker keeps the body for a second, and is told when it is still the same."""

    def to_bytes(self, if_none_match: str = "") -> bytes:
        """The whole response, HTTP/1.0; 304 without a body where ``if_none_match`` names this very body."""
        status, body = self.status, self.body
        if self.etag and self.etag in if_none_match:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        kept = f"max-age=1\r\nETag: {self.etag}" if self.etag else "no-store"
        head = f"HTTP/1.0 {status.value} {status.phrase}\r\nServer: fraudgate\r\nContent-Type: {self.content_type}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head += f"Cache-Control: {kept}\r\n{_SAFETY}"
        if status is not HTTPStatus.NOT_MODIFIED:
            head += f"Content-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode() + body


Route = Callable[[Query], Answer]


def text(body: str, status: HTTPStatus = HTTPStatus.OK, *headers: tuple[str, str]) -> Answer:
    return Answer(status, TEXT, body.encode(), headers)


BUSY = text("busy\n", HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "2"))


class Ask(NamedTuple):
    """One request."""

    method: str
    path: str
    query: Query
    if_none_match: str


def parse(received: bytes) -> Ask | Answer | None:
    """The request whose head ``received`` begins with; the answer to what is none; None while the head is not whole."""
    end = _HEAD_END.search(received, 0, HEAD_BYTES_MAX)
    line = _REQUEST_LINE.match(received)
    if line is None and (b"\n" in received[:HEAD_BYTES_MAX] or end):
        return text("not HTTP/1\n", HTTPStatus.BAD_REQUEST)
    if end is None:
        if len(received) < HEAD_BYTES_MAX:
            return None
        what = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if line else HTTPStatus.REQUEST_URI_TOO_LONG
        return text(f"more than {HEAD_BYTES_MAX} bytes\n", what)
    assert line is not None
    path, _, query = line[2].decode().partition("?")
    condition = _IF_NONE_MATCH.search(received, line.end() - 1, end.end())
    try:
        asked = parse_qs(query, max_num_fields=8) if query else {}
    except ValueError:
        return text("too many parameters\n", HTTPStatus.BAD_REQUEST)
    return Ask(line[1].decode(), path, asked, condition[1].decode() if condition else "")


def tagged(content_type: str, body: bytes) -> Answer:
    """An answer with the ETag of its body."""
    return Answer(HTTPStatus.OK, content_type, body, etag=f'"{blake2b(body, digest_size=12).hexdigest()}"')


class RateBound:
    """At most ``per_second`` on average and ``burst`` at once."""

    def __init__(self, per_second: int, burst: int) -> None:
        self._cost_ns, self._room_ns = SECOND_NS // per_second, SECOND_NS // per_second * burst
        self._spent_until_ns = -(1 << 62)

    def take(self, now_ns: int) -> bool:
        """Whether one more fits in now; if so it is counted."""
        start_ns = max(self._spent_until_ns, now_ns - self._room_ns)
        if start_ns + self._cost_ns > now_ns:
            return False
        self._spent_until_ns = start_ns + self._cost_ns
        return True


class Shared:
    """A route whose answer is made for all who ask: ``burst`` times at will, then at most once a second."""

    def __init__(self, make: Callable[[], tuple[str, bytes]], clock: Clock, burst: int = 1) -> None:
        """``make``: gives content type and body. All on one thread."""
        self._make, self._clock, self._bound = make, clock, RateBound(1, burst)
        self._answer: Answer | None = None

    def __call__(self, _query: Query) -> Answer:
        if self._bound.take(self._clock()) or self._answer is None:
            self._answer = tagged(*self._make())
        return self._answer
