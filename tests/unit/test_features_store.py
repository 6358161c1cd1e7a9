"""The embedded store: fallbacks, outcomes, profiles, and one batch against many of one row."""

import numpy as np
import pytest

from fraudgate.errors import FeaturesRefused, UnknownTransaction
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.outcomes import PAGE_ENTRIES, DecisionIndex, Place
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import FeatureStore, Outcome
from fraudgate.limits import SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.transaction import Columns, Fallback
from tests.oracles import Event, columns

pytestmark = pytest.mark.usefixtures("implementation")

HANDBOOK = FeatureSchema.named("handbook")
DAY_NS = 86_400 * SECOND_NS
NOON_NS = 1_533_297_600 * SECOND_NS  # Friday 2018-08-03T12:00:00Z
SPAN_NS = 37 * DAY_NS


def payment(
    name: str = "tx", at_ns: int = NOON_NS, amount: int = 1_000, currency: str = "EUR", **ids: str | None
) -> Event:
    ids = {"customer_id": "ann", "terminal_id": "t1"} | ids
    return Event(name, at_ns, amount, currency, {entity: id for entity, id in ids.items() if id})  # noqa: A001


def warm() -> EmbeddedStore:
    return EmbeddedStore(HANDBOOK, coverage_start_ns=NOON_NS - SPAN_NS)


def gather(store: FeatureStore, *made: Event) -> tuple[list[dict[str, float]], list[int]]:
    gathered = store.apply_and_gather(columns(made), range(len(made)))
    return [dict(zip(HANDBOOK.names, row, strict=True)) for row in gathered.values.tolist()], gathered.fallback.tolist()


def test_a_first_payment() -> None:
    [values], [fallback] = gather(warm(), payment())
    assert fallback == Fallback.NONE
    assert values == dict.fromkeys(HANDBOOK.names, 0.0) | {
        "TX_AMOUNT": 10.0,
        **{f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW": 1.0 for days in (1, 7, 30)},
        **{f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW": 10.0 for days in (1, 7, 30)},
    }


@pytest.mark.parametrize(
    ("at", "weekend", "night"),
    [
        ("2018-08-03T23:59:59", 0, 0),
        ("2018-08-04T00:00:00", 1, 1),
        ("2018-08-05T06:59:59", 1, 1),
        ("2018-08-05T07:00:00", 1, 0),
        ("2018-08-06T00:00:00", 0, 1),
    ],
)
def test_weekend_and_night_are_utc(at: str, weekend: int, night: int) -> None:
    at_ns = int(np.datetime64(at, "ns").astype(np.int64))
    [values], _ = gather(warm(), payment(at_ns=at_ns))
    assert (values["TX_DURING_WEEKEND"], values["TX_DURING_NIGHT"]) == (weekend, night)


def test_exactly_a_width_old_is_out_and_exactly_a_delay_old_is_in() -> None:
    store = warm()
    [_, day_later], _ = gather(store, payment("a"), payment("b", NOON_NS + DAY_NS))
    assert day_later["CUSTOMER_ID_NB_TX_1DAY_WINDOW"] == 1
    assert day_later["CUSTOMER_ID_NB_TX_7DAY_WINDOW"] == 2
    [before, week_later], _ = gather(
        store, payment("c", NOON_NS + 7 * DAY_NS - SECOND_NS), payment("d", NOON_NS + 7 * DAY_NS)
    )
    assert before["TERMINAL_ID_NB_TX_1DAY_WINDOW"] == 0
    assert week_later["TERMINAL_ID_NB_TX_1DAY_WINDOW"] == 1


def test_the_second_row_of_a_customer_in_a_batch_sees_the_first_and_not_the_other_way() -> None:
    rows, _ = gather(warm(), payment("a"), payment("b", amount=3_000), payment("c", NOON_NS - SECOND_NS, 2_000))
    assert [row["CUSTOMER_ID_NB_TX_1DAY_WINDOW"] for row in rows] == [1, 2, 1]
    assert [row["CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"] for row in rows] == [10, 20, 20]


def test_an_absent_id_is_flagged_and_leaves_no_trace() -> None:
    store = warm()
    rows, fallback = gather(store, payment("a", terminal_id=None), payment("b", customer_id=None), payment("c"))
    assert fallback == [Fallback.DEFAULTED_FEATURES, Fallback.DEFAULTED_FEATURES, Fallback.NONE]
    assert rows[1]["CUSTOMER_ID_NB_TX_30DAY_WINDOW"] == 0
    assert rows[2]["CUSTOMER_ID_NB_TX_30DAY_WINDOW"] == 2
    assert store.read_entity("terminal_id", "t1").buckets == 1


def test_another_currency_counts_but_adds_nothing_and_does_not_pull_the_mean() -> None:
    rows, fallback = gather(warm(), payment("a"), payment("b", NOON_NS + 1, 9_999, "USD"))
    assert fallback == [Fallback.NONE, Fallback.DEFAULTED_FEATURES]
    assert rows[1]["TX_AMOUNT"] == 0
    assert rows[1]["CUSTOMER_ID_NB_TX_1DAY_WINDOW"] == 2
    assert rows[1]["CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"] == 10


def test_a_window_that_reaches_before_the_coverage_is_stale() -> None:
    store = warm()
    first_covered_ns = NOON_NS - SECOND_NS  # the oldest tick of a window is one after its start
    _, fallback = gather(
        store,
        payment("a", first_covered_ns - SECOND_NS),
        payment("b", first_covered_ns),
        payment("c", first_covered_ns, terminal_id=None),
        payment("d", first_covered_ns - 7 * DAY_NS, customer_id="bob", terminal_id=None),
        payment("e", first_covered_ns - 7 * DAY_NS - SECOND_NS, customer_id="cid", terminal_id=None),
    )
    assert fallback == [
        Fallback.STALE_FEATURES,
        Fallback.NONE,
        Fallback.DEFAULTED_FEATURES,
        Fallback.DEFAULTED_FEATURES,
        Fallback.STALE_FEATURES,  # the worse of the two that applied
    ]


def test_a_cold_store_covers_from_its_first_batch_on() -> None:
    store = EmbeddedStore(HANDBOOK)
    assert store.coverage_start_ns is None
    _, fallback = gather(store, payment("a"), payment("b", NOON_NS - DAY_NS, customer_id="bob"))
    assert fallback == [Fallback.STALE_FEATURES] * 2
    assert store.coverage_start_ns == NOON_NS
    _, fallback = gather(store, payment("c", NOON_NS + SPAN_NS))
    assert fallback == [Fallback.NONE]


def test_a_row_later_than_the_lateness_is_stale() -> None:
    store = EmbeddedStore(HANDBOOK, lateness_seconds_max=3_600, coverage_start_ns=0)
    _, fallback = gather(
        store,
        payment("a"),
        payment("b", NOON_NS - 3_600 * SECOND_NS),
        payment("c", NOON_NS - 3_601 * SECOND_NS),
        payment("d", NOON_NS - 3_601 * SECOND_NS, customer_id="bob", terminal_id="t2"),
    )
    assert fallback == [Fallback.NONE, Fallback.NONE, Fallback.STALE_FEATURES, Fallback.NONE]


def test_only_the_rows_asked_for_are_applied() -> None:
    store = warm()
    batch = columns([payment("a"), payment("b"), payment("c", customer_id="bob")])
    gathered = store.apply_and_gather(batch, [0, 2])
    assert gathered.values.shape == (2, 15)
    assert gathered.values.flags.c_contiguous
    assert store.read_entity("customer_id", "ann").values["CUSTOMER_ID_NB_TX_1DAY_WINDOW"] == 1
    with pytest.raises(UnknownTransaction):
        store.apply_outcome(Outcome("b", True))
    nothing = store.apply_and_gather(batch, [])
    assert (nothing.values.shape, nothing.fallback.shape) == ((0, 15), (0,))


def test_an_outcome_shows_after_the_label_delay_and_can_be_taken_back() -> None:
    store = warm()
    gather(store, payment("a"), payment("b"))
    assert store.apply_outcome(Outcome("a", True))
    assert not store.apply_outcome(Outcome("a", True))
    later = NOON_NS + 7 * DAY_NS
    rows, _ = gather(store, payment("c", later - SECOND_NS), payment("d", later))
    assert [row["TERMINAL_ID_RISK_1DAY_WINDOW"] for row in rows] == [0, 0.5]
    assert store.apply_outcome(Outcome("a", False))
    assert not store.apply_outcome(Outcome("a", False))
    [row], _ = gather(store, payment("e", later))
    assert row["TERMINAL_ID_RISK_1DAY_WINDOW"] == 0


def test_an_outcome_finds_its_transaction_by_ids_and_time_or_by_the_index_or_says_what_to_send() -> None:
    store = warm()
    gather(store, payment("a"), payment("b", terminal_id=None))
    ids = {"customer_id": "ann", "terminal_id": "t1"}
    assert store.apply_outcome(Outcome("elsewhere", True, NOON_NS, ids))
    assert not store.apply_outcome(Outcome("no such tick", True, NOON_NS + DAY_NS, ids))
    assert not store.apply_outcome(Outcome("no such terminal", True, NOON_NS, {"terminal_id": "t9"}))
    assert "t9" not in store.series[1]
    assert store.apply_outcome(Outcome("a", True, NOON_NS, {"customer_id": "ann"}))  # no terminal: the index knows
    assert not store.apply_outcome(Outcome("b", True))  # it had no terminal
    for lost in (Outcome("z", True), Outcome("z", False), Outcome("z", True, NOON_NS)):
        with pytest.raises(UnknownTransaction, match=r"'z' .* send its event_time and terminal_id with the outcome"):
            store.apply_outcome(lost)


TWO_RISKS = FeatureSchema.parse(
    """
    name = "two"
    currency = "EUR"
    feature = [
        {name = "card", kind = "window", entity = "card_id", aggregate = "fraud_share", width = "2s"},
        {name = "device", kind = "window", entity = "device_id", aggregate = "fraud_share", width = "1h"},
        {name = "limit", kind = "profile", entity = "merchant_id", default = 3},
        {name = "age", kind = "profile", entity = "merchant_id", default = 4},
        {name = "score", kind = "attribute", attribute = "score", default = 0.5},
    ]
    """
)


def test_a_reversal_reaches_every_bucket_that_is_still_kept() -> None:
    store = EmbeddedStore(TWO_RISKS, lateness_seconds_max=0, coverage_start_ns=0)
    made = Event("a", NOON_NS, 1, "EUR", {"card_id": "c", "device_id": "d"})
    store.apply_and_gather(columns([made]), [0])
    store.apply_outcome(Outcome("a", True))
    later = Event("b", NOON_NS + 60 * SECOND_NS, 1, "EUR", {"card_id": "c"})
    store.apply_and_gather(columns([later]), [0])
    assert store.apply_outcome(Outcome("a", False))
    assert store.read_entity("device_id", "d").values == {"device": 0}


def test_reports_that_can_no_longer_count_are_forgotten() -> None:
    store = EmbeddedStore(TWO_RISKS, lateness_seconds_max=0, coverage_start_ns=0)
    for i in range(500):
        made = Event(f"tx{i}", NOON_NS + i * SECOND_NS, 1, "EUR", {"card_id": "c"})
        store.apply_and_gather(columns([made]), [0])
        assert store.apply_outcome(Outcome(f"tx{i}", True))
        assert len(store.reported) <= 4


def test_profiles_and_attributes() -> None:
    store = EmbeddedStore(TWO_RISKS, coverage_start_ns=0)
    made = Event("a", NOON_NS, 1, "EUR", {"card_id": "c", "device_id": "d", "merchant_id": "m"})
    store.put_profile("merchant_id", "m", {"limit": 9})
    gathered = store.apply_and_gather(columns([made]), [0])
    assert gathered.values.tolist() == [[0, 0, 9, 4, 0.5]]
    assert gathered.fallback.tolist() == [Fallback.DEFAULTED_FEATURES]
    store.put_profile("merchant_id", "m", {"limit": 8, "age": 7})
    made.attributes = {"score": 0.75, "other": 1}
    gathered = store.apply_and_gather(columns([made]), [0])
    assert gathered.values.tolist() == [[0, 0, 8, 7, 0.75]]
    assert gathered.fallback.tolist() == [Fallback.NONE]  # USD or EUR, no feature reads money
    view = store.read_entity("merchant_id", "new")
    assert (view.values, view.defaulted) == ({"limit": 3, "age": 4}, ["limit", "age"])
    assert (view.latest_event_time_ns, view.buckets) == (None, 0)
    for number in range(100):
        store.put_profile("merchant_id", f"m{number}", {"age": number})
    assert store.read_entity("merchant_id", "m99").values == {"limit": 3, "age": 99}


@pytest.mark.parametrize(
    ("entity", "name", "values", "said"),
    [
        ("card_id", "c", {"limit": 1.0}, "no profile of 'card_id'; it has profiles of: merchant_id"),
        ("merchant_id", "", {"limit": 1.0}, "merchant_id is empty"),
        ("merchant_id", "m", {"limit": 1.0, "lmit": 1.0}, "'lmit' is not a profile .*did you mean 'limit'"),
        ("merchant_id", "m", {"age": 1.0, "limit": float("nan")}, "limit must be finite"),
    ],
)
def test_a_wrong_profile_is_refused_whole(entity: str, name: str, values: dict[str, float], said: str) -> None:
    store = EmbeddedStore(TWO_RISKS)
    with pytest.raises(FeaturesRefused, match=said):
        store.put_profile(entity, name, values)
    assert store.read_entity("merchant_id", "m").defaulted == ["limit", "age"]


def test_an_entity_is_read_at_an_instant() -> None:
    store = warm()
    gather(store, payment("a", NOON_NS + 7), payment("b", NOON_NS + 3 * DAY_NS, 3_000))
    view = store.read_entity("customer_id", "ann", NOON_NS + DAY_NS)
    assert view.values["CUSTOMER_ID_NB_TX_7DAY_WINDOW"] == 1
    view = store.read_entity("customer_id", "ann")
    assert view.values["CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW"] == 20
    assert set(view.values) == {name for name in HANDBOOK.names if name.startswith("CUSTOMER")}
    assert (view.defaulted, view.latest_event_time_ns, view.buckets) == ([], NOON_NS + 3 * DAY_NS, 2)
    with pytest.raises(FeaturesRefused, match="'customer' is not a kind of entity: customer_id, terminal_id"):
        store.read_entity("customer", "ann")


def test_the_decision_index_keeps_the_latest_and_drops_the_oldest_page() -> None:
    index = DecisionIndex(kinds=2, entries_max=2 * PAGE_ENTRIES)
    count = 4 * PAGE_ENTRIES
    for start in range(0, count, 32):
        ticks = np.arange(start, start + 32)
        index.add([f"tx{tick}" for tick in ticks], np.stack([ticks, ticks + 1, np.zeros_like(ticks)], axis=1).tobytes())
    assert 2 * PAGE_ENTRIES <= len(index) <= 3 * PAGE_ENTRIES
    assert index.find("tx0") is None
    assert index.find(f"tx{count - 1}") == Place(count - 1, (count,))
    assert index.find(f"tx{count - 2 * PAGE_ENTRIES}") == Place(
        count - 2 * PAGE_ENTRIES, (count - 2 * PAGE_ENTRIES + 1,)
    )
    index.add(["tx9000", "tx9000"], np.array([[1, 0, 7], [2, 0, 8]]).tobytes())
    assert index.find("tx9000") == Place(2, (8,))
    ids, ticks, series = index.dump()
    copy = DecisionIndex(kinds=2)
    copy.load(ids.to_pylist(), ticks, series)
    assert len(copy) == len(index)
    for name in ("tx9000", "tx10000", f"tx{count - 1}"):
        assert copy.find(name) == index.find(name)


def test_an_id_that_occurs_twice_in_a_sealed_page_is_the_later() -> None:
    index = DecisionIndex(kinds=1)
    ids = ["same"] * PAGE_ENTRIES
    index.add(ids, np.stack([np.arange(PAGE_ENTRIES), np.ones(PAGE_ENTRIES, np.int64)], axis=1).tobytes())
    assert index.find("same") == Place(PAGE_ENTRIES - 1, (1,))


def test_a_batch_equals_its_rows_one_by_one() -> None:
    """Full batches of simulated traffic, shuffled within a few minutes and some days late, on the handbook's schema."""
    table = simulate(7, customers=60, terminals=25, days=50)
    random = np.random.default_rng(7)
    times = table["event_time"].cast("int64").to_numpy()
    times = times - np.where(random.random(len(times)) < 0.05, random.integers(0, 3, len(times)) * DAY_NS, 0)
    order = np.argsort(np.arange(len(times)) + random.normal(0, 4, len(times)))
    rows = table.take(order).to_pylist()
    made = [
        Event(
            row["transaction_id"],
            int(at_ns),
            row["amount_minor"],
            row["currency"] if random.random() > 0.03 else "GBP",
            {name: row[name] for name in ("customer_id", "terminal_id") if random.random() > 0.03},
        )
        for row, at_ns in zip(rows, times[order], strict=True)
    ]
    batched, single = EmbeddedStore(HANDBOOK, coverage_start_ns=0), EmbeddedStore(HANDBOOK, coverage_start_ns=0)
    seen = set()
    for start in range(0, len(made), 32):
        batch: Columns = columns(made[start : start + 32])
        together = batched.apply_and_gather(batch, range(batch.rows))
        for row in range(batch.rows):
            alone = single.apply_and_gather(batch, [row])
            assert alone.values[0].tolist() == together.values[row].tolist()
            assert alone.fallback[0] == together.fallback[row]
        seen.update(together.fallback.tolist())
    assert seen == {Fallback.NONE, Fallback.DEFAULTED_FEATURES, Fallback.STALE_FEATURES}
