"""Seeded calls as columns: when each comes, what it carries, how long its caller waits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fraudgate.limits import DAY_SECONDS, MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.profiles import Profile
from fraudgate.transaction import Bool, Int64

CUSTOMERS, TERMINALS = 20_000, 5_000
START_NS = 1_000 * SECOND_NS
"""When the clock starts."""
FIRST_EVENT_SECONDS = 1_522_540_800 + 40 * DAY_SECONDS
EVENT_SECONDS_PER_SECOND = 20_000
"""Event time runs so much faster than the clock, so that a minute fills windows of days."""
_RETRY_GAP = 400
"""A retry repeats a call about so many calls before it."""
_CHUNK = 4_096
ID_DIGITS = 9
_PLACES = 10 ** np.arange(ID_DIGITS - 1, -1, -1)
_ZEROS = ord("0") * int(_PLACES.sum())

CUSTOMER_IDS = [f"c{number}" for number in range(CUSTOMERS)]
TERMINAL_IDS = [f"t{number}" for number in range(TERMINALS)]


class Instant(NamedTuple):
    """As ``google.protobuf.Timestamp``."""

    seconds: int
    nanos: int = 0


class Payload(NamedTuple):
    """As ``fraudgate.v1.Transaction``: what the door reads of one, at a fifth of what a message costs."""

    transaction_id: str
    amount_minor: int
    customer_id: str
    terminal_id: str
    event_time: Instant
    currency: str = "EUR"
    card_id: str = ""
    merchant_id: str = ""
    device_id: str = ""
    ip_address: str = ""
    attributes: Mapping[str, float] = MappingProxyType({})


_REST = tuple(Payload._field_defaults.values())
# As a named tuple makes itself, but for a function in Python.
_payload_of, _instant_of = partial(tuple.__new__, Payload), partial(tuple.__new__, Instant)


@dataclass(slots=True)
class Traffic:
    """Calls in the order of their arrival; every array is int64[n]."""

    arrival_ns: Int64
    number: Int64
    """Which transaction a call carries: the place of the first call with its id."""
    amount_minor: Int64
    """Negative where the call is invalid; a retry with another payload has another amount."""
    customer: Int64
    terminal: Int64
    event_seconds: Int64
    deadline_ns: Int64
    """Absolute; 0 = none."""
    leaves_ns: Int64
    """When its caller goes away, absolute; 0 = never."""
    retried: Bool
    """Whether another call carries the same id."""

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def payloads(self) -> Iterator[Payload]:
        """What the calls carry, one after the other."""
        return chain.from_iterable(map(self._chunk, range(0, len(self), _CHUNK)))

    def _chunk(self, call: int) -> Iterator[Payload]:
        """Some thousand at a time: number by number out of arrays, they cost ten times as much."""
        part = slice(call, call + _CHUNK)
        ids = [f"s{number:0{ID_DIGITS}}" for number in self.number[part].tolist()]
        customers = [CUSTOMER_IDS[customer] for customer in self.customer[part].tolist()]
        terminals = [TERMINAL_IDS[terminal] for terminal in self.terminal[part].tolist()]
        instants = map(_instant_of, zip(self.event_seconds[part].tolist(), repeat(0)))
        columns = (ids, self.amount_minor[part].tolist(), customers, terminals, instants, *map(repeat, _REST))
        return map(_payload_of, zip(*columns, strict=False))


def numbers_of(ids: bytes) -> Int64:
    """The numbers of transaction ids that follow each other, int64[n]."""
    letters = np.frombuffer(ids, np.uint8).reshape(-1, 1 + ID_DIGITS)
    numbers: Int64 = letters[:, 1:] @ _PLACES - _ZEROS
    return numbers


def draw(random: np.random.Generator, calls: int, profile: Profile) -> Traffic:
    """Calls of this profile: Poisson arrivals with bursts, retries, invalid and late rows, deadlines, cancellations."""
    arrival_ns = _arrivals(random, calls, profile)
    number = np.arange(calls)
    amount_minor = np.minimum(random.gamma(1.2, 4_000, calls).astype(np.int64) + 1, 10**9)
    amount_minor[random.random(calls) < profile.invalid_share] *= -1
    customer = random.integers(0, CUSTOMERS, calls)
    terminal = random.integers(0, TERMINALS, calls)
    event_seconds = FIRST_EVENT_SECONDS + (arrival_ns - START_NS) * EVENT_SECONDS_PER_SECOND // SECOND_NS
    late = random.random(calls) < profile.late_share
    event_seconds[late] -= random.integers(1, 2 * DAY_SECONDS, int(late.sum()))
    retry = _retries(random, number, profile)
    for column in (amount_minor, customer, terminal, event_seconds):
        column[:] = column[number]
    other = retry & (random.random(calls) < profile.other_payload_share)
    amount_minor[other] += 1 + random.integers(0, 1_000, int(other.sum()))
    waits_ns = random.choice([15, 30, 60, 200], calls) * MILLISECOND_NS
    deadline_ns = np.where(random.random(calls) < profile.deadline_share, arrival_ns + waits_ns, 0)
    stays_ns = random.integers(0, 10 * MILLISECOND_NS, calls)
    leaves_ns = np.where(random.random(calls) < profile.cancel_share, arrival_ns + stays_ns, 0)
    retried = (np.bincount(number, minlength=calls) > 1)[number]
    return Traffic(arrival_ns, number, amount_minor, customer, terminal, event_seconds, deadline_ns, leaves_ns, retried)


def _arrivals(random: np.random.Generator, calls: int, profile: Profile) -> Int64:
    """Poisson; a burst is a stretch in which calls come ``burst_factor`` times as dense."""
    gaps_ns = random.exponential(SECOND_NS / profile.rate, calls)
    at_ns = gaps_ns.cumsum()
    bursts = int(random.poisson(profile.burst_hz * at_ns[-1] / SECOND_NS))
    length = int(profile.burst_ns * profile.burst_factor * profile.rate / SECOND_NS)
    for start in random.integers(0, calls, bursts).tolist():
        gaps_ns[start : start + length] = random.exponential(
            SECOND_NS / profile.rate / profile.burst_factor, len(gaps_ns[start : start + length])
        )
    arrival_ns: Int64 = START_NS + gaps_ns.cumsum().astype(np.int64)
    return arrival_ns


def _retries(random: np.random.Generator, number: Int64, profile: Profile) -> Bool:
    """Give some calls the number of an earlier one; which ones, bool[n]."""
    retry: Bool = random.random(len(number)) < profile.retry_share
    source = np.maximum(number - random.geometric(1 / _RETRY_GAP, len(number)), 0)
    retry &= source < number
    while (chained := retry & retry[source]).any():  # of a retry of a retry: the first of them
        source[chained] = source[source[chained]]
    number[retry] = source[retry]
    return retry
