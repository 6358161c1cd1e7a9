"""The vectorised recomputation of the fifteen features against a list scan."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from fraudgate.demo.data import DAY_NS, EVENT_TIME_TYPE
from fraudgate.demo.recompute import recompute
from fraudgate.limits import DAY_SECONDS, SECOND_NS

DELAY = 7 * DAY_SECONDS
START = 1_522_540_800  # 2018-04-01T00:00:00Z


def crowded_events(rows: int, seed: int) -> pa.Table:
    """Few entities, many ties: times on a coarse grid, so that edges of windows are hit exactly."""
    rng = np.random.default_rng(seed)
    seconds = START + np.sort(rng.integers(0, 45 * 24, rows)) * 3600
    return pa.table(
        {
            "event_time": pa.array(seconds * SECOND_NS, EVENT_TIME_TYPE),
            "amount_minor": pa.array(rng.integers(1, 50_000, rows), pa.int64()),
            "customer_id": [f"c{number}" for number in rng.integers(0, 5, rows)],
            "terminal_id": [f"t{number}" for number in rng.integers(0, 4, rows)],
            "is_fraud": pa.array(rng.random(rows) < 0.2),
        }
    )


def scan(events: list[dict[str, object]], row: int) -> list[float]:
    """The definition, read off the benchmark's page."""
    own = events[row]
    now = own["second"]
    when = datetime.fromtimestamp(now, UTC)
    values = [own["amount_minor"] / 100, float(when.weekday() >= 5), float(when.hour <= 6)]
    for days in (1, 7, 30):
        seen = [
            each["amount_minor"]
            for each in events[: row + 1]
            if each["customer_id"] == own["customer_id"] and now - days * DAY_SECONDS < each["second"] <= now
        ]
        values += [len(seen), sum(seen) / len(seen) / 100]
    for days in (1, 7, 30):
        seen = [
            each["is_fraud"]
            for each in events
            if each["terminal_id"] == own["terminal_id"]
            and now - DELAY - days * DAY_SECONDS < each["second"] <= now - DELAY
        ]
        values += [len(seen), sum(seen) / len(seen) if seen else 0.0]
    return values


def test_equals_the_list_scan() -> None:
    table = crowded_events(600, seed=3)
    events = table.to_pylist()
    for event, nanoseconds in zip(events, table["event_time"].cast(pa.int64()).to_pylist(), strict=True):
        event["second"] = nanoseconds // SECOND_NS
    expected = np.array([scan(events, row) for row in range(len(events))])
    assert (recompute(table, 0) == expected).all()
    assert (recompute(table, 450) == expected[450:]).all()


def test_an_entity_does_not_see_its_neighbour() -> None:
    table = pa.table(
        {
            "event_time": pa.array([START * SECOND_NS, START * SECOND_NS + 40 * DAY_NS], EVENT_TIME_TYPE),
            "amount_minor": pa.array([100, 300], pa.int64()),
            "customer_id": ["a", "b"],
            "terminal_id": ["s", "t"],
            "is_fraud": [True, False],
        }
    )
    assert recompute(table, 1)[0, 3:].tolist() == [1, 3.0, 1, 3.0, 1, 3.0, 0, 0, 0, 0, 0, 0]
