"""Sequences of calls that a caller might make, good and bad, drawn from a seed: the same seed, the same bytes.

A sequence has customers, terminals and ids of its own, so that several may run beside each other and none sees another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fraudgate.transaction import ENTITIES
from fraudgate.v1 import features_pb2, outcomes_pb2
from fraudgate.v1 import scoring_pb2 as pb
from tests.integration.server import NOW_SECONDS, stamp

DAY = 86_400
FUTURE_SECONDS_MAX = 90 * DAY
LENGTH = 30
"""Operations of a sequence."""
_BATCH_SIZES = (0, 1, 2, 5, 31, 32, 33, 64)
_LARGE_BATCH_SIZES = (512, 513)


@dataclass(frozen=True)
class Score:
    body: bytes
    gzip: bool = False


@dataclass(frozen=True)
class Twins:
    """The same Score() twice, at once."""

    body: bytes


@dataclass(frozen=True)
class ScoreBatch:
    body: bytes
    rows: int
    gzip: bool = False


@dataclass(frozen=True)
class ScoreStream:
    bodies: tuple[bytes, ...]


@dataclass(frozen=True)
class ReportOutcome:
    request: outcomes_pb2.ReportOutcomeRequest


@dataclass(frozen=True)
class PutFeatures:
    request: features_pb2.PutFeaturesRequest


@dataclass(frozen=True)
class GetFeatures:
    request: features_pb2.GetFeaturesRequest


Operation = Score | Twins | ScoreBatch | ScoreStream | ReportOutcome | PutFeatures | GetFeatures
Mutation = Callable[[pb.Transaction], None]


def _sets(name: str, *values: object) -> list[Mutation]:
    def mutation(value: object) -> Mutation:
        return lambda transaction: setattr(transaction, name, value)

    return [mutation(value) for value in values]


def _has_attributes(*all_values: dict[str, float]) -> list[Mutation]:
    def mutation(values: dict[str, float]) -> Mutation:
        def put(transaction: pb.Transaction) -> None:
            transaction.ClearField("attributes")
            transaction.attributes.update(values)

        return put

    return [mutation(values) for values in all_values]


def _happens_at(*stamps: tuple[int, int] | None) -> list[Mutation]:
    def mutation(at: tuple[int, int] | None) -> Mutation:
        def put(transaction: pb.Transaction) -> None:
            transaction.ClearField("event_time")
            if at is not None:
                transaction.event_time.CopyFrom(stamp(*at))

        return put

    return [mutation(at) for at in stamps]


_BAD_TEXTS = ("x" * 65, "é" * 33, "bell\a", "next\x85line", "\0", "x" * 1_000)
INVALID: list[Mutation] = [
    *_sets("transaction_id", "", *_BAD_TEXTS),
    *(mutation for name in ENTITIES for mutation in _sets(name, *_BAD_TEXTS[:4])),
    *_sets("amount_minor", -1, 10**12 + 1, 2**63 - 1, -(2**63)),
    *_sets("currency", "", "XXQ", "eur", "EURO", "E\0R", "€"),
    *_happens_at(None, (0, 0), (0, 1), (-2_208_988_800, 0), (946_684_799, 999_999_999), (253_402_300_799, 0)),
    *_happens_at((NOW_SECONDS, -1), (NOW_SECONDS, 10**9), (2**62, 0), (-(2**62), 0)),
    *_happens_at((NOW_SECONDS + FUTURE_SECONDS_MAX + 1, 0), (NOW_SECONDS + FUTURE_SECONDS_MAX, 1)),
    *_has_attributes({"risk": math.nan}, {"risk": math.inf, "other": 1.0}, {"risk": -math.inf}),
    *_has_attributes({f"a{i}": 0.5 for i in range(65)}, {f"a{i}": 0.5 for i in range(2_000)}),
    *_has_attributes({"": 1.0}, {"x" * 65: 1.0}, {"é" * 33: 1.0}, {"tab\t": 1.0, "risk": 0.5}),
]
"""Each makes a good transaction bad. At most one attribute is bad: which of two is named is left open."""
UNUSUAL: list[Mutation] = [
    *_sets("amount_minor", 0, 1, 10**12),
    *_sets("currency", "USD", "JPY", "BHD"),
    *(mutation for name in ENTITIES for mutation in _sets(name, "")),
    *_sets("card_id", "0" * 64, "é" * 32),
    *_sets("ip_address", "2001:db8::1", "not an address"),
    *_sets("device_id", "dev\u2028ice", "\u202edevice", "\ufeff", "%41%00"),
    *_has_attributes({"risk": 0.25}, {"risk": -0.0}, {"risk": 5e-324, "other": 1e308}, {"é" * 32: 1.0, "risk": 1.0}),
    *_has_attributes({f"a{i}": float(i) for i in range(64)}, {"strong_authentication": 1.0}),
    *_happens_at((946_684_800, 0), (NOW_SECONDS, 999_999_999)),
]
"""Each leaves a good transaction good, and drawn from features that others do not need."""


class Author:
    """Writes one sequence."""

    def __init__(self, seed: int, length: int = LENGTH, large_batches: bool = True) -> None:
        self._random = Random(seed)
        self._name = f"{seed}"
        self._length = length
        self._batch_sizes = _BATCH_SIZES + _LARGE_BATCH_SIZES * large_batches
        self.customers = [f"C{seed}-{i}" for i in range(2)] + [f"Ç{seed} Ω\U0001f4b3"]
        self.terminals = [f"T{seed}-{i}" for i in range(2)]
        self._seconds = NOW_SECONDS + 10 * DAY
        self._known: list[pb.Transaction] = []

    def sequence(self) -> list[Operation]:
        kinds: dict[Callable[[], Operation], int] = {
            self._score: 16,
            self._score_other: 4,
            self._twins: 1,
            self._score_batch: 2,
            self._score_stream: 2,
            self._report_outcome: 3,
            self._put_features: 1,
            self._get_features: 1,
        }
        drawn = self._random.choices(list(kinds), list(kinds.values()), k=self._length)
        return [draw() for draw in drawn]

    def entities(self) -> list[tuple[str, str]]:
        """Every entity of the sequence that windows or profiles know."""
        return [("customer_id", each) for each in self.customers] + [("terminal_id", each) for each in self.terminals]

    def _score(self) -> Score:
        return Score(_request(self._row()), gzip=self._random.random() < 0.1)

    def _twins(self) -> Twins:
        return Twins(_request(self._row()))

    def _score_other(self) -> Score:
        return Score(self._other_message())

    def _score_batch(self) -> ScoreBatch:
        """Sizes that matter, and seldom the largest, which cost as much as all the rest."""
        weights = [0.2 if size in _LARGE_BATCH_SIZES else 4 if size else 1 for size in self._batch_sizes]
        (rows,) = self._random.choices(self._batch_sizes, weights)
        body = pb.ScoreBatchRequest(transactions=[self._row() for _ in range(rows)]).SerializeToString()
        if self._random.random() < 0.05:
            body = body[: self._random.randrange(len(body) + 1)]
        return ScoreBatch(body, rows, gzip=self._random.random() < 0.1)

    def _score_stream(self) -> ScoreStream:
        bodies = [_request(self._row()) for _ in range(self._random.randint(0, 20))]
        if self._random.random() < 0.4:
            bodies.insert(self._random.randint(0, len(bodies)), self._other_message())
        return ScoreStream(tuple(bodies))

    def _report_outcome(self) -> ReportOutcome:
        random = self._random
        request = outcomes_pb2.ReportOutcomeRequest(is_fraud=random.random() < 0.8, reported_at=stamp(self._seconds))
        request.transaction_id = random.choice(self._known).transaction_id if self._known else "unknown"
        if random.random() < 0.1:
            request.transaction_id = random.choice(["", "nobody's", "x" * 65])
        if random.random() < 0.3:
            request.event_time.CopyFrom(stamp(self._seconds - random.randrange(3 * DAY)))
            request.customer_id, request.terminal_id = random.choice(self.customers), random.choice(self.terminals)
        return ReportOutcome(request)

    def _put_features(self) -> PutFeatures:
        values = {"AGE": float(self._random.randint(18, 99)), "LIMIT": self._random.random() * 1_000}
        values = dict(self._random.sample(sorted(values.items()), self._random.randint(1, 2)))
        who = self._random.choice(self.customers)
        return PutFeatures(features_pb2.PutFeaturesRequest(entity="customer_id", id=who, values=values))

    def _get_features(self) -> GetFeatures:
        entity, who = self._random.choice(self.entities())
        at = stamp(self._seconds - self._random.choice([0, 3_600, 3 * DAY]))
        return GetFeatures(features_pb2.GetFeaturesRequest(entity=entity, id=who, at=at))

    def _row(self) -> pb.Transaction:
        """One transaction: mostly new and good, else a known one again, unusual or bad."""
        chance = self._random.random()
        if chance < 0.15 and self._known:
            return self._again()
        transaction = self._good()
        if chance > 0.85:
            for mutate in self._random.sample(INVALID, self._random.choice([1, 1, 1, 2])):
                mutate(transaction)
        elif chance > 0.65:
            self._random.choice(UNUSUAL)(transaction)
        self._known.append(transaction)
        return transaction

    def _good(self) -> pb.Transaction:
        random = self._random
        self._seconds += random.choice([0, 0, 1, 60, 3_600, DAY // 4])
        late = random.choice([3_600, DAY, 10 * DAY, 40 * DAY]) if random.random() < 0.08 else 0
        return pb.Transaction(
            transaction_id=f"{self._name}-{len(self._known)}",
            event_time=stamp(self._seconds - late, random.choice([0, 0, 1, 999_999_999])),
            amount_minor=random.choice([random.randrange(100_000), random.randrange(3_000)]),
            currency="EUR",
            customer_id=random.choice(self.customers),
            terminal_id=random.choice(self.terminals),
        )

    def _again(self) -> pb.Transaction:
        """A known id: with its payload, spelt otherwise now and then, or with another one."""
        transaction = pb.Transaction()
        transaction.CopyFrom(self._random.choice(self._known))
        chance = self._random.random()
        if chance < 0.2:
            transaction.MergeFromString(b"\xc2\x3e\x04what")  # a field that nobody knows
        elif chance < 0.5:
            transaction.amount_minor = (transaction.amount_minor + 1) % 2**62
        elif chance < 0.6:
            transaction.event_time.nanos = (transaction.event_time.nanos + 1) % 10**9
        return transaction

    def _other_message(self) -> bytes:
        """Bytes that are no request, or one that no stub would write."""
        whole = _request(self._good())
        cut = self._random.randrange(len(whole))
        draws: list[bytes] = [
            b"",
            b"\x0a\x00",
            whole[:cut],
            whole[:cut] + self._random.randbytes(1) + whole[cut + 1 :],
            whole[:cut] + self._random.randbytes(2) + whole[cut:],
            whole + whole,
            whole + _request(pb.Transaction(amount_minor=7)),
            self._random.randbytes(self._random.randint(1, 60)),
            whole.replace(b"EUR", b"\xff\xfeR"),
            whole + b"\x12\x02hm",
            b"\x0a\xff\xff\xff\xff\x0f",
            b"\x0b" + whole + b"\x0c",
        ]
        return self._random.choice(draws)


def _request(transaction: pb.Transaction) -> bytes:
    return pb.ScoreRequest(transaction=transaction).SerializeToString()
