"""Bulk load and snapshots: what is read, and what is refused with a remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraudgate.errors import FeaturesRefused, SnapshotError
from fraudgate.features import bulk
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Outcome
from fraudgate.limits import SECOND_NS
from fraudgate.simulator import simulate
from tests.oracles import Event, columns

HANDBOOK = FeatureSchema.named("handbook")
NOON_NS = 1_533_297_600 * SECOND_NS
COUNT = "CUSTOMER_ID_NB_TX_30DAY_WINDOW"


def batch(**changes: Any) -> pa.RecordBatch:
    """Two events of one customer, at one terminal, a second apart; the second is a fraud."""
    given: dict[str, Any] = {
        "transaction_id": pa.array(["a", "b"]),
        "event_time": pa.array([NOON_NS, NOON_NS + SECOND_NS], pa.timestamp("ns", "UTC")),
        "amount_minor": pa.array([100, 300]),
        "customer_id": pa.array(["7", "7"]),
        "terminal_id": pa.array(["t", "t"]),
        "is_fraud": pa.array([None, True]),
    }
    given |= changes
    return pa.record_batch({name: column for name, column in given.items() if column is not None})


def loaded(**changes: Any) -> EmbeddedStore:
    store = EmbeddedStore(HANDBOOK)
    assert store.bulk_load([batch(**changes)]) == 2
    return store


def customer(store: EmbeddedStore) -> dict[str, float]:
    return store.read_entity("customer_id", "7").values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transaction_id": None, "is_fraud": None},
        {"customer_id": pa.array([7, 7], pa.int16())},
        {"customer_id": pa.array(["7", "7"]).dictionary_encode()},
        {"customer_id": pa.array(["7", "7"], pa.large_utf8())},
        {"event_time": pa.array([NOON_NS // SECOND_NS, NOON_NS // SECOND_NS + 1], pa.timestamp("s"))},
        {"event_time": pa.array([NOON_NS // 10**6, NOON_NS // 10**6 + 1_000], pa.timestamp("ms", "Europe/Paris"))},
        {"amount_minor": pa.array([100, 300], pa.int32()), "is_fraud": pa.array([0, 1], pa.int8())},
        {"card_id": pa.nulls(2), "terminal_id": pa.nulls(2), "currency": pa.array(["EUR", "EUR"])},
    ],
)
def test_history_comes_in_many_types(changes: dict[str, Any]) -> None:
    store = loaded(**changes)
    assert customer(store)[COUNT] == 2
    assert customer(store)["CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW"] == 2
    assert store.coverage_start_ns == NOON_NS


def test_absent_ids_and_other_currencies() -> None:
    store = loaded(customer_id=pa.array(["7", None]), terminal_id=pa.array(["", "t"]))
    assert customer(store)[COUNT] == 1
    assert store.read_entity("terminal_id", "t").buckets == 1
    store = loaded(currency=pa.array([None, "EUR"]))
    assert customer(store)[COUNT] == 2
    assert customer(store)["CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW"] == 3


def risk(store: EmbeddedStore) -> float:
    return store.read_entity("terminal_id", "t", NOON_NS + 8 * 86_400 * SECOND_NS).values[
        "TERMINAL_ID_RISK_7DAY_WINDOW"
    ]


def test_a_loaded_fraud_counts_as_reported() -> None:
    store = loaded()
    assert risk(store) == 0.5
    assert not store.apply_outcome(Outcome("b", True))
    assert store.apply_outcome(Outcome("b", False))
    assert risk(store) == 0


def test_a_fraud_is_counted_once_however_often_it_is_loaded() -> None:
    assert risk(loaded(transaction_id=pa.array(["b", "b"]), is_fraud=pa.array([True, True]))) == 0.5
    store = loaded()
    store.bulk_load([batch(transaction_id=pa.array(["b", "c"]), is_fraud=pa.array([True, True]))])
    assert risk(store) == 0.5  # b and c of four


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"event_time": None}, "column 'event_time' is missing; there are: transaction_id, amount_minor"),
        ({"amount_minor": None}, "column 'amount_minor' is missing"),
        ({"event_time": pa.array(["x", "y"])}, "column 'event_time' must be a timestamp, not string"),
        ({"event_time": pa.array([1, None], pa.timestamp("s"))}, "column 'event_time' has 1 nulls"),
        ({"event_time": pa.array([1, 2], pa.timestamp("s"))}, "event_time must not be before 2000-01-01"),
        ({"event_time": pa.array([2**60, 2**60], pa.timestamp("s"))}, "out of bounds|overflow"),
        ({"amount_minor": pa.array([1, None])}, "column 'amount_minor' has 1 nulls"),
        ({"amount_minor": pa.array([1, -1])}, "amount_minor must be in 0..1000000000000"),
        ({"amount_minor": pa.array([1, 10**12 + 1])}, "amount_minor must be in 0..1000000000000"),
        ({"amount_minor": pa.array([0.5, 1.0])}, "truncated"),
        ({"is_fraud": pa.array(["maybe", "true"])}, "Failed to parse value: maybe"),
    ],
)
def test_wrong_history_is_refused_with_the_place(changes: dict[str, Any], said: str) -> None:
    store = EmbeddedStore(HANDBOOK)
    with pytest.raises(FeaturesRefused, match=said) as refused:
        store.bulk_load([batch(**changes)])
    assert str(refused.value).startswith("after 0 rows: ")
    assert store.coverage_start_ns is None
    assert store.read_entity("customer_id", "7").buckets == 0


def test_batches_of_any_size_are_loaded_in_chunks_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK_ROWS", 1_000)
    table = simulate(3, customers=40, terminals=30, days=40)
    whole, parts = EmbeddedStore(HANDBOOK), EmbeddedStore(HANDBOOK)
    done: list[int] = []
    assert parts.bulk_load(table.to_batches(333), done.append) == table.num_rows
    monkeypatch.undo()
    assert whole.bulk_load(table.to_batches()) == table.num_rows
    assert done == [*range(1_000, table.num_rows, 1_000), table.num_rows]
    assert parts.coverage_start_ns == whole.coverage_start_ns
    names = {entity: table[entity].unique().to_pylist() for entity in ("customer_id", "terminal_id")}
    for entity, ids in names.items():
        for name in ids:
            assert parts.read_entity(entity, name) == whole.read_entity(entity, name)


def test_dictionaries_may_differ_from_batch_to_batch() -> None:
    store = EmbeddedStore(HANDBOOK)
    store.bulk_load([batch(customer_id=pa.array(names).dictionary_encode()) for names in (["7", "8"], ["9", "7"])])
    assert customer(store)[COUNT] == 2


def test_a_snapshot_is_one_file_and_holds_everything(tmp_path: Path) -> None:
    store = loaded()
    made = [
        Event(f"tx{i}", NOON_NS + i * SECOND_NS, 50, "EUR", {"customer_id": "7", "terminal_id": "t"})
        for i in range(5_000)
    ]
    for start in range(0, len(made), 50):
        store.apply_and_gather(columns(made[start : start + 50]), range(50))
    store.apply_outcome(Outcome("tx5", True))
    path = store.snapshot(tmp_path / "new" / "folder")
    assert [file.name for file in path.parent.iterdir()] == ["features.arrow"]
    store.snapshot(path.parent)
    copy = EmbeddedStore.restore(path.parent, HANDBOOK)
    assert copy.coverage_start_ns == store.coverage_start_ns == NOON_NS
    assert customer(copy) == customer(store)
    assert risk(copy) == risk(store)
    assert len(copy.decisions) == len(store.decisions) == 5_000
    for each in (store, copy):
        assert not each.apply_outcome(Outcome("tx5", True))
        assert each.apply_outcome(Outcome("tx5", False))
        assert each.apply_outcome(Outcome("tx4999", True))
        assert each.apply_outcome(Outcome("b", False))
    assert risk(copy) == risk(store)


def test_an_empty_store_and_one_without_windows_come_back(tmp_path: Path) -> None:
    EmbeddedStore(HANDBOOK).snapshot(tmp_path)
    assert EmbeddedStore.restore(tmp_path, HANDBOOK).coverage_start_ns is None
    plain = FeatureSchema.parse(
        """
        name = "plain"
        currency = "JPY"
        feature = [{name = "yen", kind = "amount"}, {name = "age", kind = "profile", entity = "card_id", default = 1}]
        """
    )
    store = EmbeddedStore(plain)
    store.put_profile("card_id", "c", {"age": 5})
    store.bulk_load([batch()])
    store.snapshot(tmp_path)
    copy = EmbeddedStore.restore(tmp_path, plain)
    gathered = copy.apply_and_gather(columns([Event("a", NOON_NS, 250, "JPY", {"card_id": "c"})]), [0])
    assert gathered.values.tolist() == [[250, 5]]


def test_an_unusable_snapshot_is_refused_with_what_to_delete(tmp_path: Path) -> None:
    path = loaded().snapshot(tmp_path)
    good = path.read_bytes()

    def refused(said: str, schema: FeatureSchema = HANDBOOK, **options: int) -> None:
        with pytest.raises(SnapshotError, match=said) as error:
            EmbeddedStore.restore(tmp_path, schema, **options)
        assert str(path) in str(error.value)

    other = FeatureSchema.parse('name = "o"\ncurrency = "EUR"\nfeature = [{name = "a", kind = "amount"}]')
    refused(f"another feature schema .*now {other.fingerprint[:12]}.* or delete", other)
    refused("keeps events for a lateness of 86400 s, less than the 86401 s", lateness_seconds_max=86_401)
    EmbeddedStore.restore(tmp_path, HANDBOOK, lateness_seconds_max=3_600)
    for cut in (0, 7, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        refused("cannot be read .* delete .* and start cold or from history")
    path.write_bytes(np.random.default_rng(1).bytes(5_000))
    refused("cannot be read")
    with pa.ipc.new_file(path, pa.schema({"x": pa.int64()})) as writer:
        writer.write_batch(pa.record_batch({"x": [1]}))
    refused("is not a feature snapshot of this version")
    path.unlink()
    refused("cannot be read")
