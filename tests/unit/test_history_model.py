"""The schema with longer windows and the published model that is given it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraudgate.drift.reference import SCORE, Reference
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import DRIFT, resolve
from fraudgate.errors import EngineRefused
from fraudgate.features.schema import FeatureSchema, Window
from fraudgate.limits import DAY_SECONDS, SECOND_NS
from fraudgate.simulator import simulate
from models.dataset import HISTORY_SCHEMA, SCHEMA, day_number, replay
from models.ramps import HISTORY_STARTS, ramp_layer

MODEL = "handbook-history"
REPOSITORY = Path(__file__).parents[2] / "models" / "repository"


def naive(window: Window, events: pa.Table, row: int) -> float:
    """The window of one row, of all rows up to it: every label in it is old enough to be known."""
    past = events.slice(0, row + 1)
    seconds = past["event_time"].cast(pa.int64()).to_numpy() // SECOND_NS
    until = seconds[row] - window.label_delay_ns // SECOND_NS
    names = past[window.entity].to_numpy().astype(str)
    inside = (names == names[row]) & (until - window.width_ns // SECOND_NS < seconds) & (seconds <= until)
    if not inside.any():
        return 0.0
    match window.aggregate:
        case "count":
            return float(inside.sum())
        case "mean":
            return float(past["amount_minor"].to_numpy()[inside].sum() / inside.sum() / 100)
        case _:
            return float(np.asarray(past["is_fraud"])[inside].mean())


def test_the_store_gathers_its_windows_as_a_plain_scan_does() -> None:
    events = simulate(8, 60, 20, 60, "2018-06-01")
    found = replay(events, day_number("2018-07-28"))
    wider = replay(events, day_number("2018-07-28"), HISTORY_SCHEMA)
    assert np.array_equal(wider.features[:, : len(SCHEMA.names)], found.features)
    first, chosen = events.num_rows - len(wider), range(0, len(wider), max(1, len(wider) // 40))
    for column, feature in enumerate(HISTORY_SCHEMA.features):
        if isinstance(feature, Window):
            expected = [naive(feature, events, first + row) for row in chosen]
            np.testing.assert_allclose(wider.features[chosen, column], expected, rtol=0, atol=1e-9)
            assert len(set(expected)) > 1, feature.name


def test_the_schema_begins_as_the_handbooks_does() -> None:
    assert HISTORY_SCHEMA.features[: len(SCHEMA.names)] == SCHEMA.features
    delays = {feature.label_delay_ns for feature in HISTORY_SCHEMA.windows if feature.aggregate == "fraud_share"}
    assert delays == {7 * DAY_SECONDS * SECOND_NS}  # no fraud share sees a label before it is known


def test_every_feature_but_the_calendars_has_a_ramp() -> None:
    unseen = ramp_layer(HISTORY_STARTS).weight.any(axis=1) == 0
    assert np.array(HISTORY_SCHEMA.names)[unseen].tolist() == ["TX_DURING_WEEKEND", "TX_DURING_NIGHT"]


def test_the_published_model_loads_with_its_schema_and_with_no_other() -> None:
    directory, schema = resolve(REPOSITORY, MODEL), FeatureSchema.named("handbook_history")
    engine = OnnxEngine.load(directory, schema.fingerprint)
    assert engine.features == len(schema.names)
    reference = Reference.from_json((directory / DRIFT).read_bytes(), schema.names)
    assert reference.names == (*schema.names, SCORE)
    with pytest.raises(EngineRefused, match="schema"):
        OnnxEngine.load(directory, SCHEMA.fingerprint)
