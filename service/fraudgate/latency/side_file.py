"""What a histogram log cannot hold, beside it as ``<name>.exemplars.json``: JSON, one object a line.

    interval   counters and CPU of one interval, and what each stage was allowed
    event      something that happened to the process
    exemplar   one of its slowest decisions, with the events that it overlapped

Times are seconds since 1970, durations nanoseconds. No line names a person: a decision has its own id.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fraudgate.errors import SnapshotError


class IntervalLine(msgspec.Struct, tag_field="kind", tag="interval", frozen=True):
    """What was counted from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float
    cpu_seconds: float
    budget_ns: int
    allowed_ns: dict[str, int]
    decisions: dict[str, int]
    """By decision and fallback, as ``approve none``."""
    refusals: dict[str, int]
    batch_rows: list[int]
    """Batches by their rows, from 0 on."""
    totals: dict[str, int]
    over_budget: dict[str, int] = {}
    """Decisions by the cause of their being late."""


class EventLine(msgspec.Struct, tag_field="kind", tag="event", frozen=True):
    """See ``latency.timeline.Event``."""

    cause: str
    start_s: float
    duration_ns: int
    detail: str


class ExemplarLine(msgspec.Struct, tag_field="kind", tag="exemplar", frozen=True):
    """See ``latency.exemplars.Exemplar``."""

    arrival_s: float
    decision_id: str
    engine: str
    fallback: str
    batch: int
    batch_rows: int
    stages_ns: dict[str, int]
    events: list[EventLine]
    cause: str = ""


Line = IntervalLine | EventLine | ExemplarLine
_DECODER = msgspec.json.Decoder(Line)


def beside(hlog: Path | str) -> Path:
    """The side file of a histogram log."""
    return Path(hlog).with_suffix(".exemplars.json")


def encode(lines: Sequence[Line]) -> bytes:
    encoder = msgspec.json.Encoder()
    return b"".join([encoder.encode(line) + b"\n" for line in lines])


def read(path: Path) -> list[Line]:
    """Every line of a side file; none where there is no file. Raises SnapshotError, naming file and line."""
    lines: list[Line] = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                lines.append(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SnapshotError(f"{path}:{number}: not a line of a side file: {error}") from error
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error
    return lines
