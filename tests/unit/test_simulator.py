"""The simulator: deterministic for a seed, plausible traffic, three kinds of fraud that differ as they should."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraudgate.simulator import simulate
from fraudgate.simulator.fraud import CUSTOMER_DAYS, Kind, compromised
from fraudgate.simulator.population import morton_codes
from fraudgate.simulator.traffic import Traffic, draw_traffic

CUSTOMERS, TERMINALS, DAYS, START = 2_000, 3_000, 40, "2018-06-01"
FIRST_SECOND = int(np.datetime64(START, "s").astype(np.int64))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return simulate(7, CUSTOMERS, TERMINALS, DAYS, START)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return draw_traffic(7, CUSTOMERS, TERMINALS, DAYS, START)


def digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def test_the_same_seed_gives_the_same_bytes(table: pa.Table) -> None:
    assert digest(simulate(7, CUSTOMERS, TERMINALS, DAYS, START)) == digest(table)


def test_another_seed_gives_other_traffic(table: pa.Table) -> None:
    assert digest(simulate(8, CUSTOMERS, TERMINALS, DAYS, START)) != digest(table)


def test_columns(table: pa.Table) -> None:
    assert {field.name: str(field.type) for field in table.schema} == {
        "transaction_id": "string",
        "event_time": "timestamp[ns, tz=UTC]",
        "amount_minor": "int64",
        "currency": "string",
        "customer_id": "string",
        "terminal_id": "string",
        "is_fraud": "bool",
    }
    assert not any(column.null_count for column in table.columns)
    assert pc.unique(table["currency"]).to_pylist() == ["EUR"]
    first = table.slice(0, 1).to_pylist()[0]
    assert first["transaction_id"] == "s7-0000000"
    assert (first["customer_id"][0], len(first["customer_id"])) == ("c", 8)
    assert (first["terminal_id"][0], len(first["terminal_id"])) == ("t", 8)


def test_ids_are_unique_within_a_seed_and_between_seeds(table: pa.Table) -> None:
    ids = set(table["transaction_id"].to_pylist())
    assert len(ids) == table.num_rows
    assert ids.isdisjoint(simulate(8, 100, 100, 5)["transaction_id"].to_pylist())


def test_events_are_in_time_order_in_whole_seconds_within_the_days(table: pa.Table) -> None:
    times_ns = table["event_time"].cast(pa.int64()).to_numpy()
    assert (np.diff(times_ns) >= 0).all()
    assert not (times_ns % 1_000_000_000).any()
    assert times_ns[0] // 1_000_000_000 >= FIRST_SECOND
    assert times_ns[-1] // 1_000_000_000 < FIRST_SECOND + DAYS * 86_400


def test_volume_and_rhythm(traffic: Traffic) -> None:
    assert 1.5 < len(traffic.second) / CUSTOMERS / DAYS < 2.5
    hour = traffic.second % 86_400 // 3_600
    day, night = ((hour >= 9) & (hour < 21)).mean(), (hour < 6).mean()
    assert day > 0.8
    assert 0.01 < night < 0.08
    by_day = np.bincount((traffic.second - FIRST_SECOND) // 86_400, minlength=DAYS)
    weekday = (np.arange(DAYS) + 4) % 7  # 2018-06-01 was a Friday
    assert by_day[weekday >= 5].mean() > 1.15 * by_day[weekday < 5].mean()


def test_amounts_are_the_customers_own(traffic: Traffic) -> None:
    genuine = traffic.kind == Kind.GENUINE
    assert traffic.amount_minor.min() >= 1
    counts = np.bincount(traffic.customer[genuine], minlength=CUSTOMERS)
    sums = np.bincount(traffic.customer[genuine], traffic.amount_minor[genuine], CUSTOMERS)
    often = counts > 20
    own_means = sums[often] / counts[often]
    relative = traffic.amount_minor[genuine] / (sums / np.maximum(counts, 1))[traffic.customer[genuine]]
    assert np.std(own_means) / np.mean(own_means) > 0.4  # customers differ
    assert np.percentile(relative, 99) < 4  # and keep to their habits


def test_customers_shop_near_home(traffic: Traffic) -> None:
    customer = np.bincount(traffic.customer).argmax()
    visited = np.sort(traffic.terminal[traffic.customer == customer])
    assert np.percentile(visited, 90) - np.percentile(visited, 10) < TERMINALS / 10


def test_each_kind_of_fraud_occurs_and_frauds_are_rare(traffic: Traffic) -> None:
    counts = np.bincount(traffic.kind, minlength=4)
    assert (counts[1:] > 20).all()
    assert 0.003 < counts[1:].sum() / len(traffic.kind) < 0.02


def test_large_frauds_are_large_and_terminal_frauds_look_ordinary(traffic: Traffic) -> None:
    medians = [np.median(traffic.amount_minor[traffic.kind == kind]) for kind in Kind]
    assert medians[Kind.LARGE] > 5 * medians[Kind.GENUINE]
    assert 0.5 < medians[Kind.TERMINAL] / medians[Kind.GENUINE] < 2
    assert medians[Kind.CUSTOMER] > 2 * medians[Kind.GENUINE]


def test_terminal_frauds_are_most_of_a_leaking_terminals_day(traffic: Traffic) -> None:
    cell = traffic.terminal * DAYS + (traffic.second - FIRST_SECOND) // 86_400
    leaking = np.isin(cell, np.unique(cell[traffic.kind == Kind.TERMINAL]))
    assert (traffic.kind[leaking] == Kind.TERMINAL).mean() > 0.7


def test_customer_frauds_are_a_third_of_a_stolen_cards_period(traffic: Traffic) -> None:
    taken = traffic.kind == Kind.CUSTOMER
    day = (traffic.second - FIRST_SECOND) // 86_400
    shares = []
    for customer in np.unique(traffic.customer[taken]):
        own = traffic.customer == customer
        first, last = day[own & taken].min(), day[own & taken].max()
        if last - first < CUSTOMER_DAYS[1]:
            shares.append(taken[own & (day >= first) & (day <= last)].mean())
    assert 0.3 < np.mean(shares) < 0.6


def test_periods_are_as_frequent_on_the_first_day_as_later() -> None:
    by_day = compromised(np.random.default_rng(3), 50_000, 60, 1 / 500, (10, 20)).mean(axis=0)
    expected = 1 - np.exp(-14.5 / 500)
    assert np.abs(by_day - expected).max() < 0.15 * expected


def test_periods_keep_to_their_lengths() -> None:
    days = compromised(np.random.default_rng(3), 2_000, 200, 1 / 5_000, (10, 20))
    edges = np.diff(np.pad(days.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    inner = (begins[:, 1] > 0) & (ends[:, 1] < 200)
    lengths = (ends - begins)[inner, 1]
    assert lengths.min() >= 10
    assert np.median(lengths) < 20


def test_near_places_are_near_on_the_curve() -> None:
    places = np.array([[0.0, 0.0], [1 / 65_536, 0.0], [0.0, 1 / 65_536], [0.999, 0.999]])
    assert morton_codes(places).tolist()[:3] == [0, 1, 2]
    assert morton_codes(places)[3] > 1 << 31


def test_an_empty_town_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        simulate(1, 0, 10, 10)
