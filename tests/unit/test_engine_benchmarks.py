"""The engine's benchmarks at smoke size, so that they cannot rot."""

import numpy as np

from benchmarks import engine, invariance
from fraudgate.engines import golden
from tests.unit.onnx_graphs import FEATURES, engine_of, int8_graph, publish_graph


def test_the_engine_benchmark_names_its_model(tmp_path):
    results = engine.measure([publish_graph(tmp_path, int8_graph())], batches=20, repeats=1)
    assert sorted(results) == ["engine_test_cpu_us_per_batch", "pack_test_cpu_us_per_batch"]
    assert all(value > 0 for value in results.values())


def test_the_newest_version_of_each_model_is_measured(tmp_path):
    for name, version in [("b", "1"), ("a", "1"), ("a", "2")]:
        publish_graph(tmp_path, int8_graph(), name=name, version=version)
    assert engine.newest_versions(tmp_path) == [tmp_path / "a" / "2", tmp_path / "b" / "1"]


def test_the_invariance_benchmark_counts_what_it_tried(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1_024, FEATURES)).astype(np.float32)
    files = {"golden.arrow": golden.encode(golden.record(engine_of(int8_graph()), rows))}
    found = invariance.measure(publish_graph(tmp_path, int8_graph(), files), rows=40, contexts_per_row=20)
    assert (found.rows, found.contexts, found.differing_bits) == (40, 800, 0)


def test_subject_rows_go_on_where_the_golden_ones_end():
    rows = np.arange(12.0).reshape(4, 3)
    assert invariance.subject_rows(rows, 2).tolist() == rows[:2].tolist()
    subjects = invariance.subject_rows(rows, 100)
    assert subjects.shape == (100, 3)
    assert subjects[:4].tolist() == rows.tolist()
    assert all(set(subjects[:, column]) <= set(rows[:, column]) for column in range(3))
