"""``fraudgate simulate``: every invariant holds, every invariant can fail, and a seed says exactly what happens."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from fraudgate import cli, wheel
from fraudgate.config import Config
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.calibration import calibrate, line_through
from fraudgate.simulation.costs import Cost, Costs
from fraudgate.simulation.loop import SimulatedLoop
from fraudgate.simulation.profiles import PROFILES, Profile
from fraudgate.simulation.report import as_json
from fraudgate.simulation.run import simulate
from fraudgate.testing import FakeClock
from tests.simulation.rough import FEW, miscount_a_window, rough

CALLS = 20_000

# -- it holds, and repeats itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "profile"), [(7, "all"), (8, "faults"), (9, "burst"), (10, "calm")])
def test_every_invariant_holds(seed: int, profile: str) -> None:
    result = simulate(seed, CALLS, profile, PROFILES[profile])
    assert result.broken is None, str(result.broken)
    assert sum(result.statuses.values()) == CALLS
    assert result.recounted > 300
    if profile == "calm":
        assert result.statuses == {"OK": CALLS}
    else:
        assert {"OK", "INVALID_ARGUMENT", "ALREADY_EXISTS", "CANCELLED"} <= result.statuses.keys()


@pytest.mark.parametrize("seed", range(2))
def test_every_invariant_holds_when_much_goes_wrong(seed: int) -> None:
    result = rough(seed)
    assert result.broken is None, str(result.broken)
    kinds = {"stall", "store_failure", "engine_slow", "swap", "outcome"}
    assert kinds <= result.faults.keys()
    assert result.tally.replays
    assert result.tally.defaulted
    assert "INTERNAL" not in result.statuses


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    one, again, other = rough(1), rough(1), rough(2)
    assert (one.digest, one.tally, one.simulated_ns) == (again.digest, again.tally, again.simulated_ns)
    assert one.digest != other.digest


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    command = (sys.executable, "-m", "fraudgate", "simulate", "--seed", "3", "--requests", str(FEW), "--json")
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "4"}
    )
    here = as_json(simulate(3, FEW, "all", PROFILES["all"]))
    there = json.loads(ended.stdout)
    assert here.pop("wall_seconds") >= 0 <= there.pop("wall_seconds")
    assert here == there


@pytest.mark.skipif(not wheel.INSTALLED, reason="the wheel fraudgate-ingress is not installed")
def test_the_reference_and_the_kernels_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    native = rough()
    monkeypatch.setattr(wheel, "INSTALLED", False)
    assert rough().digest == native.digest


def test_a_failing_seed_says_how_to_repeat_it_and_fails_at_the_same_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "--seed", "5", "--requests", str(FEW), "--profile", "faults"]
    seen = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            miscount_a_window(patch)
            assert cli.main(words) == 1
        seen.append(capsys.readouterr().out.splitlines()[-3:])
    assert seen[0] == seen[1]
    assert seen[0][-1].split() == ["replay", "fraudgate", *words]
    assert "BROKEN at call" in seen[0][-2]
    assert cli.main(words) == 0


# -- predicted and measured --------------------------------------------------------------------------------------------


def test_calibration_finds_what_every_stage_costs() -> None:
    costs = calibrate(Config())
    for cost in (costs.features, costs.engine, costs.guardrails, costs.respond):
        assert 0 < cost.of(32) < 20 * MILLISECOND_NS
    assert line_through(10.0, 66.0) == (2.0, 2.0)
    assert line_through(10.0, 9.0) == (9.0, 0.0)


def test_a_lone_call_waits_for_the_gate_and_one_batch() -> None:
    """What can be computed by hand: calls so rare that each is alone, and a service without variance."""
    costs = Costs(Cost(100_000), Cost(50_000), Cost(25_000), Cost(25_000), spread=0.0, admit_ns=0)
    result = simulate(1, 200, "calm", Profile(rate=10.0), costs)
    alone = 5 * MILLISECOND_NS + 200_000
    assert np.median(result.latency_ns) == pytest.approx(alone, abs=MILLISECOND_NS // 100)


@pytest.mark.slow
@pytest.mark.skipif(not wheel.INSTALLED, reason="the wheel fraudgate-ingress is not installed")
def test_prediction_and_measurement_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--compare", "--rate", "200", "--duration", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("p50", "p99"):
        difference_ms = found["measured_ms"][name] - found["predicted_ms"][name]
        assert found["difference_ms"][name] == pytest.approx(difference_ms, abs=0.01)
    assert 3 < found["predicted_ms"]["p50"] < 8


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_the_loop_jumps_to_its_timers_and_to_what_happens_outside() -> None:
    clock = FakeClock(SECOND_NS)
    seen: list[tuple[str, int]] = []

    class Bells:
        def __init__(self) -> None:
            self.left = [SECOND_NS + 3, SECOND_NS + 5, 3 * SECOND_NS]

        def advance(self, until_ns: int | None, gave_work: Callable[[], bool]) -> bool:
            while self.left and (until_ns is None or self.left[0] <= until_ns):
                clock.now_ns = max(clock.now_ns, self.left.pop(0))
                seen.append(("bell", clock.now_ns))
            return bool(self.left)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.outside = Bells()
        await asyncio.sleep(1)
        seen.append(("timer", clock.now_ns))
        clock.advance(2 * SECOND_NS)  # the loop's thread is busy
        await asyncio.sleep(0)
        seen.append(("busy", clock.now_ns))

    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(clock)) as runner:
        runner.run(main())
    second = SECOND_NS
    assert seen[:3] == [("bell", second + 3), ("bell", second + 5), ("timer", 2 * second)]
    assert seen[3:] == [("bell", 4 * second), ("busy", 4 * second)]


def test_a_loop_that_would_wait_for_ever_raises() -> None:
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(FakeClock())) as runner:
        waiting = asyncio.Event().wait()
        with pytest.raises(RuntimeError, match="never happen"):
            runner.run(waiting)
