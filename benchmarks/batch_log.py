"""What the batch log costs: CPU of append() on the scoring loop, and of the log's thread, per batch of 32.

    python benchmarks/batch_log.py [--seconds 1.5] [--json]

Batches are appended at the pace of a given load, because a busier log joins more of them into one write. Before each
append the loop opens the batch, so that the interpreter is as warm as after scoring; the clock's own cost is taken off.
"""

import argparse
import json
import tempfile
from pathlib import Path
from time import monotonic_ns, process_time_ns, sleep, thread_time_ns

import numpy as np
import pyarrow as pa

from fraudgate.audit.batch_log import BatchLog
from fraudgate.audit.log_file import METADATA_KEYS
from fraudgate.limits import BATCH_ROWS_MAX, SECOND_NS
from fraudgate.transaction import ANSWER_DTYPE, ENTITIES, REQUEST_SCHEMA, open_batch

FEATURES = 15
BATCHES = 64
DECISIONS_PER_SECOND = (4_000, 16_000, 51_200)


def request_batch(number: int) -> pa.RecordBatch:
    """A full batch with a customer and a terminal for each row."""
    rows = range(BATCH_ROWS_MAX)
    columns: dict[str, list[object]] = {
        "transaction_id": [f"transaction-{number}-{row}" for row in rows],
        "currency": ["EUR"] * BATCH_ROWS_MAX,
        "event_time": [number * SECOND_NS + row for row in rows],
        "amount_minor": [100 * row for row in rows],
        "attributes": [[]] * BATCH_ROWS_MAX,
        "arrival_ns": [number * SECOND_NS + row for row in rows],
        "deadline_ns": [0] * BATCH_ROWS_MAX,
    }
    columns |= {name: [f"{name}-{row}" if index < 2 else None for row in rows] for index, name in enumerate(ENTITIES)}
    return pa.RecordBatch.from_pydict(columns, schema=REQUEST_SCHEMA)


def clock_cost_ns() -> float:
    """What one reading of the thread's CPU clock adds to an interval."""
    started_ns = thread_time_ns()
    for _ in range(1_000):
        thread_time_ns()
    return (thread_time_ns() - started_ns) / 1_001


def measure(directory: Path, decisions_per_second: int, seconds: float) -> dict[str, float]:
    """Append at this pace for about ``seconds``."""
    pace_ns = BATCH_ROWS_MAX * SECOND_NS // decisions_per_second
    count = int(seconds * SECOND_NS) // pace_ns
    requests = [request_batch(number) for number in range(BATCHES)]
    features = np.random.default_rng(0).normal(size=(BATCHES, BATCH_ROWS_MAX, FEATURES))
    answers = np.ones((BATCHES, BATCH_ROWS_MAX), ANSWER_DTYPE)
    metadata = dict.fromkeys(METADATA_KEYS, "") | {"feature_names": ",".join(f"feature_{i}" for i in range(FEATURES))}
    log = BatchLog(directory, metadata)
    append_ns = 0
    process_ns, thread_ns, due_ns = process_time_ns(), thread_time_ns(), monotonic_ns()
    for number in range(count):
        due_ns += pace_ns
        sleep(max(0, due_ns - monotonic_ns()) / SECOND_NS)
        this = number % BATCHES
        open_batch(requests[this])
        started_ns = thread_time_ns()
        log.append(requests[this], features[this], answers[this], due_ns, 0)
        append_ns += thread_time_ns() - started_ns
    dropped = log.close()
    background_ns = (process_time_ns() - process_ns) - (thread_time_ns() - thread_ns)
    return {
        "decisions_per_second": decisions_per_second,
        "append_cpu_us_per_batch": (append_ns / count - clock_cost_ns()) / 1_000,
        "thread_cpu_us_per_batch": background_ns / count / 1_000,
        "bytes_per_decision": sum(file.stat().st_size for file in directory.iterdir()) / count / BATCH_ROWS_MAX,
        "dropped": dropped,
    }


def figures() -> dict[str, float]:
    """The figures of the results file: at 4,000 decisions a second."""
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), DECISIONS_PER_SECOND[0], 1.5)
    return {f"batch_log_{key}": round(result[key], 1) for key in ("append_cpu_us_per_batch", "thread_cpu_us_per_batch")}


def main() -> None:
    """Measure at each pace and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long at each pace")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = []
    for pace in DECISIONS_PER_SECOND:
        with tempfile.TemporaryDirectory() as directory:
            results.append(measure(Path(directory), pace, args.seconds))
    if args.json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        print(
            "{decisions_per_second:6,.0f} decisions/s: append {append_cpu_us_per_batch:5.2f} us a batch, "
            "log thread {thread_cpu_us_per_batch:6.1f} us a batch, {bytes_per_decision:.0f} bytes a decision, "
            "{dropped:.0f} dropped".format(**result)
        )


if __name__ == "__main__":
    main()
