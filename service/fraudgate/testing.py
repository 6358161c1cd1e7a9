"""Public fakes: a clock and an event loop that never wait, and a store, an engine and a log that do as they are told.

clock = FakeClock(step_ns=1)
run(clock, main())                       # an event loop in virtual time: sleeping moves the clock
inference = FakeInference([0.9], EngineFailed("gone"))
release = inference.hold()               # the next call waits for release()
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from fraudgate.errors import UnknownTransaction
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import EntityView, Gathered, Outcome
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import Answers, Columns, Fallback, Float32, Float64, Request, record

Result = TypeVar("Result")

FAKE_SCHEMA = FeatureSchema.parse(
    """
    name = "fake"
    currency = "EUR"
    [[feature]]
    name = "AMOUNT"
    kind = "amount"
    [[feature]]
    name = "RISK"
    kind = "attribute"
    attribute = "risk"
    default = 0.0
    """,
    "testing.py",
)
"""Two features, both of the request: the amount and the attribute ``risk``."""


class FakeClock:
    """A clock that moves when told to, and by ``step_ns`` after each reading."""

    def __init__(self, now_ns: int = SECOND_NS, step_ns: int = 0) -> None:
        self.now_ns, self.step_ns = now_ns, step_ns
        self.readings = 0

    def __repr__(self) -> str:
        return f"<FakeClock {self.now_ns}>"

    def __call__(self) -> int:
        now_ns = self.now_ns
        self.now_ns += self.step_ns
        self.readings += 1
        return now_ns

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self.now_ns += ns


class FakeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: where it would wait for a timer, the clock jumps to it instead.

    Where it would wait for ever, as nothing is left that can happen, it raises.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._fake_clock = clock

    def time(self) -> float:
        """The clock's time, in seconds."""
        return self._fake_clock.now_ns / SECOND_NS


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the fake loop waits for something that can never happen")
        if timeout > 0:
            self._clock.advance(max(round(timeout * SECOND_NS), 1))
        return super().select(0)


def run(clock: FakeClock, main: Coroutine[Any, Any, Result]) -> Result:
    """``asyncio.run`` in virtual time."""
    with asyncio.Runner(loop_factory=lambda: FakeLoop(clock)) as runner:
        return runner.run(main)


class FakeInference:
    """Answers calls from a script: scores (a short list is filled up with the default), or an exception to raise.

    With the script used up, every row scores ``default``. ``slots`` lists the slots asked for, in order.
    """

    def __init__(self, *script: Sequence[float] | Exception, default: float = 0.1) -> None:
        self.script = deque(script)
        self.default = default
        self.slots: list[int] = []
        self._holds: deque[asyncio.Event] = deque()

    def hold(self) -> Callable[[], None]:
        """The next call that is not held yet waits until what this returns is called."""
        released = asyncio.Event()
        self._holds.append(released)
        return released.set

    async def infer(self, slot: int) -> Float32:
        """Scores, float32[32]."""
        self.slots.append(slot)
        step: Sequence[float] | Exception = self.script.popleft() if self.script else ()
        if self._holds:
            await self._holds.popleft().wait()
        if isinstance(step, Exception):
            raise step
        scores = np.full(BATCH_ROWS_MAX, self.default, np.float32)
        scores[: len(step)] = step
        return scores


class FakeStore:
    """A ``FeatureStore`` of ``FAKE_SCHEMA`` without windows. It remembers what was applied, and fails when told to."""

    schema = FAKE_SCHEMA
    coverage_start_ns: int | None = None

    def __init__(self) -> None:
        self.applied: list[str] = []
        """Transaction ids in the order of their events."""
        self.fallbacks: dict[str, Fallback] = {}
        """What to say of some transactions; of the others NONE."""
        self.failure: Exception | None = None
        """Raised by the next ``apply_and_gather``, once."""
        self.outcomes: list[Outcome] = []
        self.profiles: dict[tuple[str, str], Mapping[str, float]] = {}

    def apply_and_gather(self, columns: Columns, rows: Sequence[int]) -> Gathered:
        """Amount and attribute of each row."""
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        ids = [columns.transaction_id[row] for row in rows]
        self.applied += ids
        attributes = columns.attributes or [{}] * columns.rows
        values = [[columns.amount_minor[row] / 100, attributes[row].get("risk", 0.0)] for row in rows]
        fallback = [self.fallbacks.get(transaction_id, Fallback.NONE) for transaction_id in ids]
        return Gathered(np.array(values, np.float64).reshape(-1, 2), np.array(fallback, np.uint8))

    def apply_outcome(self, outcome: Outcome) -> bool:
        """Remember the outcome of an applied transaction."""
        if outcome.transaction_id not in self.applied:
            raise UnknownTransaction(f"transaction {outcome.transaction_id!r} was never applied")
        self.outcomes.append(outcome)
        return True

    def put_profile(self, entity: str, id: str, values: Mapping[str, float]) -> None:
        """Remember profile values."""
        self.profiles[entity, id] = values

    def read_entity(self, entity: str, id: str, at_ns: int | None) -> EntityView:
        """The profile values put before; there are no windows."""
        return EntityView(dict(self.profiles.get((entity, id), {})), [], None, 0)

    def snapshot(self, directory: str | Path) -> Path:
        """Write the applied ids, one a line."""
        path = Path(directory) / "applied.txt"
        path.write_text("\n".join(self.applied), "utf-8")
        return path


class Kept(NamedTuple):
    """What one ``append`` to a log was given."""

    batch: pa.RecordBatch
    features: Float64
    answers: Answers
    closed_ns: int
    idle_ns: int


class FakeLog:
    """Keeps batches in memory; refuses them while ``full``, raises ``failure`` once."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.full = False
        self.failure: Exception | None = None

    def append(self, batch: Request, features: Float64, answers: Answers, closed_ns: int, idle_ns: int) -> bool:
        """Keep one batch, or say that it was dropped."""
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if not self.full:
            self.kept.append(Kept(record(batch), features.copy(), answers.copy(), closed_ns, idle_ns))
        return not self.full
