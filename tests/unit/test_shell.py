"""The asyncio shell in virtual time: when it wakes, what it hands on, in which order, and that it always ends."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVarTuple

import pytest

from fraudgate.batching.batcher import Batcher, ClosedBatch, Policy
from fraudgate.batching.shell import BatchShell
from fraudgate.limits import MILLISECOND_NS
from fraudgate.testing import FakeClock, FakeLoop

Args = TypeVarTuple("Args")
GATE_NS = 5 * MILLISECOND_NS
START_NS = 1_000 * MILLISECOND_NS


class SpyLoop(FakeLoop):
    """Notes the delays of the shell's timers."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.delays: list[float] = []

    def call_later(
        self, delay: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if "_ring" in callback.__qualname__:
            self.delays.append(delay)
        return super().call_later(delay, callback, *args, context=context)


class Bench:
    """A shell of small batches on a fake clock. A run takes ``run_ns``, or waits for ``held``."""

    def __init__(
        self,
        clock: FakeClock,
        policy: Policy = "fixed",
        gate_ns: int = GATE_NS,
        rows_max: int = 3,
        queue_rows_max: int = 100,
        run_ns: int = 0,
    ) -> None:
        self.clock, self.run_ns = clock, run_ns
        self.held: asyncio.Event | None = None
        self.started: list[tuple[int, str]] = []  # (ns since START_NS, entries)
        self.closed: list[ClosedBatch[str]] = []
        self.finished: list[str] = []
        self.running = self.running_max = 0
        self.batcher: Batcher[str] = Batcher(gate_ns, rows_max, queue_rows_max, policy)
        self.shell = BatchShell(self.batcher, self.run, clock)

    def submit(self, entries: str) -> None:
        for entry in entries:
            assert self.shell.submit(entry, self.clock.now_ns)
            self.batcher.check()

    async def run(self, closed: ClosedBatch[str]) -> None:
        entries = "".join(closed.entries)
        self.started.append((self.clock.now_ns - START_NS, entries))
        self.closed.append(closed)
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            if self.held is not None:
                await self.held.wait()
            if self.run_ns:
                await asyncio.sleep(self.run_ns / 1e9)
            if "!" in entries:
                raise ZeroDivisionError(entries)
            self.finished.append(entries)
        finally:
            self.running -= 1


def play(body: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> SpyLoop:
    """Run a test's body in virtual time, from START_NS on."""
    clock = FakeClock(START_NS)
    loops: list[SpyLoop] = []

    def make() -> SpyLoop:
        loops.append(SpyLoop(clock))
        return loops[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(body(clock))
    return loops[0]


async def rounds(count: int = 3) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("gate_ns", "delay"),
    [
        (1, 0.001),
        (400_000, 0.001),
        (MILLISECOND_NS, 0.001),
        (MILLISECOND_NS + 1, 0.002),
        (GATE_NS - 1, 0.005),
        (GATE_NS, 0.005),
        (GATE_NS + 1, 0.006),
    ],
)
def test_the_timer_is_rounded_up_to_whole_milliseconds(gate_ns: int, delay: float) -> None:
    """uvloop's timers are whole milliseconds; one that rang before the gate would have to be set again."""

    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, gate_ns=gate_ns)
        bench.submit("a")
        await asyncio.sleep(0.01)
        assert [entries for _, entries in bench.started] == ["a"]
        assert bench.closed[0].closed_ns == START_NS + gate_ns

    assert play(body).delays == [delay]


def test_a_batch_runs_at_its_gate() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.submit("a")
        await asyncio.sleep(0.004)
        bench.submit("b")
        await asyncio.sleep(0.002)
        bench.submit("c")
        await asyncio.sleep(0.01)
        ms = MILLISECOND_NS
        assert [(round(at / ms), entries) for at, entries in bench.started] == [(5, "ab"), (11, "c")]
        assert [closed.closed_ns - START_NS for closed in bench.closed] == [5 * ms, 11 * ms]

    assert len(play(body).delays) == 2


def test_a_full_batch_runs_in_the_next_round() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.submit("abc")
        assert bench.started == []
        await rounds()
        assert bench.started == [(0, "abc")]

    play(body)


def test_entries_of_one_round_wake_the_loop_once() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, run_ns=MILLISECOND_NS)
        before = clock.readings
        bench.submit("abcdefghi")
        await rounds(2)
        assert clock.readings - before == 2  # one for each batch it started
        assert [entries for _, entries in bench.started] == ["abc", "def"]
        await bench.shell.drain()

    play(body)


def test_at_most_two_batches_are_in_flight_and_they_start_in_order() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, run_ns=7 * MILLISECOND_NS)
        bench.submit("abcdefghijklm")
        await rounds()
        assert bench.shell.batches_in_flight == 2
        assert bench.batcher.rows == 7
        await bench.shell.drain()
        assert [entries for _, entries in bench.started] == ["abc", "def", "ghi", "jkl", "m"]
        assert bench.finished == ["abc", "def", "ghi", "jkl", "m"]
        assert bench.running_max == 2
        assert bench.shell.batches_in_flight == 0

    play(body)


def test_a_run_that_ends_out_of_turn_lets_the_next_batch_start() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.held = slow = asyncio.Event()
        bench.submit("abc")
        await rounds()
        bench.held = None
        bench.submit("defghi")
        await rounds(6)
        assert bench.finished == ["def", "ghi"]
        slow.set()
        await bench.shell.drain()
        assert bench.finished == ["def", "ghi", "abc"]

    play(body)


def test_while_two_batches_run_no_timer_spins() -> None:
    """The gate of the open batch has passed, but it can only run when a batch ends: that is what wakes the shell."""

    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.held = asyncio.Event()
        bench.submit("abcdefg")
        await asyncio.sleep(0.5)
        assert clock.readings < 5
        bench.held.set()
        await rounds(6)
        assert bench.finished == ["abc", "def", "g"]
        assert bench.closed[-1].closed_ns == START_NS + GATE_NS

    assert len(play(body).delays) <= 1


def test_the_timer_of_a_batch_that_filled_does_not_close_the_next() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.submit("a")
        await asyncio.sleep(0.003)
        bench.submit("bcd")
        await asyncio.sleep(0.01)
        assert [entries for _, entries in bench.started] == ["abc", "d"]
        assert bench.closed[1].closed_ns == START_NS + 8 * MILLISECOND_NS

    play(body)


def test_a_stalled_loop_does_not_move_boundaries() -> None:
    """The timer rings late; entries that were stamped meanwhile are parted by their stamps."""

    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, rows_max=32)
        for entry in "abcd":
            bench.submit(entry)
            clock.advance(4 * MILLISECOND_NS)
        await rounds(5)
        assert [closed.entries for closed in bench.closed] == [["a", "b"], ["c", "d"]]
        assert [closed.closed_ns - START_NS for closed in bench.closed] == [GATE_NS, 8 * MILLISECOND_NS + GATE_NS]

    play(body)


def test_a_full_queue_refuses() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, queue_rows_max=4)
        bench.submit("abcd")
        assert not bench.shell.submit("e", clock.now_ns)
        await bench.shell.drain()
        assert bench.finished == ["abc", "d"]
        assert bench.batcher.drops == {"queue_full": 1}
        bench.submit("f")

    play(body)


def test_eager_takes_what_is_there_when_the_engine_is_idle() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, "eager", run_ns=2 * MILLISECOND_NS)
        bench.submit("ab")  # both in one round, so both in the batch
        await rounds()
        assert bench.started == [(0, "ab")]
        clock.advance(1)
        bench.submit("c")
        await rounds()
        bench.submit("d")
        await rounds()
        assert len(bench.started) == 1, "the engine is busy"
        await asyncio.sleep(0.003)
        assert [entries for _, entries in bench.started] == ["ab", "cd"]
        assert [closed.idle_ns for closed in bench.closed] == [at + START_NS for at, _ in bench.started]

    play(body)


def test_eager_still_closes_at_32_and_at_the_gate() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, "eager")
        bench.held = asyncio.Event()
        bench.submit("a")
        await rounds()
        bench.submit("b")
        await asyncio.sleep(0.007)
        bench.held.set()
        bench.submit("cdef")
        await bench.shell.drain()
        assert [(c.entries, c.idle_ns > 0) for c in bench.closed] == [
            (["a"], True),
            (["b"], False),
            (["c", "d", "e"], False),
            (["f"], False),
        ]

    play(body)


def test_drain_does_not_wait_for_the_gate() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, gate_ns=10**12)
        bench.submit("abcde")
        await bench.shell.drain()
        assert bench.finished == ["abc", "de"]
        assert clock.now_ns == START_NS
        await bench.shell.drain()

    play(body)


def test_drain_waits_for_what_runs() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock, run_ns=MILLISECOND_NS)
        bench.submit("abc")
        await rounds()
        await asyncio.gather(bench.shell.drain(), bench.shell.drain())
        assert bench.finished == ["abc"]

    play(body)


def test_a_run_that_raises_is_reported_and_holds_up_nobody() -> None:
    async def body(clock: FakeClock) -> None:
        reported: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        bench = Bench(clock)
        bench.submit("ab!cd!efg")
        await bench.shell.drain()
        assert bench.finished == ["efg"]
        assert [str(error) for error in reported] == ["ab!", "cd!"]
        bench.submit("hij")
        await rounds()
        assert bench.finished == ["efg", "hij"]

    play(body)


def test_between_batches_nothing_runs() -> None:
    """What runs is waited for; what becomes due meanwhile starts after, in order."""

    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.held = asyncio.Event()
        seen: list[tuple[int, list[str], int]] = []

        def act() -> str:
            seen.append((bench.running, list(bench.finished), bench.batcher.rows))
            return "done"

        bench.submit("abc")
        await rounds()
        acting = asyncio.create_task(bench.shell.between_batches(act))
        await rounds()
        bench.submit("defg")
        await asyncio.sleep(0.02)
        assert (seen, bench.running) == ([], 1)
        bench.held.set()
        assert await acting == "done"
        assert seen == [(0, ["abc"], 4)]
        await asyncio.sleep(0.01)
        assert bench.finished == ["abc", "def", "g"]

    play(body)


def test_between_batches_twice_at_once_with_an_error_or_a_cancel() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.held = asyncio.Event()
        bench.submit("abc")
        await rounds()
        failing, gone, fine = (
            asyncio.create_task(bench.shell.between_batches(act)) for act in (lambda: 1 // 0, list, list)
        )
        await rounds()
        gone.cancel()
        bench.held.set()
        bench.submit("def")
        ends = await asyncio.gather(failing, gone, fine, return_exceptions=True)
        assert [type(end) for end in ends] == [ZeroDivisionError, asyncio.CancelledError, list]
        await bench.shell.drain()
        assert bench.finished == ["abc", "def"]

    play(body)


def test_a_drain_waits_for_the_end_of_a_pause() -> None:
    async def body(clock: FakeClock) -> None:
        bench = Bench(clock)
        bench.held = asyncio.Event()
        bench.submit("abc")
        await rounds()
        acting = asyncio.create_task(bench.shell.between_batches(lambda: clock.now_ns))
        await rounds()
        bench.submit("d")
        draining = asyncio.create_task(bench.shell.drain())
        await rounds()
        bench.held.set()
        await asyncio.gather(acting, draining)
        assert bench.finished == ["abc", "d"]

    play(body)
