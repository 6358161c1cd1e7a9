"""Seeded card traffic: customers who shop near home on their own habits, and fraud laid over it."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudgate.limits import AMOUNT_MINOR_MAX, DAY_SECONDS, SECOND_NS
from fraudgate.simulator.fraud import lay_frauds
from fraudgate.simulator.population import Customers, draw_customers, draw_terminals, shop_near
from fraudgate.transaction import Float64, Int64, UInt8

CURRENCY = "EUR"
WEEKEND_FACTOR = 1.25
HUMPS = ((12.5, 2.5, 0.45), (18.5, 2.0, 0.45))  # hour, spread in hours, share of purchases; the rest is spread evenly


class Traffic(NamedTuple):
    """Transactions in time order; every array is [n]."""

    second: Int64  # since 1970
    customer: Int64  # number
    terminal: Int64  # number
    amount_minor: Int64
    kind: UInt8  # simulator.fraud.Kind


def simulate(seed: int, customers: int, terminals: int, days: int, start: str = "2018-04-01") -> pa.Table:
    """Card traffic of ``days`` days from ``start`` (a date, UTC), the same for the same arguments, sorted by time.

    Columns: transaction_id utf8, event_time timestamp[ns, UTC] in whole seconds, amount_minor int64, currency utf8,
    customer_id utf8, terminal_id utf8, is_fraud bool; none has nulls. About 1.9 rows a customer and day.
    """
    traffic = draw_traffic(seed, customers, terminals, days, start)
    columns = {
        "transaction_id": _names(f"s{seed}-", np.arange(len(traffic.second))),
        "event_time": pa.array(traffic.second * SECOND_NS, pa.timestamp("ns", tz="UTC")),
        "amount_minor": pa.array(traffic.amount_minor),
        "currency": pa.repeat(CURRENCY, len(traffic.second)),
        "customer_id": _names("c", np.arange(customers)).take(pa.array(traffic.customer)),
        "terminal_id": _names("t", np.arange(terminals)).take(pa.array(traffic.terminal)),
        "is_fraud": pa.array(traffic.kind != 0),
    }
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def draw_traffic(seed: int, customers: int, terminals: int, days: int, start: str = "2018-04-01") -> Traffic:
    """The traffic of ``simulate`` as numbers, with the kind of each fraud. Raises ValueError for an empty town."""
    if min(customers, terminals, days) < 1:
        raise ValueError("customers, terminals and days have to be at least 1")
    town, shopping, crime = np.random.default_rng(seed).spawn(3)
    terminal_codes = draw_terminals(town, terminals)
    people = draw_customers(town, customers, terminal_codes)
    first_day = int(np.datetime64(start, "D").astype(np.int64))
    customer, day = _purchases(shopping, people, days, first_day)
    second = (first_day + day) * DAY_SECONDS + _second_of_day(shopping, len(day))
    terminal = shop_near(shopping, people.home[customer], terminals)
    amount = _amounts(shopping, people, customer)
    amount, kind = lay_frauds(crime, amount, day, customer, terminal, (customers, terminals, days))
    amount_minor = np.clip(np.rint(amount * 100), 1, AMOUNT_MINOR_MAX).astype(np.int64)
    order = np.argsort(second, kind="stable")
    return Traffic(second[order], customer[order], terminal[order], amount_minor[order], kind[order])


def _purchases(rng: np.random.Generator, people: Customers, days: int, first_day: int) -> tuple[Int64, Int64]:
    """Who buys on which day (0-based): customer and day of each purchase."""
    weekday = (np.arange(first_day, first_day + days) + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    factor = np.where(weekday >= 5, WEEKEND_FACTOR, 1.0)
    counts = rng.poisson(people.daily_rate[:, None] * factor)
    cell = np.repeat(np.arange(counts.size), counts.ravel())
    return cell // days, cell % days


def _second_of_day(rng: np.random.Generator, rows: int) -> Int64:
    hours = rng.uniform(0.0, 24.0, rows)
    pick = rng.random(rows)
    floor = 0.0
    for hour, spread, share in HUMPS:
        chosen = (pick >= floor) & (pick < floor + share)
        hours[chosen] = rng.normal(hour, spread, int(chosen.sum()))
        floor += share
    return (np.floor(hours * 3600) % DAY_SECONDS).astype(np.int64)


def _amounts(rng: np.random.Generator, people: Customers, customer: Int64) -> Float64:
    """Amounts in major units: a gamma distribution with the customer's own mean and standard deviation."""
    mean, std = people.amount_mean[customer], people.amount_std[customer]
    return rng.gamma((mean / std) ** 2, std**2 / mean)


def _names(prefix: str, numbers: Int64) -> pa.Array:
    """Ids such as c0000123, utf8 [n]."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.utf8()), 7, "0")
    return pc.binary_join_element_wise(prefix, digits, "")
