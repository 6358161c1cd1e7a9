"""Golden rows: a host proves that it computes the same bits, or shows that it comes close, or is refused."""

import numpy as np
import pyarrow as pa
import pytest
from onnx import helper

from fraudgate.engines import golden
from fraudgate.engines.golden import Golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import Thresholds
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import (
    FEATURES,
    FINGERPRINT,
    INPUT,
    OUTPUT,
    GraphBuilder,
    engine_of,
    fp32_graph,
    int8_graph,
    publish_graph,
)

INT8 = int8_graph()


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return engine_of(INT8)


@pytest.fixture(scope="module")
def golden_rows(engine) -> Golden:
    return golden.record(engine, np.random.default_rng(0).normal(size=(1_024, FEATURES)).astype(np.float32))


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("sse2 avx avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni", "avx512_vnni"),
        ("avx2 avx512f avx512bw avx512dq avx512vl avx_vnni", "avx512"),
        ("avx2 avx512f", "avx2"),
        ("avx2 avx_vnni", "avx_vnni"),
        ("avx2", "avx2"),
        ("sse4_2 avx", "other"),
        ("", "other"),
    ],
)
def test_the_instruction_set_class_of_a_host(tmp_path, flags, isa):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvmx flags\t: avx2\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert golden.host_isa(cpuinfo) == isa


def test_a_host_that_says_nothing_is_of_the_other_class(tmp_path):
    assert golden.host_isa(tmp_path / "absent") == "other"


def moved(golden_rows: Golden, column: str, by: float, row: int = 5) -> Golden:
    """The same rows with expected scores under another column, one of them moved."""
    (bits,) = golden_rows.bits.values()
    scores = bits.view(np.float32).copy()
    scores[row] += np.float32(by)
    return golden_rows._replace(bits={column: scores.view(np.uint32)})


def test_golden_rows_survive_their_file(golden_rows):
    found = golden.decode(golden.encode(golden_rows))
    assert np.array_equal(found.features, golden_rows.features)
    assert {name: bits.tolist() for name, bits in found.bits.items()} == {
        name: bits.tolist() for name, bits in golden_rows.bits.items()
    }


def test_fp32_scores_stand_beside_the_bits(engine, golden_rows):
    assert golden.decode(golden.encode(golden_rows)).fp32 is None
    fp32 = np.linspace(0, 1, len(golden_rows.features), dtype=np.float32)
    found = golden.decode(golden.encode(golden.record(engine, golden_rows.features, fp32)))
    assert np.array_equal(found.fp32, fp32)
    assert found.bits.keys() == golden_rows.bits.keys()


def test_a_host_with_the_same_bits_is_proved(tmp_path, golden_rows):
    model_dir = publish_graph(tmp_path, INT8, {"golden.arrow": golden.encode(golden_rows)})
    assert OnnxEngine.load(model_dir, FINGERPRINT).info.bit_proved == (golden.host_isa() != "other")


@pytest.mark.skipif(golden.host_isa() == "other", reason="this host's class proves no bits")
def test_one_wrong_bit_on_this_host_refuses_the_load(tmp_path, engine, golden_rows):
    bits = golden_rows.bits[golden.bits_column(engine)].copy()
    bits[7] ^= 1
    wrong = golden_rows._replace(bits={golden.bits_column(engine): bits})
    model_dir = publish_graph(tmp_path, INT8, {"golden.arrow": golden.encode(wrong)})
    with pytest.raises(EngineRefused, match=r"test/1: 1 of 1024 golden rows differ from bits:"):
        OnnxEngine.load(model_dir, FINGERPRINT)


def test_another_host_is_close_but_not_proved(engine, golden_rows):
    for by in (0.0, 9e-6, -9e-6):
        assert golden.check(engine, moved(golden_rows, "bits:1.0.0:avx2", by)) is False


@pytest.mark.parametrize("by", [2e-5, -2e-5, np.nan, np.inf])
def test_another_host_that_is_not_close_is_refused(engine, golden_rows, by):
    with pytest.raises(EngineRefused, match="golden scores move by"):
        golden.check(engine, moved(golden_rows, "bits:1.0.0:avx2", by))


def test_a_decision_that_flips_is_refused_however_close(golden_rows):
    (bits,) = golden_rows.bits.values()
    threshold = float(bits.view(np.float32)[5])
    engine = engine_of(INT8, thresholds=Thresholds(review=threshold, decline=0.999))
    with pytest.raises(EngineRefused, match="1 decisions flip"):
        golden.check(engine, moved(golden_rows, "bits:1.0.0:avx2", -1e-6))


def test_every_column_is_asked(engine, golden_rows):
    near = moved(golden_rows, "bits:1.0.0:avx2", 0.0)
    far = moved(golden_rows, "bits:1.0.0:avx512", 1e-3)
    with pytest.raises(EngineRefused, match=r"bits:1\.0\.0:avx512"):
        golden.check(engine, near._replace(bits=near.bits | far.bits))


def test_a_graph_that_mixes_rows_is_refused(golden_rows):
    builder = GraphBuilder()
    builder.head(INPUT, FEATURES)
    builder.nodes[-1].output[0] = "own"
    mean = builder.node("ReduceMean", ["own", builder.constant("axes", np.array([0]))], "mean")
    builder.node("Mul", ["own", mean], OUTPUT)
    engine = engine_of(builder.model())
    with pytest.raises(EngineRefused, match="depends on its slot or its neighbours"):
        golden.check(engine, golden_rows)


def test_a_score_that_is_no_probability_is_refused(golden_rows):
    builder = GraphBuilder()
    builder.head(INPUT, FEATURES)
    builder.nodes[-1] = helper.make_node("Identity", ["logit"], [OUTPUT])
    with pytest.raises(EngineRefused, match="is not a probability"):
        golden.check(engine_of(builder.model()), golden_rows)


def test_golden_rows_of_another_width_are_refused(golden_rows):
    with pytest.raises(EngineRefused, match="golden rows have 15 features, the graph takes 3"):
        golden.check(engine_of(fp32_graph(features=3)), golden_rows)


def arrow_file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def golden_table(count: int = 1_000, **columns: pa.Array) -> pa.Table:
    inputs = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(count * 2, np.float32)), 2)
    return pa.table({"features": inputs, "bits:1:avx2": pa.array(np.zeros(count, np.uint32)), **columns})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "golden.arrow: "),
        (b"ARROW1 not really", "golden.arrow: "),
        (arrow_file(golden_table())[:-20], "golden.arrow: "),
        (arrow_file(golden_table().drop_columns("features")), "features"),
        (arrow_file(golden_table().drop_columns("bits:1:avx2")), "needs uint32 columns"),
        (arrow_file(golden_table(999)), "at least 1000 rows"),
        (arrow_file(golden_table(0)), "at least 1000 rows"),
        (arrow_file(golden_table(features=pa.array(np.ones(1_000, np.float32)))), "fixed-size list of float"),
        (arrow_file(golden_table(**{"bits:1:avx2": pa.array(np.ones(1_000, np.float32))})), "needs uint32 columns"),
        (arrow_file(golden_table(**{"bits:1:avx2": pa.array([None] * 1_000, pa.uint32())})), "no nulls"),
        (arrow_file(golden_table(fp32=pa.array(np.ones(1_000)))), "fp32 must be float, not double"),
        (arrow_file(golden_table(fp32=pa.array([None] * 1_000, pa.float32()))), "no nulls"),
        (
            arrow_file(
                golden_table(features=pa.FixedSizeListArray.from_arrays(pa.array(np.full(2_000, np.nan, "f4")), 2))
            ),
            "not finite",
        ),
    ],
)
def test_a_golden_file_is_refused_with_its_reason(data, message):
    with pytest.raises(EngineRefused, match=message):
        golden.decode(data)
