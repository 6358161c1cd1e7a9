"""What can be asked of any engine from outside: each probe gives a line with its figures, or raises EngineRefused.

A probe knows nothing of files or runtimes, only the ``Engine`` port, and binds slabs of its own.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from os import sysconf
from pathlib import Path
from time import perf_counter_ns, thread_time_ns

import numpy as np

from fraudgate.engines import golden
from fraudgate.engines.base import Engine
from fraudgate.engines.golden import DIFFERENCE_MAX, Golden
from fraudgate.engines.invariance import check_invariance
from fraudgate.errors import EngineRefused
from fraudgate.limits import ENGINE_BUDGET_NS, INLINE_ENGINE_NS_MAX, MICROSECOND_NS
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32, Float64

CHANGE_MAX = 0.02
LOGIT_CHANGE_MEAN_MAX = 0.05
FLIPS_SHARE_MAX = 0.005
"""Quantisation may move a golden row's score so far, their logits so far on the average, and so many decisions."""
APPROVED_SHARE_MIN = 0.5
EXTREMES = (0.0, -1.0, 1e-42, 1.0, 1e4, 1e8, 1e12)
"""No amount, none stored, a subnormal, and up to the largest amount in minor units."""
NOT_FINITE = (np.nan, np.inf, -np.inf)
SWEEP_VALUES = 9
SLOWER_MAX = 10
AGREEMENT_MIN = 0.5
LOGIT_SHIFT_MAX = 0.5
GROWTH_BYTES_MAX = 2 << 20
GROWTH_WARM_UP_CALLS = 2_000


def parity(engine: Engine, rows: Golden) -> str:
    """Golden scores beside those of the FP32 network: how far they move, and how many decisions with them."""
    if rows.fp32 is None:
        return "not published with FP32 scores"
    scores, thresholds = _score(engine, rows.features), engine.info.thresholds
    change = float(np.abs(scores.astype(np.float64) - rows.fp32).max())
    logits = float(np.abs(_logit(scores) - _logit(rows.fp32)).mean())
    flips = int((golden.decisions(scores, thresholds) != golden.decisions(rows.fp32, thresholds)).sum())
    detail = (
        f"against FP32 a score moves by {change:.4f} at most, a logit by {logits:.4f} on the average, "
        f"{flips} of {len(scores):,} decisions flip"
    )
    if not (change <= CHANGE_MAX and logits <= LOGIT_CHANGE_MEAN_MAX and flips <= FLIPS_SHARE_MAX * len(scores)):
        raise EngineRefused(
            f"{detail}: {CHANGE_MAX}, {LOGIT_CHANGE_MEAN_MAX} and {FLIPS_SHARE_MAX:.1%} of them are allowed"
        )
    return detail


def distinct(engine: Engine, rows: Golden) -> str:
    """How many different scores the golden rows have: at least half as many as there are different rows."""
    different = len(np.unique(rows.features, axis=0))
    found = len(np.unique(_score(engine, rows.features)))
    detail = f"{found:,} distinct scores of {different:,} distinct rows"
    if found < different / 2:
        raise EngineRefused(f"{detail}: a constant, clipped or coarsely quantised output cannot rank payments")
    return detail


def decisions(engine: Engine, rows: Golden) -> str:
    """What the thresholds make of the golden rows: neither all of one kind, nor most of them stopped."""
    scores = _score(engine, rows.features)
    approved, reviewed, declined = np.bincount(golden.decisions(scores, engine.info.thresholds), minlength=3).tolist()
    detail = f"{approved:,} approved, {reviewed:,} reviewed, {declined:,} declined"
    if approved == len(scores):
        raise EngineRefused(f"{detail}: these thresholds stop nothing")
    if approved < APPROVED_SHARE_MIN * len(scores):
        raise EngineRefused(f"{detail}: at least {APPROVED_SHARE_MIN:.0%} of ordinary payments must pass")
    return detail


def extremes(engine: Engine, rows: Golden) -> str:
    """A probability for every finite feature however large; no score at all where one is not finite."""
    base = _spread(rows.features, 8)
    sound = np.concatenate([_each_feature_at(base, EXTREMES), *(np.full((1, engine.features), v) for v in EXTREMES)])
    scores = golden.score(engine, sound)
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        raise EngineRefused(f"{_where(wrong)} finite rows at extremes have no score in 0..1, one {scores[wrong][0]}")
    unsound = _each_feature_at(base, NOT_FINITE)
    scored = ~np.isnan(golden.score(engine, unsound))
    if scored.any():
        raise EngineRefused(
            f"{_where(scored)} rows with a feature that is not finite are scored as if it were: give NaN for them"
        )
    return f"{len(sound):,} rows up to {max(EXTREMES):g} in 0..1; {len(unsound):,} not finite: no score"


def monotone(engine: Engine, rows: Golden, directions: Mapping[int, int], rows_max: int) -> str:
    """``directions``: column -> +1 where raising the feature alone must not lower the score, -1 the other way round."""
    if not directions:
        return "the schema declares none"
    base = _spread(rows.features, rows_max)
    for column, sign in directions.items():
        values = np.quantile(rows.features[:, column].astype(np.float64), np.linspace(0, 1, SWEEP_VALUES))
        scores = np.array([_score(engine, _with(base, column, value)) for value in values], np.float64)
        steps = np.diff(scores, axis=0) * sign
        wrong = np.flatnonzero(~(steps >= -DIFFERENCE_MAX).all(axis=0))
        if len(wrong):
            verb = "raises" if sign < 0 else "lowers"
            raise EngineRefused(
                f"raising feature {column} {verb} the score of {len(wrong)} of {len(base)} rows, "
                f"by up to {-steps.min():.4f}"
            )
    return f"{len(directions)} features over {len(base)} rows, {SWEEP_VALUES} values each"


def against(engine: Engine, other: Engine, rows: Golden, runs: int) -> str:
    """Beside ``other``, on the golden rows that ``other`` was published with: those a forger of this one cannot have
    written."""
    mine, theirs = _score(engine, rows.features), _score(other, rows.features)
    stopped, expected = golden.decisions(mine, engine.info.thresholds), golden.decisions(theirs, other.info.thresholds)
    either = int(((stopped > 0) | (expected > 0)).sum())
    agreement = int(((stopped > 0) & (expected > 0)).sum()) / max(either, 1)
    shift = float(np.median(_logit(mine)) - np.median(_logit(theirs)))
    slower = float(np.median(run_times_ns(engine, runs)) / np.median(run_times_ns(other, runs)))
    detail = (
        f"{agreement:.0%} of the rows that either stops are stopped by both, the median logit moves by {shift:+.2f}, "
        f"{slower:.1f} times its run"
    )
    if not (agreement >= AGREEMENT_MIN and abs(shift) <= LOGIT_SHIFT_MAX and slower <= SLOWER_MAX):
        raise EngineRefused(
            f"{detail}: at least {AGREEMENT_MIN:.0%}, at most {LOGIT_SHIFT_MAX} and {SLOWER_MAX} times are allowed"
        )
    return f"{other.info.model}: {detail}"


def invariance(engine: Engine, rows: Golden, rows_max: int, contexts_per_row: int) -> str:
    """The same bits for a row in every context."""
    found = check_invariance(engine, _spread(rows.features, rows_max), contexts_per_row)
    if found.differing_bits:
        raise EngineRefused(
            f"{found.differing_rows:,} of {found.rows:,} rows change with their batch: {found.differing_bits:,} bits"
        )
    return f"{found.rows:,} rows in {found.contexts:,} contexts, {found.places} places: 0 differing bits"


def latency(engine: Engine, runs: int, promised_us: float | None = None) -> str:
    """The run at 32 rows, beside the engine budget and beside what was published."""
    p50_ns, p99_ns = (int(value) for value in np.percentile(run_times_ns(engine, runs), [50, 99]))
    detail = f"p50 {p50_ns / MICROSECOND_NS:.1f} us, p99 {p99_ns / MICROSECOND_NS:.1f} us at 32 rows"
    if p99_ns > ENGINE_BUDGET_NS:
        raise EngineRefused(f"{detail}: the engine budget is {ENGINE_BUDGET_NS / 1e6:.0f} ms")
    if promised_us is not None and p50_ns > SLOWER_MAX * promised_us * MICROSECOND_NS:
        raise EngineRefused(f"{detail}: over {SLOWER_MAX} times the {promised_us:.1f} us that it was published with")
    place = "on the scoring loop" if p50_ns < INLINE_ENGINE_NS_MAX else "on the engine thread"
    return f"{detail}{'' if promised_us is None else f', published {promised_us:.1f} us'}: runs {place}"


def run_times_ns(engine: Engine, runs: int) -> list[int]:
    """``runs`` runs at 32 rows. On the CPU its time, which a busy neighbour does not change; elsewhere the clock's."""
    clock_ns = thread_time_ns if engine.info.provider == "cpu" else perf_counter_ns
    engine.bind([Slab(engine.features)])
    engine.run(0)
    times_ns = [clock_ns()]
    for _ in range(runs):
        engine.run(0)
        times_ns.append(clock_ns())
    return [end_ns - start_ns for start_ns, end_ns in pairwise(times_ns)]


def process_bytes() -> int:
    """Resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * sysconf("SC_PAGE_SIZE")


def memory(engine: Engine, calls: int, limit_ns: int, resident_bytes: Callable[[], int] = process_bytes) -> str:
    """Growth of the process over ``calls`` runs, or over the thousands of them that fit in ``limit_ns``."""
    engine.bind([Slab(engine.features)])
    for _ in range(GROWTH_WARM_UP_CALLS):
        engine.run(0)
    before, end_ns, done = resident_bytes(), perf_counter_ns() + limit_ns, 0
    while not done or (done < calls and perf_counter_ns() < end_ns):
        for _ in range(1_000):
            engine.run(0)
        done += 1_000
    grown = resident_bytes() - before
    detail = f"{grown / 1024:+,.0f} KiB over {done:,} runs"
    if grown > GROWTH_BYTES_MAX:
        raise EngineRefused(f"{detail}: at most {GROWTH_BYTES_MAX >> 10:,} KiB are allowed, the engine leaks")
    return detail


def _score(engine: Engine, features: Float32 | Float64) -> Float32:
    return golden.score(engine, features.astype(np.float64))


def _spread(features: Float32, rows_max: int) -> Float64:
    """At most ``rows_max`` rows, evenly from first to last."""
    places = np.linspace(0, len(features) - 1, min(rows_max, len(features))).astype(np.int64)
    return features[places].astype(np.float64)


def _with(rows: Float64, column: int, value: float) -> Float64:
    changed = rows.copy()
    changed[:, column] = value
    return changed


def _each_feature_at(rows: Float64, values: tuple[float, ...]) -> Float64:
    return np.concatenate([_with(rows, column, value) for column in range(rows.shape[1]) for value in values])


def _logit(scores: Float32) -> Float64:
    sound = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(sound / (1 - sound)))


def _where(flags: np.ndarray) -> str:
    return f"{int(flags.sum()):,} of {len(flags):,}"
