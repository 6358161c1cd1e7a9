"""What the demo replays: the public card-fraud benchmark, or the project's own simulated traffic where it is absent.

    1 April ......................... 31 July | 1 - 7 August | 8 - 14 August
    history, loaded in bulk ------------------+--------------|
      its frauds are known at the start       | reported one |  replayed through Score(),
                                              | by one during|  its frauds reported at the end
                                              | the replay   |

The benchmark is "Reproducible Machine Learning for Credit Card Fraud Detection - Practical Handbook" (Le Borgne,
Siblini, Lebichot, Bontempi), GitHub Fraud-Detection-Handbook/simulated-data-raw. It is read where it lies
and never copied.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraudgate.errors import ConfigError
from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.transaction import Bool, Float64, Int64
from fraudgate.v1.outcomes_pb2 import ReportOutcomeRequest
from fraudgate.v1.scoring_pb2 import ScoreRequest

CURRENCY = "EUR"
DAY_NS = DAY_SECONDS * SECOND_NS
LABEL_DELAY_NS = 7 * DAY_NS
"""A fraud is known, and reported, seven days after it happened."""

TRANSACTIONS_FILE = "transactions_to_20180814.parquet"
FEATURES_FILE = "features_oracle_20180725_20180814.parquet"
PUBLISHED_FILE = "published.csv"
COUNT_30_DAYS = 7
"""Column of CUSTOMER_ID_NB_TX_30DAY_WINDOW among the fifteen features."""
REPLAY_START_NS = 1_533_686_400 * SECOND_NS  # 2018-08-08T00:00:00Z
REPLAY_END_NS = REPLAY_START_NS + 7 * DAY_NS

EVENT_TIME_TYPE = pa.timestamp("ns", tz="UTC")
HISTORY_COLUMNS = (
    "transaction_id",
    "event_time",
    "amount_minor",
    "currency",
    "customer_id",
    "terminal_id",
    "is_fraud",
)


@dataclass(frozen=True)
class Rows:
    """Transactions in event order, column by column."""

    transaction_id: list[str]
    event_time_ns: Int64
    amount_minor: Int64
    customer_id: list[str]
    terminal_id: list[str]
    is_fraud: Bool

    def __len__(self) -> int:
        return len(self.transaction_id)


@dataclass(frozen=True)
class Outcomes:
    """Frauds to report, in event order: each is due when the replay clock reaches ``due_ns``."""

    due_ns: Int64
    requests: list[bytes]  # ReportOutcomeRequest

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class Traffic:
    """Everything that the replay needs, ready to send."""

    name: str  # "handbook" or "simulated"
    events: pa.Table  # bulk-load columns of history and week, with every label
    history_rows: int
    week: Rows
    requests: list[bytes]  # one ScoreRequest for each row of the week
    outcomes: Outcomes  # the frauds of the seven days before the week
    late_outcomes: Outcomes  # the week's own frauds, reported after the replay

    @property
    def customers(self) -> Int64:
        """One small integer for each row's customer."""
        return codes(self.week.customer_id)


def find_benchmark(data: str | None) -> Path | None:
    """The folder of the benchmark's files; None where nobody named one and ``../shared/data`` has none.

    Raises ConfigError when --data or $FRAUDGATE_DATA names a folder that does not hold the benchmark.
    """
    for source, named in (("--data", data), ("FRAUDGATE_DATA", os.environ.get("FRAUDGATE_DATA"))):
        if named:
            found = _benchmark_in(Path(named))
            if found is None:
                raise ConfigError(f"{source}: {named} holds no [handbook/]{TRANSACTIONS_FILE}")
            return found
    project = Path(__file__).resolve().parents[3]
    return next(filter(None, (_benchmark_in(place / ".." / "shared" / "data") for place in (Path(), project))), None)


def _benchmark_in(folder: Path) -> Path | None:
    for place in (folder / "handbook", folder):
        if (place / TRANSACTIONS_FILE).is_file():
            return place.resolve()
    return None


def read_benchmark(folder: Path) -> pa.Table:
    """The benchmark's transactions in bulk-load columns, time-sorted, with every label."""
    raw = pq.read_table(folder / TRANSACTIONS_FILE)
    minor = np.rint(raw["TX_AMOUNT"].to_numpy() * 100).astype(np.int64)
    return pa.table(
        {
            "transaction_id": raw["TRANSACTION_ID"].cast(pa.string()),
            "event_time": raw["TX_DATETIME"].cast(pa.timestamp("ns")).cast(EVENT_TIME_TYPE),
            "amount_minor": minor,
            "currency": pa.repeat(CURRENCY, raw.num_rows),
            "customer_id": raw["CUSTOMER_ID"].cast(pa.string()),
            "terminal_id": raw["TERMINAL_ID"].cast(pa.string()),
            "is_fraud": raw["TX_FRAUD"].cast(pa.bool_()),
        }
    )


def prepare(name: str, events: pa.Table, start_ns: int, end_ns: int, rows_max: int | None = None) -> Traffic:
    """Cut ``events`` (bulk-load columns, time-sorted) into history and the replay of [start_ns, end_ns)."""
    times = _int64(events["event_time"])
    start, end = (int(edge) for edge in np.searchsorted(times, [start_ns, end_ns]))
    known = int(np.searchsorted(times, start_ns - LABEL_DELAY_NS))
    if rows_max is not None:
        end = min(end, start + rows_max)
    week = rows_of(events.slice(start, end - start))
    before = rows_of(_frauds(events.slice(known, start - known)))
    return Traffic(
        name=name,
        events=events.slice(0, end),
        history_rows=start,
        week=week,
        requests=score_requests(week),
        outcomes=_outcomes(before),
        late_outcomes=_outcomes(rows_of(_frauds(events.slice(start, end - start)))),
    )


def write_history(traffic: Traffic, path: Path) -> None:
    """Write the history as Parquet for bulk load; labels are null where the fraud is not yet known at its end."""
    history = traffic.events.slice(0, traffic.history_rows).select(HISTORY_COLUMNS)
    times = _int64(history["event_time"])
    known = times < traffic.week.event_time_ns[0] // DAY_NS * DAY_NS - LABEL_DELAY_NS
    labels = pc.if_else(pa.array(known), history["is_fraud"], pa.scalar(None, pa.bool_()))
    pq.write_table(history.set_column(len(HISTORY_COLUMNS) - 1, "is_fraud", labels), path, compression="zstd")


def score_requests(rows: Rows) -> list[bytes]:
    """One serialised ScoreRequest for each row."""
    request = ScoreRequest()
    transaction = request.transaction
    transaction.currency = CURRENCY
    serialised = []
    columns = (
        rows.transaction_id,
        rows.event_time_ns.tolist(),
        rows.amount_minor.tolist(),
        rows.customer_id,
        rows.terminal_id,
    )
    for transaction_id, time_ns, minor, customer_id, terminal_id in zip(*columns, strict=True):
        transaction.transaction_id = transaction_id
        transaction.event_time.seconds, transaction.event_time.nanos = divmod(time_ns, SECOND_NS)
        transaction.amount_minor = minor
        transaction.customer_id = customer_id
        transaction.terminal_id = terminal_id
        serialised.append(request.SerializeToString())
    return serialised


def published_features(folder: Path, traffic: Traffic) -> Float64:
    """The published features of the week's rows: [n, 15], in the order of the data's README."""
    table = pq.read_table(folder / FEATURES_FILE)
    index = pa.array(table["TRANSACTION_ID"].to_numpy().astype(str), pa.string())
    rows = pc.index_in(pa.array(traffic.week.transaction_id), index)
    if rows.null_count:
        raise ConfigError(f"{folder / FEATURES_FILE} lacks {rows.null_count} rows of the replay week")
    taken = table.drop_columns(["TRANSACTION_ID"]).take(rows)
    columns = [column.to_numpy().astype(np.float64) for column in taken.columns]
    return np.column_stack([traffic.week.amount_minor / 100, *columns])


def excused_rows(week: Rows, published: Float64) -> Bool:
    """Rows of one customer and one second that were published in another order than they stand in.

    The customer's 30-day count says which of them was counted first.
    """
    second = codes(week.customer_id) * (1 << 40) + week.event_time_ns // SECOND_NS
    _, group, sizes = np.unique(second, return_inverse=True, return_counts=True)
    excused = np.zeros(len(week), np.bool_)
    for shared in np.flatnonzero(sizes > 1):
        rows = np.flatnonzero(group == shared)
        excused[rows] = bool((np.diff(published[rows, COUNT_30_DAYS]) < 0).any())
    return excused


def codes(values: Sequence[str]) -> Int64:
    """A small integer for each distinct value, in order of first appearance."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), np.int64)


def _frauds(events: pa.Table) -> pa.Table:
    return events.filter(events["is_fraud"])


def _outcomes(frauds: Rows) -> Outcomes:
    due_ns = frauds.event_time_ns + LABEL_DELAY_NS
    requests = []
    for row, transaction_id in enumerate(frauds.transaction_id):
        request = ReportOutcomeRequest(
            transaction_id=transaction_id,
            is_fraud=True,
            customer_id=frauds.customer_id[row],
            terminal_id=frauds.terminal_id[row],
        )
        request.reported_at.FromNanoseconds(int(due_ns[row]))
        request.event_time.FromNanoseconds(int(frauds.event_time_ns[row]))
        requests.append(request.SerializeToString())
    return Outcomes(due_ns, requests)


def rows_of(events: pa.Table) -> Rows:
    """Bulk-load columns with labels as ``Rows``."""
    return Rows(
        transaction_id=events["transaction_id"].to_pylist(),
        event_time_ns=_int64(events["event_time"]),
        amount_minor=_int64(events["amount_minor"]),
        customer_id=events["customer_id"].to_pylist(),
        terminal_id=events["terminal_id"].to_pylist(),
        is_fraud=np.asarray(events["is_fraud"].to_numpy()),
    )


def _int64(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column.cast(pa.int64()).to_numpy())
