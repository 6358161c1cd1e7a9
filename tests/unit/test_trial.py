"""A trial: who belongs to a share, and what ends it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudgate.engines.bounds import BOUNDS, Bounds
from fraudgate.engines.trial import Trial, _dense_ranks, chosen
from fraudgate.guardrails.decision import Thresholds
from fraudgate.transaction import Float32

THRESHOLDS = Thresholds(review=0.5, decline=0.875)
RUN_NS = 20_000


def scores(rows: int, seed: int = 1) -> Float32:
    """Mostly low, some high, all different: as a fraud model's are."""
    return (np.random.default_rng(seed).random(rows) ** 6).astype(np.float32)


def trial(bounds: Bounds = BOUNDS) -> Trial:
    return Trial(THRESHOLDS, THRESHOLDS, bounds)


def fed(found: Trial, live: Float32, other: Float32, run_ns: int = RUN_NS) -> Trial:
    for start in range(0, len(live), 32):
        found.compare(live[start : start + 32], other[start : start + 32], run_ns)
    return found


# -- who belongs to a share --------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=20), max_size=50), st.integers(0, 100), st.integers(0, 100))
def test_a_smaller_share_is_within_every_larger_one(keys: list[str], one: int, other: int) -> None:
    small, large = (chosen(keys, share) for share in sorted((one, other)))
    assert not (small & ~large).any()
    assert not chosen(keys, 0).any()
    assert chosen(keys, 100).all()


@pytest.mark.parametrize("share", [1, 5, 25, 50])
def test_a_share_is_about_that_large(share: int) -> None:
    keys = [f"customer-{i}" for i in range(20_000)]
    assert chosen(keys, share).mean() == pytest.approx(share / 100, abs=0.01)


def test_a_key_alone_is_chosen_as_it_is_among_others() -> None:
    keys = [f"customer-{i}" for i in range(200)]
    assert [bool(chosen([key], 25)[0]) for key in keys] == chosen(keys, 25).tolist()


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1, width=32), min_size=1, max_size=64))
def test_dense_ranks_are_the_places_among_the_distinct_values(values: list[float]) -> None:
    found = _dense_ranks(np.array(values, np.float32))
    assert found.tolist() == np.unique(np.array(values, np.float32), return_inverse=True)[1].tolist()


def test_the_first_comparisons_import_nothing() -> None:
    """A canary's are on the scoring loop."""
    code = """
import sys, numpy as np
from tests.unit.test_trial import fed, scores, trial
found, live, before = trial(), np.linspace(0, 1, 128, dtype=np.float32), set(sys.modules)
fed(found, live, live)
assert found.problem() == "" and set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# -- what ends a trial -------------------------------------------------------------------------------------------------


def test_a_good_engine_stays() -> None:
    live = scores(4_000)
    noise = np.random.default_rng(2).normal(0, 0.01, len(live))
    assert fed(trial(), live, np.clip(live + noise, 0, 1).astype(np.float32)).problem() == ""
    assert fed(trial(), live, live).difference_max == 0.0


def test_nothing_is_said_of_too_few_rows() -> None:
    live = scores(BOUNDS.rows_min - 1)
    assert fed(trial(), live, 1 - live).problem() == ""


BAD = {
    "constant, low": (lambda live: np.full_like(live, 0.001), "distinct scores|differ|flip"),
    "constant, high": (lambda live: np.full_like(live, 0.9), "differ"),
    "the other way round": (lambda live: 1 - live, "differ"),
    "shifted by 0.1": (lambda live: np.minimum(live + np.float32(0.1), 1), "differ"),
    "of other rows": (lambda live: np.random.default_rng(3).permutation(live), "differ|rank"),
    "rounded to 1/4": (lambda live: (np.rint(live * 4) / 4).astype(np.float32), "distinct|differ"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_engine_goes_within_a_hundred_rows(kind: str) -> None:
    make, said = BAD[kind]
    live = scores(128)
    with_problem = [rows for rows in range(32, 129, 32) if fed(trial(), live[:rows], make(live[:rows])).problem() != ""]
    assert with_problem, kind
    assert with_problem[0] <= 96
    problem = fed(trial(), live, make(live)).problem()
    assert any(word in problem for word in said.split("|")), problem


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_one_unusable_score_is_enough(bad: float) -> None:
    live, other = scores(32), scores(32)
    other[7] = bad
    assert fed(trial(), live, other).problem() == "1 of its scores are not finite in 0..1"


def test_a_row_that_the_live_engine_could_not_score_says_nothing() -> None:
    live, other = scores(320), scores(320)
    live[::4] = np.nan
    found = fed(trial(), live, other)
    assert (found.problem(), found.rows, found.unusable) == ("", 240, 0)


def test_a_failure_is_enough() -> None:
    found = trial()
    found.fail()
    assert found.problem() == "it failed on 1 batches"


def test_a_slow_engine_goes() -> None:
    live = scores(640)
    assert "a run takes" in fed(trial(), live, live, run_ns=50_000_000).problem()


def test_flips_are_counted_by_each_engines_own_thresholds() -> None:
    live = scores(3_200)
    found = Trial(Thresholds(review=0.25, decline=0.875), THRESHOLDS)
    fed(found, live, live)
    assert found.flips == int(((live >= 0.25) & (live < 0.5)).sum())
    assert "decisions flip" in found.problem()
