"""Every invariant of the simulator can fail: a bug is injected for each, and is seen by that invariant."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fraudgate import idempotency
from fraudgate.batching.batcher import Batcher
from fraudgate.breaker import Breaker
from fraudgate.engines.routes import Verdict
from fraudgate.features.defaults import Defaults
from fraudgate.frontend import door
from fraudgate.frontend.door import Door
from fraudgate.idempotency import IdempotencyTable
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.limits import MILLISECOND_NS
from fraudgate.pipeline import Pipeline
from fraudgate.simulation.callers import Callers
from fraudgate.simulation.profiles import Profile
from fraudgate.transaction import Fallback
from fraudgate.validation import Validator
from tests.simulation.rough import ROUGH, miscount_a_window, rough

Mutate = Callable[[pytest.MonkeyPatch], None]


def every(n: int, act: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """Each n-th call of ``act`` is one of ``instead``."""
    calls = iter(range(1, 1 << 60))
    return lambda *args, **kwargs: (instead if next(calls) % n == 0 else act)(*args, **kwargs)


def nothing(*_args: Any, **_kwargs: Any) -> None:
    """Does not do it."""


def lose_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_resolve", every(97, door._resolve, nothing))


def reply_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(entry: Any, result: Any) -> None:
        if not entry.future.done():
            entry.future.set_result(result)
            callers = entry.future.callers
            callers.ends.append((entry.future.number, callers.clock.now_ns, result))

    monkeypatch.setattr(door, "_resolve", twice)


def reply_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Callers, "drops_late", False)


def queue_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Batcher.add

    def boundless(self: Any, entry: Any, now_ns: int) -> bool:
        bound, self.queue_rows_max = self.queue_rows_max, 1 << 30
        try:
            return add(self, entry, now_ns)
        finally:
            self.queue_rows_max = bound

    monkeypatch.setattr(Batcher, "add", boundless)


def wait_beyond_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Batcher.add

    def slack(self: Any, entry: Any, now_ns: int) -> bool:
        added = add(self, entry, now_ns)
        self._gate_at_ns += MILLISECOND_NS if len(self._open) == 1 else 0
        return added

    monkeypatch.setattr(Batcher, "add", slack)


def forget_a_row_of_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = Batcher.poll

    def miscount(self: Any, now_ns: int, idle: bool = False) -> Any:
        closed = poll(self, now_ns, idle)
        self.rows += closed is not None
        return closed

    monkeypatch.setattr(Batcher, "poll", miscount)


def change_a_stored_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = IdempotencyTable.answers

    def changed(self: IdempotencyTable, slots: Sequence[int]) -> Any:
        found = answers(self, slots)
        found["score"] += np.float32(0.25)
        return found

    monkeypatch.setattr(IdempotencyTable, "answers", changed)


def ignore_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "payload_digests", lambda _columns, rows: [bytes(16)] * len(rows))


def forget_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    store = IdempotencyTable.store

    def store_and_forget(self: IdempotencyTable, slots: Sequence[int], answers: Any) -> None:
        store(self, slots, answers)
        self.release(slots)

    monkeypatch.setattr(IdempotencyTable, "store", store_and_forget)


def count_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counters.count_refusal

    def most(self: Counters, reason: str, n: int = 1) -> None:
        if reason != "conflict":
            count(self, reason, n)

    monkeypatch.setattr(Counters, "count_refusal", most)


def record_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "record_batch", every(50, Recorder.record_batch, nothing))


def validate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "problems", nothing)


def apply_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Pipeline._answer

    def refuse_one(self: Pipeline, columns: Any, claims: Any, decided: Any, refused: Any, taken_up_ns: int) -> Any:
        answers = answer(self, columns, claims, decided, refused, taken_up_ns)
        answers["status"][-1] = 14
        return answers

    monkeypatch.setattr(Pipeline, "_answer", refuse_one)


def name_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Verdict.take

    def misname(self: Verdict, rows: Any, member: Any, score: Any) -> None:
        take(self, rows, member, score)
        self.edition[rows] += 1

    monkeypatch.setattr(Verdict, "take", misname)


def share_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Pipeline.__init__

    def one_slot(self: Any, **parts: Any) -> None:
        begin(self, **parts)
        self._free_slots = [0, 0]

    monkeypatch.setattr(Pipeline, "__init__", one_slot)


def fail_to_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise ValueError("no reply")

    monkeypatch.setattr(Door, "_reply", every(20, Door._reply, fail))


def take_up_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "_drop_dead", lambda _self, columns, _refused, _now: list(range(columns.rows)))


def take_up_the_late(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Pipeline._drop_dead

    def without_budget(self: Any, columns: Any, refused: Any, now_ns: int) -> Any:
        self._budget_ns = 0
        return drop(self, columns, refused, now_ns)

    monkeypatch.setattr(Pipeline, "_drop_dead", without_budget)


def raise_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_args: Any) -> None:
        raise ValueError("a batch raised")

    monkeypatch.setattr(Door, "_run_batch", every(20, Door._run_batch, fail))


def mix_up_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Pipeline._answer

    def rolled(self: Pipeline, *args: Any) -> Any:
        answers = answer(self, *args)
        answers["arrival_ns"] = np.roll(answers["arrival_ns"], 1)
        return answers

    monkeypatch.setattr(Pipeline, "_answer", rolled)


def answer_what_was_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = IdempotencyTable.answers

    def never_a_replay(self: IdempotencyTable, slots: Sequence[int]) -> Any:
        found = answers(self, slots)
        found["replayed"] = False
        return found

    monkeypatch.setattr(IdempotencyTable, "answers", never_a_replay)


def never_close_a_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "_take_good_probe", nothing)


def hide_the_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    gather = Defaults.gather

    def unflagged(self: Defaults, columns: Any, rows: Any) -> Any:
        gathered = gather(self, columns, rows)
        gathered.fallback[:] = Fallback.NONE
        return gathered

    monkeypatch.setattr(Defaults, "gather", unflagged)


CROWDED = Profile(rate=100_000.0, engine_ns=350_000)
"""More than the service can do, and fast enough that the queue's bound comes before the budget."""
STALE = replace(ROUGH, store_slow_hz=20.0)
"""The store often blocks the loop past a caller's deadline."""
SELDOM = Profile(rate=60.0, engine_failure_hz=0.04)
"""So few calls that the run is long."""
SWAPPING = Profile(swap_hz=10.0)

MUTANTS: list[tuple[Mutate, str, Profile]] = [
    (lose_a_reply, "every call ends exactly once", ROUGH),
    (reply_twice, "every call ends exactly once", ROUGH),
    (reply_late, "nothing ends OK after its deadline", STALE),
    (queue_without_bound, "the queue keeps its bound", CROWDED),
    (forget_a_row_of_the_count, "the batcher's own invariants", ROUGH),
    (wait_beyond_the_gate, "batch boundaries follow the stamps", ROUGH),
    (change_a_stored_answer, "a retry gets the same bytes", ROUGH),
    (ignore_payloads, "an id has one payload", ROUGH),
    (forget_ids, "an event is applied once", ROUGH),
    (miscount_a_window, "windows equal a naive recount", ROUGH),
    (count_no_conflict, "metrics add up to the calls", ROUGH),
    (record_too_little, "recorded histogram count = decisions = applied events + those by defaults", ROUGH),
    (validate_nothing, "no event of a refused row is applied", ROUGH),
    (apply_what_is_refused, "no event of a refused row is applied", ROUGH),
    (name_another_engine, "every decision's engine was live at its take-up", SWAPPING),
    (share_a_slab, "a slab has one batch at a time", ROUGH),
    (fail_to_reply, "nothing is lost", ROUGH),
    (take_up_the_dead, "no expired or cancelled row reaches the engine", ROUGH),
    (take_up_the_late, "no row over its budget reaches the engine", ROUGH),
    (raise_on_the_loop, "nothing is raised on the loop", ROUGH),
    (mix_up_rows, "an answer is of its own row", ROUGH),
    (never_close_a_breaker, "rungs climb back", SELDOM),
    (hide_the_rung, "an answer says its rung", ROUGH),
    (answer_what_was_not_applied, "a decision has an applied event, or declared defaults", ROUGH),
]


@pytest.mark.parametrize(("mutate", "invariant", "profile"), MUTANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_an_injected_bug_is_caught(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutate, invariant: str, profile: Profile
) -> None:
    mutate(monkeypatch)
    result = rough(1, profile)
    assert result.broken is not None
    assert result.broken.invariant == invariant, str(result.broken)
