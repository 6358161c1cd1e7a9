"""Seeded traffic for every benchmark: decoded transactions and serialised requests from the project's simulator."""

from collections.abc import Sequence

from fraudgate.limits import SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.v1 import scoring_pb2

SEED = 20_261_122
CUSTOMERS, TERMINALS = 5_000, 10_000


def transactions(count: int, seed: int = SEED) -> list[scoring_pb2.Transaction]:
    """``count`` unique transactions in event order, from as many simulated days as that takes."""
    days = 2 + count // CUSTOMERS
    table = simulate(seed, CUSTOMERS, TERMINALS, days)
    if table.num_rows < count:
        raise ValueError(f"the simulator gave {table.num_rows} transactions in {days} days, {count} are needed")
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
