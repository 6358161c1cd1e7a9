"""The kernel of the feature store against the Python code that it stands in for: the same bits, whatever comes."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.errors import UnknownTransaction
from fraudgate.features import embedded, kernel
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.outcomes import DecisionIndex
from fraudgate.features.plan import Plan
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Outcome
from fraudgate.features.windows import FIRST, NEVER, Windows
from fraudgate.limits import AMOUNT_MINOR_MAX, SECOND_NS
from fraudgate.simulator import simulate
from fraudgate.transaction import Columns
from fraudgate.v1 import scoring_pb2
from tests.oracles import Event, columns
from tests.property.test_store_oracle import SCHEMA

pytest.importorskip("fraudgate_ingress", reason="the wheel fraudgate-ingress is not installed")
import fraudgate_ingress
from fraudgate_ingress import WindowKernel, decode_request

HANDBOOK = FeatureSchema.named("handbook")
MANY_EDGES = FeatureSchema.parse(
    """
    name = "many"
    currency = "EUR"
    tick = "10ms"
    feature = [
        {name = "card", kind = "window", entity = "card_id", aggregate = "count", width = "7s"},
    """
    + "".join(
        f'{{name = "c{i}", kind = "window", entity = "customer_id", aggregate = "{aggregate}", width = "{i + 1}s", '
        f'label_delay = "{i % 3 * 500}ms", empty = {i % 2}}},'
        for i, aggregate in enumerate(["count", "sum", "mean", "fraud_share"] * 3)
    )
    + """
    ]
    """
)
COUNTS_ONLY = FeatureSchema.parse(
    """
    name = "counts"
    currency = "EUR"
    feature = [
        {name = "risk", kind = "window", entity = "customer_id", aggregate = "fraud_share", width = "5s"},
        {name = "n", kind = "window", entity = "ip_address", aggregate = "count", width = "3s"},
        {name = "limit", kind = "profile", entity = "merchant_id", default = 3},
    ]
    """
)
START = 1_533_340_790
LATENESS_SECONDS = 4


def with_native(batch: Columns) -> Columns:
    """The same batch with its rows in the front end's memory, where it could hold them: ids that are UTF-8."""
    try:
        made = [
            scoring_pb2.Transaction(
                transaction_id=batch.transaction_id[row],
                amount_minor=batch.amount_minor[row],
                currency=batch.currency[row],
                **{name: column[row] or "" for name, column in batch.ids.items()},
            )
            for row in range(batch.rows)
        ]
        for each, time_ns in zip(made, batch.event_time_ns.tolist(), strict=True):
            each.event_time.FromNanoseconds(time_ns)
    except UnicodeEncodeError:
        return batch
    messages = (scoring_pb2.ScoreRequest(transaction=each).SerializeToString() for each in made)
    stamps = [0] * batch.rows
    return replace(batch, native=fraudgate_ingress.Columns([*map(decode_request, messages)], stamps, stamps))


class Both:
    """A store that uses the kernel and one that does not, given the same; ``buckets``: what their arenas begin with."""

    def __init__(self, schema: FeatureSchema, lateness_seconds: int = LATENESS_SECONDS, buckets: int = 4) -> None:
        with mock.patch.object(embedded, "Windows", partial(Windows, buckets_reserved=buckets)):
            self.native, self.reference = (
                EmbeddedStore(schema, lateness_seconds, native=native) for native in (True, False)
            )
        assert isinstance(self.native._kernel, WindowKernel)
        assert self.reference._kernel is None

    def score(self, batch: Columns, rows: list[int]) -> None:
        native = self.native.apply_and_gather(with_native(batch), rows)
        reference = self.reference.apply_and_gather(batch, rows)
        assert native.values.view(np.int64).tolist() == reference.values.view(np.int64).tolist()
        assert native.fallback.tolist() == reference.fallback.tolist()
        assert self.native.coverage_start_ns == self.reference.coverage_start_ns

    def report(self, outcome: Outcome) -> None:
        said: list[bool | str] = []
        for store in (self.native, self.reference):
            try:
                said.append(store.apply_outcome(outcome))
            except UnknownTransaction as error:
                said.append(str(error))
        assert said[0] == said[1]

    def check(self) -> None:
        for one, other in zip(self.native.windows.dump(), self.reference.windows.dump(), strict=True):
            assert one.tolist() == other.tolist()
        assert self.native.series == self.reference.series
        windows = self.native.windows
        for series in range(windows.series_count):
            offset, limit, last = (int(column[series]) for column in (windows._offset, windows._limit, windows._last))
            assert last < limit == offset + 2 * windows._half[series] - 1
            assert windows._ticks[offset] == FIRST
            assert (np.diff(windows._ticks[offset : last + 1]) > 0).all()
            assert (windows._ticks[last + 1 : limit + 1] == NEVER).all()

    def check_snapshots(self, folder: Path) -> None:
        files = [store.snapshot(folder / name) for store, name in ((self.native, "a"), (self.reference, "b"))]
        assert files[0].read_bytes() == files[1].read_bytes()


IDS = st.sampled_from(["ann", "ann", "bob", "cé", "d" * 64, "e" * 300, "\ud800", "", None])
EVENTS = st.fixed_dictionaries(
    {
        "ms": st.integers(0, 3_000) | st.sampled_from([0, 0, 990, 1_000, 5_000, 60_000, -1_000, -9_000, -40_000]),
        "amount": st.sampled_from([0, 1, AMOUNT_MINOR_MAX]) | st.integers(0, AMOUNT_MINOR_MAX),
        "currency": st.sampled_from(["EUR", "EUR", "EUR", "USD"]),
        "ids": st.fixed_dictionaries({"customer_id": IDS, "terminal_id": IDS, "card_id": IDS, "ip_address": IDS}),
        "chosen": st.sampled_from([True, True, True, False]),
    }
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 6, 25]),
        st.lists(EVENTS, min_size=1, max_size=12),
        st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=3),
    ),
    min_size=1,
    max_size=10,
)


@pytest.mark.parametrize("schema", [SCHEMA, MANY_EDGES, COUNTS_ONLY], ids=lambda schema: schema.name)
@settings(max_examples=120)
@given(steps=STEPS, lateness_seconds=st.sampled_from([0, LATENESS_SECONDS, 3_600]))
def test_every_stream_gives_the_same_bits(schema: FeatureSchema, steps: list[Any], lateness_seconds: int) -> None:
    both = Both(schema, lateness_seconds)
    both.native.set_coverage_start((START + 2) * SECOND_NS)
    both.reference.set_coverage_start((START + 2) * SECOND_NS)
    second, made = START, 0
    for passed, given_events, outcomes in steps:
        second += passed
        batch = [
            Event(
                f"tx{made + i}", second * SECOND_NS + each["ms"] * 10**6, each["amount"], each["currency"], each["ids"]
            )
            for i, each in enumerate(given_events)
        ]
        made += len(batch)
        both.score(columns(batch), [row for row, each in enumerate(given_events) if each["chosen"]])
        for number, is_fraud in outcomes:
            both.report(Outcome(f"tx{number}", is_fraud))
        both.check()


def traffic(seed: int, days: int = 50) -> list[Event]:
    """Simulated traffic on the handbook's schema, shuffled, with late events, absent ids and other currencies."""
    table = simulate(seed, customers=60, terminals=25, days=days)
    random = np.random.default_rng(seed)
    times = table["event_time"].cast("int64").to_numpy()
    times = times - np.where(
        random.random(len(times)) < 0.05, random.integers(0, 3, len(times)) * 86_400 * SECOND_NS, 0
    )
    order = np.argsort(np.arange(len(times)) + random.normal(0, 4, len(times)))
    return [
        Event(
            row["transaction_id"],
            int(at_ns),
            row["amount_minor"],
            row["currency"] if random.random() > 0.03 else "GBP",
            {name: row[name] for name in ("customer_id", "terminal_id") if random.random() > 0.03},
        )
        for row, at_ns in zip(table.take(order).to_pylist(), times[order], strict=True)
    ]


@pytest.mark.parametrize("rows", [1, 32, 500])
def test_simulated_traffic_with_outcomes_gives_the_same_bits_and_snapshots(rows: int, tmp_path: Path) -> None:
    both = Both(HANDBOOK, lateness_seconds=86_400)
    made = traffic(rows)
    random = np.random.default_rng(rows)
    for start in range(0, len(made), rows):
        part = made[start : start + rows]
        both.score(columns(part), list(range(len(part))))
        if random.random() < 0.1:
            both.report(Outcome(part[0].transaction_id, bool(random.random() < 0.7)))
    both.check()
    both.check_snapshots(tmp_path)


def test_the_arena_and_the_table_of_series_grow_under_the_kernel(tmp_path: Path) -> None:
    """5,000 customers, and one whose slot doubles many times, from an arena of four buckets."""
    both = Both(HANDBOOK)
    for start in range(0, 5_000, 50):
        made = [
            Event(
                f"tx{start + i}",
                (START + start + i) * SECOND_NS,
                start + i,
                "EUR",
                {"customer_id": f"customer-{start + i}", "terminal_id": "everybody's"},
            )
            for i in range(50)
        ]
        both.score(columns(made), list(range(50)))
    both.check()
    both.check_snapshots(tmp_path)


def test_one_store_goes_on_where_the_other_stopped(tmp_path: Path) -> None:
    """A kernel starts from what Python left, and Python from what a kernel left."""
    made = traffic(11, days=20)
    half = len(made) // 64 * 32
    whole = Both(HANDBOOK, 86_400)
    for start in range(0, half, 32):
        whole.score(columns(made[start : start + 32]), list(range(32)))
    whole.native.snapshot(tmp_path)
    turned = EmbeddedStore.restore(tmp_path, HANDBOOK, native=False)
    again = EmbeddedStore.restore(tmp_path, HANDBOOK, native=True)
    for start in range(half, len(made) - 32, 32):
        batch = columns(made[start : start + 32])
        values = [store.apply_and_gather(batch, range(32)).values for store in (whole.native, turned, again)]
        assert values[0].tolist() == values[1].tolist() == values[2].tolist()


@settings(max_examples=40)
@given(parts=st.lists(st.tuples(st.booleans(), st.integers(1, 700)), min_size=1, max_size=6))
def test_decisions_are_found_whether_their_ids_came_as_a_list_or_in_the_front_ends_memory(parts: list[Any]) -> None:
    """Pages hold 512 decisions here; ids occur again and again, and the latest counts."""
    made = 0
    with mock.patch("fraudgate.features.outcomes.PAGE_ENTRIES", 512):
        index, reference = DecisionIndex(1), DecisionIndex(1)
        for is_native, rows in parts:
            ids = [f"tx-é{(made + row) * 7 % 1_000}" for row in range(rows)]
            places = np.array([[made + row, row] for row in range(rows)], np.int64).tobytes()
            batch = with_native(columns([Event(name, START * SECOND_NS, 1, "EUR", {}) for name in ids]))
            index.add(batch.native if is_native else ids, places)
            reference.add(ids, places)
            made += rows
        found = [index.find(f"tx-é{number}") for number in range(1_001)]
        assert found == [reference.find(f"tx-é{number}") for number in range(1_001)]
        assert [part.tolist() for part in index.dump()] == [part.tolist() for part in reference.dump()]


def test_a_batch_that_is_refused_leaves_no_trace() -> None:
    both = Both(HANDBOOK)
    good = columns([Event("a", START * SECOND_NS, 5, "EUR", {"customer_id": "ann", "terminal_id": "t"})] * 2)
    both.score(good, [0, 1])
    before = [each.tolist() for each in both.native.windows.dump()]
    for changes in (
        {"amount_minor": np.zeros(2)},
        {"amount_minor": np.zeros(1, np.int64)},
        {"amount_minor": np.zeros(4, np.int64)[::2]},
        {"event_time_ns": np.zeros(3, np.int64)},
        {"ids": good.ids | {"terminal_id": ["t"]}},
        {"ids": good.ids | {"terminal_id": ["t", ["unhashable"]]}},
    ):
        fields = {name: getattr(good, name) for name in Columns.__dataclass_fields__}
        with pytest.raises((ValueError, TypeError, BufferError)):
            both.native.apply_and_gather(Columns(**(fields | changes)), [0, 1])
        assert [each.tolist() for each in both.native.windows.dump()] == before
    both.score(good, [0, 1])


@pytest.mark.parametrize("number", [10**6, 2**62, -1])
def test_a_series_that_does_not_exist_is_refused_before_anything_is_applied(number: int) -> None:
    store = Both(HANDBOOK).native
    store.series[1]["broken"] = number
    made = [
        Event(name, START * SECOND_NS, 5, "EUR", {"customer_id": "ann", "terminal_id": name})
        for name in ("t", "broken")
    ]
    with pytest.raises((RuntimeError, ValueError), match=r"has no slot|negative"):
        store.apply_and_gather(columns(made), [0, 1])
    assert store.windows.dump()[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"tick_ns": 0},
        {"columns": 4},
        {"columns": 6},
        {"features": 14},
        {"fraud_kinds": [2]},
        {"id_columns": [2]},
        {"id_columns": [2, 8]},
        {"edges": [(0, 0)]},
        {"edges": [(0, 1), (1, 0), (0, 2), (0, 0)]},
        {"terms": [(0, "median", 0, 1, 0.0)]},
        {"terms": [(0, "count", 0, 99, 0.0)]},
        {"calendar": [(1, [0.0] * 167)]},
        {"amounts": [15]},
    ],
)
def test_a_program_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    plan = Plan(HANDBOOK)
    good = kernel.program(plan, [10, 10], 5)
    windows = Windows(plan.columns, buckets_reserved=8)
    WindowKernel(windows, [{}, {}], good)
    fields = {name: getattr(good, name) for name in kernel.Program.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"out of range|not an aggregate"):
        WindowKernel(windows, [{}, {}], kernel.Program(**(fields | changes)))
