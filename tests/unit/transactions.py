"""Valid transactions, one change at a time, and request batches of them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fraudgate.frontend.codec import request_batch, request_columns
from fraudgate.limits import SECOND_NS
from fraudgate.transaction import ENTITIES, Columns, open_batch
from fraudgate.v1.scoring_pb2 import Transaction

EVENT_TIME_NS = 1_533_700_000 * SECOND_NS  # 8 August 2018
ARRIVAL_NS = 1_000


def transaction(**changes: Any) -> Transaction:
    """A clean transaction with every id; ``event_time_ns`` is an integer, None leaves the time out."""
    event_time_ns = changes.pop("event_time_ns", EVENT_TIME_NS)
    fields: dict[str, Any] = {"transaction_id": "tx-1", "amount_minor": 1_250, "currency": "EUR"}
    fields |= {name: f"{name}-1" for name in ENTITIES}
    made = Transaction(**fields | changes)
    if event_time_ns is not None:
        made.event_time.FromNanoseconds(event_time_ns)
    return made


def numbered(count: int, start: int = 0, **changes: Any) -> list[Transaction]:
    """Transactions tx-START and on."""
    return [transaction(transaction_id=f"tx-{start + i}", **changes) for i in range(count)]


def batch_of(
    transactions: Sequence[Transaction], arrival_ns: int = ARRIVAL_NS, deadlines_ns: Sequence[int] = ()
) -> pa.RecordBatch:
    """A request batch that arrived in one instant."""
    rows = len(transactions)
    return request_batch(request_columns(transactions, [arrival_ns] * rows, deadlines_ns or [0] * rows))


def columns_of(*transactions: Transaction) -> Columns:
    """The opened batch."""
    return open_batch(batch_of(transactions))
