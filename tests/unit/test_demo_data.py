"""The cut into history and replay: who is loaded, who is sent, and which labels are known when."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudgate.demo import data
from fraudgate.errors import ConfigError
from fraudgate.limits import SECOND_NS
from fraudgate.v1.outcomes_pb2 import ReportOutcomeRequest
from fraudgate.v1.scoring_pb2 import ScoreRequest

START_NS = data.REPLAY_START_NS


def events(*rows: tuple[str, float, bool]) -> pa.Table:
    """Bulk-load columns of (id, days after the replay's start, is_fraud)."""
    times = [START_NS + int(days * data.DAY_NS) for _, days, _ in rows]
    return pa.table(
        {
            "transaction_id": [name for name, _, _ in rows],
            "event_time": pa.array(times, data.EVENT_TIME_TYPE),
            "amount_minor": pa.array(range(100, 100 + len(rows)), pa.int64()),
            "currency": ["EUR"] * len(rows),
            "customer_id": [f"c-{name}" for name, _, _ in rows],
            "terminal_id": [f"t-{name}" for name, _, _ in rows],
            "is_fraud": [fraud for _, _, fraud in rows],
        }
    )


EVENTS = events(
    ("old-fraud", -9, True),
    ("edge", -7, True),
    ("delayed", -6.5, True),
    ("genuine", -1, False),
    ("first", 0, False),
    ("own-fraud", 3, True),
    ("last", 6.9, False),
    ("beyond", 7, False),
)


@pytest.fixture
def traffic() -> data.Traffic:
    return data.prepare("test", EVENTS, START_NS, START_NS + 7 * data.DAY_NS)


def test_the_week_is_what_lies_in_the_replay(traffic: data.Traffic) -> None:
    assert traffic.week.transaction_id == ["first", "own-fraud", "last"]
    assert traffic.history_rows == 4


def test_history_keeps_back_the_labels_that_are_not_known_yet(traffic: data.Traffic, tmp_path: Path) -> None:
    data.write_history(traffic, tmp_path / "history.parquet")
    history = pq.read_table(tmp_path / "history.parquet")
    assert history["is_fraud"].to_pylist() == [True, None, None, None]
    assert history.schema.field("event_time").type == data.EVENT_TIME_TYPE
    assert history.schema.field("customer_id").type == pa.string()
    assert tuple(history.schema.names) == data.HISTORY_COLUMNS


def test_each_unknown_fraud_is_due_seven_days_after_it_happened(traffic: data.Traffic) -> None:
    assert traffic.outcomes.due_ns.tolist() == [START_NS, START_NS + data.DAY_NS // 2]
    edge = ReportOutcomeRequest.FromString(traffic.outcomes.requests[0])
    assert (edge.transaction_id, edge.is_fraud, edge.customer_id, edge.terminal_id) == (
        "edge",
        True,
        "c-edge",
        "t-edge",
    )
    assert edge.event_time.ToNanoseconds() == START_NS - data.LABEL_DELAY_NS
    assert [ReportOutcomeRequest.FromString(each).transaction_id for each in traffic.late_outcomes.requests] == [
        "own-fraud"
    ]


def test_requests_carry_the_transaction(traffic: data.Traffic) -> None:
    sent = ScoreRequest.FromString(traffic.requests[1]).transaction
    assert (sent.transaction_id, sent.amount_minor, sent.currency) == ("own-fraud", 105, "EUR")
    assert (sent.customer_id, sent.terminal_id) == ("c-own-fraud", "t-own-fraud")
    assert sent.event_time.ToNanoseconds() == START_NS + 3 * data.DAY_NS


def test_rows_max_cuts_the_replay_short() -> None:
    short = data.prepare("test", EVENTS, START_NS, START_NS + 7 * data.DAY_NS, rows_max=1)
    assert short.week.transaction_id == ["first"]
    assert len(short.late_outcomes) == 0


def test_amounts_become_whole_cents(tmp_path: Path) -> None:
    raw = {
        "TRANSACTION_ID": pa.array([1, 2], pa.int32()),
        "TX_DATETIME": pa.array([0, 1_000], pa.timestamp("ms")),
        "CUSTOMER_ID": pa.array([7, 8], pa.int16()),
        "TERMINAL_ID": pa.array([9, 9], pa.int16()),
        "TX_AMOUNT": [57.16, 0.1 + 0.2],  # neither is exact in binary
        "TX_FRAUD": pa.array([0, 1], pa.int8()),
    }
    pq.write_table(pa.table(raw), tmp_path / data.TRANSACTIONS_FILE)
    read = data.read_benchmark(tmp_path)
    assert read["amount_minor"].to_pylist() == [5716, 30]
    assert read["customer_id"].to_pylist() == ["7", "8"]
    assert read["is_fraud"].to_pylist() == [False, True]
    assert read["event_time"].cast(pa.int64()).to_pylist() == [0, SECOND_NS]


def test_a_folder_that_was_named_has_to_hold_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--data"):
        data.find_benchmark(str(tmp_path))
    monkeypatch.setenv("FRAUDGATE_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="FRAUDGATE_DATA"):
        data.find_benchmark(None)


@pytest.mark.parametrize("below", ["", "handbook"])
def test_the_benchmark_is_found_in_the_folder_or_below_it(tmp_path: Path, below: str) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / data.TRANSACTIONS_FILE).touch()
    assert data.find_benchmark(str(tmp_path)) == (tmp_path / below).resolve()


def test_only_a_pair_published_in_reverse_is_excused() -> None:
    same_second = np.array([0, 0, 5, 5, 5]) * SECOND_NS
    week = data.Rows(
        transaction_id=list("abcde"),
        event_time_ns=same_second,
        amount_minor=np.ones(5, np.int64),
        customer_id=["x", "x", "y", "y", "z"],
        terminal_id=["t"] * 5,
        is_fraud=np.zeros(5, np.bool_),
    )
    published = np.zeros((5, 15))
    published[:, data.COUNT_30_DAYS] = [4, 3, 8, 9, 1]
    assert data.excused_rows(week, published).tolist() == [True, True, False, False, False]
