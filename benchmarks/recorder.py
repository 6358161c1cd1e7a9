"""CPU time of recording one full batch: every stage's histogram, every counter, exemplars, timeline, and drift; and of
an interval of the histogram log. Prints JSON.

python benchmarks/recorder.py
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time_ns, time_ns

import numpy as np

from fraudgate.drift.watch import WINDOW_ROWS, DriftWatch
from fraudgate.editions import Edition, Editions
from fraudgate.guardrails.reasons import RuleTexts
from fraudgate.latency.budget import Budget
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.interval_log import IntervalLog
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.timeline import SlowRuns, Timeline
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.sections import Latency
from fraudgate.transaction import Answers, Float64, decided_rows

SEED = 20180808
FEATURES = 15
DECISIONS_PER_SECOND = 1_000
"""Over which an interval of the log is spread."""


def measure(batches: int = 20_000, repeats: int = 5) -> dict[str, float]:
    """Microseconds of CPU per call, the best of ``repeats``."""
    random = np.random.default_rng(SEED)
    recorder, counters = Recorder(), Counters()
    queue = random.integers(50_000, 5_000_000, BATCH_ROWS_MAX)
    total = queue + 300_000
    decision = random.choice([1, 1, 1, 1, 1, 1, 2, 3], BATCH_ROWS_MAX).astype(np.uint8)
    fallback = random.choice([1, 1, 1, 2], BATCH_ROWS_MAX).astype(np.uint8)

    def record_batch() -> None:
        recorder.record("queue", queue)
        recorder.record_repeated("features", 180_000, BATCH_ROWS_MAX)
        recorder.record_repeated("inference", 20_000, BATCH_ROWS_MAX)
        recorder.record_repeated("guardrails", 90_000, BATCH_ROWS_MAX)
        recorder.record("total", total)
        counters.count_decisions(decision, fallback)
        counters.count_batch(BATCH_ROWS_MAX)

    drift = DriftWatch([f"FEATURE_{number}" for number in range(FEATURES)])
    decided = _decided(random)

    def best(call: Callable[[], object], calls: int) -> float:
        return min(_cpu_us(call, calls) for _ in range(repeats))

    per_batch = best(record_batch, batches)
    return {
        "recorder_cpu_us_per_batch": round(per_batch, 2),
        "recorder_cpu_us_per_decision": round(per_batch / BATCH_ROWS_MAX, 3),
        "record_32_cpu_us": round(best(lambda: recorder.record("queue", queue), batches), 2),
        "record_repeated_cpu_us": round(best(lambda: recorder.record_repeated("queue", 180_000, 32), batches), 2),
        "count_decisions_32_cpu_us": round(best(lambda: counters.count_decisions(decision, fallback), batches), 2),
        "report_cpu_us": round(best(lambda: recorder.report(0), max(batches // 100, 1)), 1),
        "drift_cpu_us_per_batch": round(best(lambda: drift.record_batch(*next(decided)), batches), 2),
        "drift_report_cpu_us": round(best(drift.report, max(batches // 100, 1)), 1),
        **_whole(random, batches, repeats),
    }


def _whole(random: np.random.Generator, batches: int, repeats: int) -> dict[str, float]:
    """What the server does with each decision, and with each interval of its log, at 1,000 decisions a second."""
    recorder, counters, timeline, budget = Recorder(), Counters(), Timeline(), Budget.default()
    editions = Editions()
    editions.add(Edition("run", "model", "1", "digest", "int8", RuleTexts("rules", (), ())))
    exemplars = Exemplars(timeline, editions)
    recorder.watchers += [exemplars.record_batch, SlowRuns(timeline, budget).record_batch]
    decided = _stamped(random)

    def record() -> None:
        rows = next(decided)
        recorder.record_batch(rows)
        counters.count_decisions(rows["decision"], rows["fallback"])
        counters.count_batch(len(rows))

    batch_us = min(_cpu_us(record, batches) for _ in range(repeats))
    with TemporaryDirectory() as directory:
        log = IntervalLog(Path(directory), recorder, counters, exemplars, timeline, budget, time_ns(), 0)
        now_ns = count(SECOND_NS, SECOND_NS)

        def interval() -> None:
            for _ in range(40):  # an interval in which nothing happened writes nothing
                record()
            log.write(next(now_ns))

        interval_us = min(_cpu_us(interval, 10) for _ in range(repeats)) - 40 * batch_us
    decision_us = batch_us / BATCH_ROWS_MAX + interval_us / (Latency().interval_seconds * DECISIONS_PER_SECOND)
    return {"interval_log_cpu_us": round(interval_us, 1), "recording_us_per_decision": round(decision_us, 3)}


def _stamped(random: np.random.Generator) -> Iterator[Answers]:
    """Full batches as the pipeline decides them, over and over; one in fifty is slow enough for the timeline."""
    batches = []
    for number in range(1_000):
        stamps = np.cumsum([SECOND_NS, 6_000_000 if number % 50 == 0 else 180_000, 20_000, 90_000]).tolist()
        answers = decided_rows(BATCH_ROWS_MAX, 1, *stamps)
        answers["arrival_ns"] = SECOND_NS - random.integers(50_000, 5_000_000, BATCH_ROWS_MAX)
        answers["decision"], answers["fallback"] = 1, 1
        batches.append(answers)
    return cycle(batches)


def _decided(random: np.random.Generator) -> Iterator[tuple[Float64, Answers]]:
    """Features and answers of a window's batches, over and over: each batch is read where it lies in memory."""
    batches = []
    for _ in range(WINDOW_ROWS // BATCH_ROWS_MAX):
        answers = decided_rows(BATCH_ROWS_MAX, 1, 0, 0, 0, 0)
        answers["score"] = random.random(BATCH_ROWS_MAX)
        batches.append((random.random((BATCH_ROWS_MAX, FEATURES)), answers))
    return cycle(batches)


def _cpu_us(call: Callable[[], object], calls: int) -> float:
    start_ns = process_time_ns()
    for _ in range(calls):
        call()
    return (process_time_ns() - start_ns) / calls / 1_000


def figures() -> dict[str, float]:
    """The figures of the results file."""
    return measure(batches=5_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20_000)
    print(json.dumps(measure(parser.parse_args().batches), indent=2))


if __name__ == "__main__":
    main()
