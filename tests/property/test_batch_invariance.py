"""Promise 2: a transaction's score has the same bits whatever shares its batch, wherever it lies in it.

``benchmarks/invariance.py`` is the full size, 10,000 rows in 20 contexts each, on the published models.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fraudgate.engines import golden
from fraudgate.engines.invariance import KINDS, PLACES, check_invariance
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, list_models, read_files, read_manifest
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from tests.unit.onnx_graphs import FEATURES, INPUT, OUTPUT, GraphBuilder, engine_of, fp32_graph, int8_graph

REPOSITORY = Path(__file__).parents[2] / "models" / "repository"
PUBLISHED = [REPOSITORY / entry.name / entry.version for entry in list_models(REPOSITORY)]


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)) * 3


@pytest.fixture(scope="module")
def int8_engine() -> OnnxEngine:
    return engine_of(int8_graph())


@pytest.mark.parametrize("graph", [int8_graph(), fp32_graph()], ids=["int8", "fp32"])
def test_a_row_scores_the_same_in_every_context(graph):
    found = check_invariance(engine_of(graph), rows(500), contexts_per_row=20)
    assert found.contexts == 10_000 > KINDS * len(PLACES)
    assert found.places == len(PLACES) == 528
    assert (found.differing_bits, found.differing_rows) == (0, 0)


@pytest.mark.parametrize("model_dir", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_row_scores_the_same_in_every_context_of_a_published_model(model_dir):
    manifest = read_manifest(model_dir)
    engine = OnnxEngine.load(model_dir, manifest.schema_fingerprint)
    features = golden.decode(read_files(model_dir, manifest)[GOLDEN]).features
    found = check_invariance(engine, features.astype(np.float64)[:500], contexts_per_row=20)
    assert (found.rows, found.places, found.differing_bits) == (500, 528, 0)


values = st.floats(width=64, allow_nan=True, allow_infinity=True)
batches = st.integers(1, BATCH_ROWS_MAX).flatmap(lambda fill: hnp.arrays(np.float64, (fill, FEATURES), elements=values))


@settings(max_examples=200, deadline=None)
@given(batches, st.data())
def test_arbitrary_neighbours_do_not_move_a_bit(int8_engine, batch, data):
    row = rows(1, seed=data.draw(st.integers(0, 1_000)))
    slot = data.draw(st.integers(0, len(batch) - 1))
    slab = Slab(FEATURES)
    int8_engine.bind([slab])
    slab.pack(row)
    alone = int8_engine.run(0)[:1].tobytes()
    batch[slot] = row
    slab.pack(batch)
    assert int8_engine.run(0)[slot : slot + 1].tobytes() == alone


def mixing_graph():
    """Scales by the largest value of the batch: what dynamic quantisation does, in float."""
    builder = GraphBuilder()
    largest = builder.node("ReduceMax", [INPUT], "largest", keepdims=0)
    builder.head(builder.node("Div", [INPUT, largest], "scaled"), FEATURES)
    return builder.model()


def slot_graph():
    """One slot of the 32 is special."""
    builder = GraphBuilder()
    builder.head(INPUT, FEATURES)
    builder.nodes[-1].output[0] = "own"
    special = np.ones((BATCH_ROWS_MAX, 1), np.float32)
    special[19] = np.nextafter(np.float32(1), np.float32(0))
    builder.node("Mul", ["own", builder.constant("special", special)], OUTPUT)
    return builder.model()


@pytest.mark.parametrize("graph", [mixing_graph(), slot_graph()], ids=["mixing", "slot"])
def test_the_check_can_fail(graph):
    found = check_invariance(engine_of(graph), rows(50), contexts_per_row=40)
    assert found.differing_bits >= found.differing_rows > 10


def test_every_kind_of_neighbour_meets_every_place():
    from fraudgate.engines.invariance import _contexts

    contexts = _contexts(rows(4), 0)
    met = set()
    for turn in range(KINDS * len(PLACES)):
        fill, slot, _ = next(contexts)
        met.add((fill, slot, (turn + turn // len(PLACES)) % KINDS))
    assert len(met) == KINDS * len(PLACES)
