"""``fraudgate bench compare``: worse is found, alike is left alone, too little is not judged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fraudgate.cli import main
from fraudgate.errors import TooFewSamples
from fraudgate.latency.comparison import INTERVALS_MIN, RUNS_MIN, Run, compare
from fraudgate.latency.histogram import Distribution, Filled, indices_of
from fraudgate.latency.report import log_head, log_interval
from fraudgate.transaction import Int64

S = 1_000_000_000
TRIALS = 1_000
FALSE_ALARMS_MAX = 21
"""Of 1,000 trials that each cry wolf with probability 0.01, more than 21 do so once in 2,000 times."""
COARSE_NS = 1 << 17  # few buckets: a thousand comparisons take seconds


def distribution(values_ns: Int64) -> Distribution:
    return Distribution.of(Filled(*np.unique(indices_of(values_ns // COARSE_NS * COARSE_NS), return_counts=True)))


def runs(random: np.random.Generator, count: int = RUNS_MIN, slower: float = 0.0, noise: float = 0.1) -> list[Run]:
    """Log-normal runs, each of which is a little off by itself."""
    levels = 15 + slower + random.normal(0, noise, count)
    return [[distribution(random.lognormal(level, 0.5, 1_000).astype(np.int64))] for level in levels]


def series(random: np.random.Generator, memory: float, slower: float = 0.0, noise: float = 0.1) -> list[Run]:
    """One run, whose intervals are each like the one before by ``memory``."""
    level, intervals = random.normal(0, noise), []
    for _ in range(INTERVALS_MIN):
        level = memory * level + random.normal(0, noise * np.sqrt(1 - memory**2))
        intervals.append(distribution(random.lognormal(15 + slower + level, 0.5, 400).astype(np.int64)))
    return [intervals]


@pytest.mark.parametrize(
    "side",
    [
        pytest.param(lambda random: runs(random), id="runs"),
        pytest.param(lambda random: series(random, memory=0.5), id="intervals with a memory"),
    ],
)
def test_of_two_sides_that_are_alike_one_in_a_hundred_is_called_worse(
    side: Callable[[np.random.Generator], list[Run]],
) -> None:
    false_alarms = 0
    for seed in range(TRIALS):
        random = np.random.default_rng(seed)
        false_alarms += compare(side(random), side(random), draws=300).worse
    assert false_alarms <= FALSE_ALARMS_MAX


@pytest.mark.parametrize("seed", range(5))
def test_what_is_worse_is_found_and_what_is_better_is_not_called_so(seed: int) -> None:
    random = np.random.default_rng(seed)
    for a, b in ((runs(random), runs(random, slower=0.5)), (series(random, 0.5), series(random, 0.5, slower=0.5))):
        worse, better = compare(a, b), compare(b, a)
        assert worse.worse
        assert 0 < worse.low_ns <= worse.b_ns - worse.a_ns <= worse.high_ns
        assert not better.worse
        assert better.high_ns < 0
    assert worse.units == "6 blocks of intervals against 6"


def test_a_side_against_itself_differs_by_nothing() -> None:
    a = runs(np.random.default_rng(1))
    compared = compare(a, a)
    assert (compared.a_ns - compared.b_ns, compared.worse) == (0, False)
    assert compared.low_ns <= 0 <= compared.high_ns


@pytest.mark.parametrize(
    ("a", "b", "percent", "message"),
    [
        (
            runs(np.random.default_rng(1), 4),
            runs(np.random.default_rng(2), 9),
            99,
            "A has 4 runs with 4 intervals, B 9 with 9",
        ),
        (
            runs(np.random.default_rng(1), 9),
            runs(np.random.default_rng(2), 1),
            99,
            "A has 9 runs with 9 intervals, B 1 with 1",
        ),
        (
            runs(np.random.default_rng(1)),
            runs(np.random.default_rng(2)),
            99.9,
            "A has 5,000 values; p99.9 needs 10,000",
        ),
    ],
)
def test_too_little_is_not_judged(a: list[Run], b: list[Run], percent: float, message: str) -> None:
    with pytest.raises(TooFewSamples, match=message):
        compare(a, b, percent)


# -- the command -------------------------------------------------------------------------------------------------------


def logs(directory: Path, sides: list[Run]) -> str:
    """A directory of logs, one for each run."""
    directory.mkdir()
    for number, intervals in enumerate(sides):
        lines = [
            log_interval({"client": one}, place * S, (place + 1) * S) for place, one in enumerate(intervals, 1_000)
        ]
        (directory / f"{number}.hlog").write_text(log_head(1_000 * S) + "".join(lines))
    return str(directory)


def test_the_command_says_what_it_found_and_ends_accordingly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(3)
    a, b = logs(tmp_path / "a", runs(random)), logs(tmp_path / "b", runs(random, slower=0.7))
    one = logs(tmp_path / "one", series(random, 0.0))
    for arguments, status, message in (
        ((a, b), 1, "B is worse: 5 runs against 5, p = 0.0040"),
        ((b, a), 0, "B is not shown to be worse"),
        ((",".join(str(path) for path in sorted((tmp_path / "a").iterdir())), b), 1, "98 % interval +"),
        ((f"{one}/0.hlog", f"{one}/0.hlog"), 0, "6 blocks of intervals against 6, p = "),
    ):
        assert main(["bench", "compare", *arguments, "--stage", "client"]) == status
        assert message in capsys.readouterr().out
    assert main(["bench", "compare", a, b, "--stage", "client", "--percentile", "50", "--json"]) == 1
    form = json.loads(capsys.readouterr().out)
    assert (form["stage"], form["percent"], form["worse"]) == ("client", 50, True)
    for arguments, message in (
        ((a, b), "no stage 'total'; --stage one of client"),
        (
            (f"{one}/0.hlog", a, "--stage", "client"),
            "B 5 with 5; needed are 5 runs on each side, or 24",
        ),
        ((str(tmp_path), a), "no .hlog in this directory"),
        ((f"{one}/0.hlog,{one}/0.hlog", a), "a log is named twice"),
        (("none.hlog", a), "none.hlog: No such file"),
    ):
        assert main(["bench", "compare", *arguments]) == 2
        assert message in capsys.readouterr().err
