"""What a run has shown, for a terminal and as JSON."""

import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np

from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.run import Result

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


def replay_command(result: Result) -> str:
    """What repeats a run, call by call."""
    words = ("fraudgate", "simulate", "--seed", result.seed, "--requests", result.calls, "--profile", result.profile)
    return shlex.join(map(str, words))


def percentiles_ms(result: Result) -> dict[str, float]:
    """Of the calls that ended OK, from the instant at which they were sent; empty where none did."""
    if not len(result.latency_ns):
        return {}
    values = np.percentile(result.latency_ns, list(_PERCENTILES.values())) / MILLISECOND_NS
    return dict(zip(_PERCENTILES, map(float, values.round(3)), strict=True))


def as_json(result: Result) -> dict[str, Any]:
    """Plain dicts and numbers."""
    broken = result.broken
    return {
        "seed": result.seed,
        "profile": result.profile,
        "requests": result.calls,
        "digest": result.digest,
        "held": broken is None,
        "broken": broken and {"invariant": broken.invariant, "detail": broken.detail, "step": broken.step},
        "replay": replay_command(result),
        "simulated_seconds": round(result.simulated_ns / SECOND_NS, 6),
        "wall_seconds": round(result.wall_ns / SECOND_NS, 3),
        "statuses": result.statuses,
        "latency_ms": percentiles_ms(result),
        "late_answers": result.late,
        "faults": result.faults,
        "features_recounted": result.recounted,
        **result.tally._asdict(),
    }


def lines(result: Result) -> Iterator[str]:
    """For a terminal."""
    tally, times = result.tally, percentiles_ms(result)
    seconds = result.simulated_ns / SECOND_NS
    yield (
        f"seed {result.seed}, {result.profile}: {result.calls:,} calls, {seconds:,.1f} simulated seconds in "
        f"{result.wall_ns / SECOND_NS:,.1f} s ({result.wall_ns / 1_000 / result.calls:.1f} us a call)"
    )
    yield f"ended      {_counts(result.statuses)}"
    yield f"refused    {_counts(tally.refusals)}"
    yield f"faults     {_counts(result.faults)}"
    yield (
        f"service    {tally.decisions:,} decided in {tally.batches:,} batches, {tally.replays:,} replayed, "
        f"{tally.engine_failures:,} engine failures, {tally.rollbacks:,} rolled back, "
        f"{tally.log_dropped:,} batches not logged"
    )
    yield f"ladder     {tally.breaker_changes:,} changes of a breaker, {tally.defaulted:,} decided without the store"
    yield f"latency    {', '.join(f'{name} {value:,.2f} ms' for name, value in times.items())}"
    yield f"late       {result.late:,} answers came after their deadline and were dropped by the transport"
    yield f"recounted  {result.recounted:,} window features"
    yield f"digest     {result.digest}"
    if result.broken is None:
        yield "every invariant held"
    else:
        broken = result.broken
        yield f"BROKEN at call {broken.step:,}, {broken.now_ns / SECOND_NS:.6f} s: {broken}"
        yield f"replay     {replay_command(result)}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
