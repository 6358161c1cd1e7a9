"""The W3C ``traceparent`` header: which trace a call belongs to."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Parent(NamedTuple):
    """The caller's span."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(metadata: Iterable[tuple[str, str | bytes]]) -> Parent | None:
    """From the metadata of a call; None without exactly one ``traceparent`` that is well formed."""
    values = [value for name, value in metadata if name == "traceparent"]
    return parse(values[0]) if len(values) == 1 and isinstance(values[0], str) else None


def parse(value: str) -> Parent | None:
    """None where the specification says to begin a new trace. Later versions may have more fields, version 00 not."""
    match = _FORMAT.fullmatch(value)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED))
