"""The embedded store against a list that is scanned: any mixture of batches, history, outcomes and restarts."""

import tempfile
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate import wheel
from fraudgate.errors import UnknownTransaction
from fraudgate.features.embedded import EmbeddedStore
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import Outcome
from fraudgate.limits import AMOUNT_MINOR_MAX, SECOND_NS
from tests.oracles import Event, ListStore, columns, history

SCHEMA = FeatureSchema.parse(
    """
    name = "small"
    currency = "EUR"
    tick = "1s"
    [[feature]]
    name = "amount"
    kind = "amount"
    [[feature]]
    name = "weekend"
    kind = "weekend"
    [[feature]]
    name = "night"
    kind = "hours"
    from = 22
    to = 5
    [[feature]]
    name = "risk"
    kind = "attribute"
    attribute = "risk"
    default = -1
    [[feature]]
    name = "limit"
    kind = "profile"
    entity = "customer_id"
    default = 7
    """
    + "".join(
        f"""
        [[feature]]
        name = "{name}"
        kind = "window"
        entity = "{entity}"
        aggregate = "{aggregate}"
        width = "{width}"
        label_delay = "{delay}"
        empty = {empty}
        """
        for name, entity, aggregate, width, delay, empty in (
            ("c_count", "customer_id", "count", "4s", "0s", 0),
            ("c_sum", "customer_id", "sum", "9s", "0s", -1),
            ("c_mean", "customer_id", "mean", "4s", "0s", -2),
            ("c_mean_late", "customer_id", "mean", "5s", "3s", 0),
            ("c_share", "customer_id", "fraud_share", "9s", "0s", 0.5),
            ("t_share", "terminal_id", "fraud_share", "5s", "3s", 0),
            ("t_count", "terminal_id", "count", "5s", "3s", -3),
        )
    )
)
LATENESS_SECONDS = 4
START = 1_533_340_790  # a Friday, ten seconds before midnight
COVERAGE_NS = (START + 5) * SECOND_NS + 1  # so second 5 is covered in part only


def seconds(spread: int) -> st.SearchStrategy[int]:
    """Times that drift forward with ``spread``, so that many are late, some far too late, and many share a tick."""
    offsets = st.integers(0, 12) | st.sampled_from([0, 3, 6, 6, 12, -9, -16, -40])
    return offsets.map(lambda offset: START + spread + offset)


@cache
def events(spread: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "second": seconds(spread),
            "nanos": st.sampled_from([0, 1, SECOND_NS - 1]),
            "amount": st.sampled_from([0, 1, 105, 999_999, AMOUNT_MINOR_MAX]) | st.integers(0, AMOUNT_MINOR_MAX),
            "currency": st.sampled_from(["EUR", "EUR", "EUR", "USD"]),
            "customer_id": st.sampled_from(["ann", "ann", "bob", None]),
            "terminal_id": st.sampled_from(["t1", "t1", "t2", None]),
            "risk": st.none() | st.floats(-10, 10),
            "is_fraud": st.sampled_from([False, None, True]),
            "chosen": st.sampled_from([True, True, True, False]),
        }
    )


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """What happens to a store, in order."""
    steps: list[tuple[str, Any]] = []
    spread = 0
    for _ in range(draw(st.integers(1, 14))):
        spread += draw(st.sampled_from([0, 0, 2, 6, 25]))
        kind = draw(st.sampled_from(["batch"] * 6 + ["load"] * 2 + ["outcome"] * 4 + ["restart", "profile", "read"]))
        match kind:
            case "batch" | "load":
                steps.append((kind, draw(st.lists(events(spread), min_size=1, max_size=9))))
            case "outcome":
                what = st.tuples(st.integers(0, 2) | st.integers(0, 60), st.booleans(), st.booleans(), events(spread))
                steps.append((kind, draw(what)))
            case "profile":
                steps.append((kind, (draw(st.sampled_from(["ann", "bob"])), draw(st.floats(-5, 5)))))
            case _:
                steps.append((kind, None))
    return steps


class Pair:
    """Both stores, given the same."""

    def __init__(self, native: bool) -> None:
        self.native = native
        self.store = EmbeddedStore(SCHEMA, LATENESS_SECONDS, COVERAGE_NS, outcome_entries_max=10_000, native=native)
        self.oracle = ListStore(SCHEMA, LATENESS_SECONDS, COVERAGE_NS)
        self.made: list[Event] = []

    def make(self, given: dict[str, Any]) -> Event:
        event = Event(
            transaction_id=f"tx{len(self.made)}",
            time_ns=given["second"] * SECOND_NS + given["nanos"],
            amount_minor=given["amount"],
            currency=given["currency"],
            ids={name: given[name] for name in ("customer_id", "terminal_id") if given[name]},
            attributes={} if given["risk"] is None else {"risk": given["risk"]},
        )
        self.made.append(event)
        return event

    def batch(self, given: list[dict[str, Any]]) -> None:
        made = [self.make(each) for each in given]
        rows = [row for row, each in enumerate(given) if each["chosen"]]
        gathered = self.store.apply_and_gather(columns(made), rows)
        assert gathered.values.shape == (len(rows), len(SCHEMA.names))
        for place, row in enumerate(rows):
            values, fallback = self.oracle.apply_and_gather(made[row])
            assert dict(zip(SCHEMA.names, gathered.values[place].tolist(), strict=True)) == dict(
                zip(SCHEMA.names, values, strict=True)
            )
            assert gathered.fallback[place] == fallback

    def load(self, given: list[dict[str, Any]]) -> None:
        made = [self.make(each) for each in given]
        labels = [each["is_fraud"] for each in given]
        assert self.store.bulk_load([history(made, labels)]) == len(made)
        for event, is_fraud in zip(made, labels, strict=True):
            self.oracle.load(event, bool(is_fraud))
        assert self.store.coverage_start_ns == self.oracle.coverage_start_ns

    def outcome(self, what: tuple[int, bool, bool, dict[str, Any]]) -> None:
        number, is_fraud, with_ids, other = what
        event = self.made[number] if number < len(self.made) else None
        name = event.transaction_id if event else "ghost"
        time_ns = event.time_ns if event else other["second"] * SECOND_NS
        ids = event.ids if event else {key: other[key] for key in ("customer_id", "terminal_id") if other[key]}
        outcome = Outcome(name, is_fraud, time_ns, ids) if with_ids else Outcome(name, is_fraud)
        try:
            expected = self.oracle.apply_outcome(name, is_fraud, outcome.event_time_ns, outcome.ids)
        except UnknownTransaction:
            with pytest.raises(UnknownTransaction, match="event_time and customer_id and terminal_id"):
                self.store.apply_outcome(outcome)
            return
        try:
            assert self.store.apply_outcome(outcome) == expected
        except UnknownTransaction:  # the report had expired and was forgotten
            assert not expected

    def restart(self, _: None) -> None:
        with tempfile.TemporaryDirectory() as directory:
            self.store.snapshot(directory)
            options = {"lateness_seconds_max": LATENESS_SECONDS, "native": self.native}
            self.store = EmbeddedStore.restore(directory, SCHEMA, **options)

    def profile(self, what: tuple[str, float]) -> None:
        name, value = what
        self.store.put_profile("customer_id", name, {"limit": value})
        self.oracle.profiles["customer_id", name, "limit"] = value

    def read(self, _: None) -> None:
        for entity, name in (("customer_id", "ann"), ("terminal_id", "t2"), ("customer_id", "nobody")):
            view = self.store.read_entity(entity, name)
            mine = self.oracle.events_of(entity, name)
            latest = self.oracle.latest(entity, name)
            kept = {
                self.oracle.tick(event) for event in mine if self.oracle.keeps(self.oracle.tick(event), entity, name)
            }
            assert view.latest_event_time_ns == (latest * SECOND_NS if mine else None)
            assert view.buckets == len(kept)
            for window in SCHEMA.windows:
                if window.entity == entity:
                    assert view.values[window.name] == self.oracle.window(window, name, latest)


NATIVE = (False, True) if wheel.INSTALLED else (False,)
"""The reference and, where the wheel is installed, the kernel. Drawing takes longest: both are given what is drawn."""


@settings(max_examples=250)
@given(steps=histories())
def test_the_store_equals_a_scanned_list(steps: list[tuple[str, Any]]) -> None:
    for native in NATIVE:
        pair = Pair(native)
        for kind, what in steps:
            getattr(pair, kind)(what)
        pair.read(None)


@pytest.mark.parametrize("native", NATIVE)
@settings(max_examples=60)
@given(
    given_events=st.lists(events(0), min_size=1, max_size=40),
    cut=st.integers(0, 40),
    gap=st.sampled_from([0, 30]),
    order=st.randoms(),
)
def test_bulk_load_equals_row_by_row(
    native: bool, given_events: list[dict[str, Any]], cut: int, gap: int, order: Any
) -> None:
    """Into an empty store or one that has seen later, equal or earlier events; in any order; in any batches."""
    for row, each in enumerate(given_events):
        each["second"] += row + (gap if row > 20 else 0)
    bulk, rows = Pair(native), Pair(native)
    made = [bulk.make(each) for each in given_events]
    labels = [bool(each["is_fraud"]) for each in given_events]
    after = list(range(cut, len(made)))
    order.shuffle(after)
    for store in (bulk.store, rows.store):
        store.apply_and_gather(columns(made[:cut]), range(len(made[:cut])))
    bulk.store.bulk_load([history([made[i] for i in after[:7]], [labels[i] for i in after[:7]])] if after else [])
    bulk.store.bulk_load([history([made[i] for i in after[7:]], [labels[i] for i in after[7:]])] if after[7:] else [])
    for i in after:
        rows.store.apply_and_gather(columns([made[i]]), [0])
        if labels[i] and made[i].ids:
            rows.store.apply_outcome(Outcome(made[i].transaction_id, True, made[i].time_ns, made[i].ids))
    for entity, name in (("customer_id", "ann"), ("customer_id", "bob"), ("terminal_id", "t1"), ("terminal_id", "t2")):
        for second in range(START, START + 90, 7):
            at_ns = second * SECOND_NS
            assert bulk.store.read_entity(entity, name, at_ns) == rows.store.read_entity(entity, name, at_ns)
