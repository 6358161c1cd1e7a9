"""Seeded traffic for every benchmark: decoded transactions and serialised requests from the project's simulator."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.v1 import scoring_pb2

SEED = 20_261_122
CUSTOMERS, TERMINALS = 5_000, 10_000
DAY_NS = DAY_SECONDS * SECOND_NS


HISTORY_DAYS = 40
"""Long enough to fill every window of the handbook schema, label delay included."""


def history_and(count: int, seed: int = SEED) -> tuple[pa.Table, list[scoring_pb2.Transaction]]:
    """History of ``HISTORY_DAYS`` days for a bulk load, and the ``count`` transactions that follow it."""
    days = HISTORY_DAYS + 2 + count // CUSTOMERS
    table = simulate(seed, CUSTOMERS, TERMINALS, days)
    times_ns = table["event_time"].cast("int64").to_numpy()
    first = int(np.searchsorted(times_ns, times_ns[0] // DAY_NS * DAY_NS + HISTORY_DAYS * DAY_NS))
    return table.slice(0, first), _decoded(table.slice(first), count)


def transactions(count: int, seed: int = SEED) -> list[scoring_pb2.Transaction]:
    """``count`` unique transactions in event order, from as many simulated days as that takes."""
    return _decoded(simulate(seed, CUSTOMERS, TERMINALS, 2 + count // CUSTOMERS), count)


def _decoded(table: pa.Table, count: int) -> list[scoring_pb2.Transaction]:
    if table.num_rows < count:
        raise ValueError(f"the simulator gave {table.num_rows} transactions, {count} are needed")
    rows = table.slice(0, count).to_pydict()
    times_ns = table.slice(0, count)["event_time"].cast("int64").to_pylist()
    made = []
    for i, time_ns in enumerate(times_ns):
        transaction = scoring_pb2.Transaction(
            transaction_id=rows["transaction_id"][i],
            amount_minor=rows["amount_minor"][i],
            currency=rows["currency"][i],
            customer_id=rows["customer_id"][i],
            terminal_id=rows["terminal_id"][i],
        )
        transaction.event_time.seconds, transaction.event_time.nanos = divmod(time_ns, SECOND_NS)
        made.append(transaction)
    return made


def requests(made: Sequence[scoring_pb2.Transaction]) -> list[bytes]:
    """Serialised ScoreRequests."""
    return [scoring_pb2.ScoreRequest(transaction=transaction).SerializeToString() for transaction in made]
