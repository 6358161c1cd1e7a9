"""What the control plane's requests share: refusing a field, reading an instant."""

from typing import NoReturn

from google.protobuf.timestamp_pb2 import Timestamp

from fraudgate.frontend import refusals
from fraudgate.frontend.aio import abort
from fraudgate.frontend.refusals import Refusal
from fraudgate.limits import EVENT_TIME_NS_MIN, SECOND_NS

_SECONDS_MAX = (2**63 - 1) // SECOND_NS

__all__ = ["Refused", "abort", "instant_ns", "refuse"]


class Refused(Exception):  # noqa: N818 - the field says "refused"
    """Carries a refusal out of the depths of a request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(refusal: Refusal) -> NoReturn:
    """End this request with a status."""
    raise Refused(refusal)


def instant_ns(stamp: Timestamp, path: str) -> int:
    """Nanoseconds since 1970. Raises Refused for an instant before 2000 or past 64-bit nanoseconds."""
    valid = 0 <= stamp.nanos < SECOND_NS and EVENT_TIME_NS_MIN // SECOND_NS <= stamp.seconds < _SECONDS_MAX
    if not valid:
        refuse(refusals.invalid(path, "is no instant from 2000-01-01 on"))
    seconds: int = stamp.seconds
    return seconds * SECOND_NS + int(stamp.nanos)


def require_entity(entity: str, id_: str, known: tuple[str, ...], problem: str | None) -> None:
    """Raise Refused unless (entity, id) names something a store can hold."""
    if entity not in known:
        refuse(refusals.invalid("entity", f"is not one of {', '.join(known)}"))
    if not id_:
        refuse(refusals.invalid("id", "is required, 1 to 64 bytes"))
    if problem:
        refuse(refusals.invalid("id", problem))
