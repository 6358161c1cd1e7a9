"""ONNX Runtime as an engine: what it computes and what it refuses to load."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import PROVIDERS, OnnxEngine
from fraudgate.engines.repository import Tensor, Thresholds
from fraudgate.errors import EngineFailed, EngineRefused
from fraudgate.tensors import ALIGNMENT_BYTES, Slab
from tests.unit.onnx_graphs import (
    FEATURES,
    FINGERPRINT,
    INPUT,
    OUTPUT,
    GraphBuilder,
    dynamic_graph,
    engine_of,
    fp32_graph,
    int8_graph,
    manifest_for,
    publish_graph,
)

INT8, FP32 = int8_graph(), fp32_graph()


def rows(count: int, seed: int = 0, features: int = FEATURES) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


def packed(values: np.ndarray) -> Slab:
    slab = Slab(values.shape[1])
    slab.pack(values)
    return slab


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return engine_of(INT8)


# Running


# INT8: a sum in another order may round one activation to its neighbour, 1/255 away.
@pytest.mark.parametrize(("model", "tolerance"), [(FP32, 1e-6), (INT8, 1e-3)], ids=["fp32", "int8"])
def test_scores_are_those_of_the_onnx_reference(model, tolerance):
    slab = packed(rows(32))
    engine = engine_of(model)
    engine.bind([slab])
    (expected,) = ReferenceEvaluator(model).run(None, {INPUT: slab.array.copy()})
    assert np.abs(engine.run(0) - expected[:, 0]).max() <= tolerance


def test_two_slabs_are_bound_at_once(engine):
    slabs = [packed(rows(32, seed=1)), packed(rows(32, seed=2))]
    expected = [golden.score(engine, slab.array.astype(np.float64)).tobytes() for slab in slabs]
    engine.bind(slabs)
    first, second = engine.run(0), engine.run(1)
    assert [first.tobytes(), second.tobytes()] == expected
    engine.run(1)
    assert first.tobytes() == expected[0]


def test_the_engine_reads_the_slab_where_it_lies(engine):
    slab = packed(rows(32, seed=1))
    engine.bind([slab])
    scores = engine.run(0)
    before = scores.copy()
    slab.pack(rows(32, seed=2))
    assert engine.run(0) is scores
    assert not np.array_equal(scores, before)
    assert (scores.shape, scores.dtype) == ((32,), np.float32)
    assert scores.ctypes.data % ALIGNMENT_BYTES == 0


def test_binding_again_forgets_the_earlier_slots(engine):
    engine.bind([packed(rows(1)), packed(rows(2))])
    engine.bind([packed(rows(1))])
    engine.run(0)
    with pytest.raises(IndexError):
        engine.run(1)


def test_a_bound_slab_lives_as_long_as_its_slot(engine):
    engine.bind([packed(rows(32, seed=3))])
    [np.full((32, FEATURES), np.nan, np.float32) for _ in range(100)]
    assert np.isfinite(engine.run(0)).all()


def test_a_slab_of_another_width_is_our_mistake(engine):
    with pytest.raises(AssertionError, match="another width"):
        engine.bind([Slab(FEATURES + 1)])


def test_a_run_that_fails_says_so_and_the_next_one_works():
    builder = GraphBuilder(features=1)
    builder.constant("table", np.linspace(0, 1, 4, dtype=np.float32))
    index = builder.node("Cast", [INPUT], "index", to=TensorProto.INT64)
    builder.node("Gather", ["table", index], OUTPUT)
    engine = engine_of(builder.model())
    slab = Slab(1)
    engine.bind([slab])
    slab.pack(np.array([[2.0], [99.0]]))
    with pytest.raises(EngineFailed, match=r"test/1: .*out of data bounds"):
        engine.run(0)
    slab.pack(np.array([[2.0], [3.0]]))
    assert engine.run(0)[:3].tolist() == [np.float32(2 / 3), 1.0, 0.0]


def test_a_graph_that_fails_on_zeros_is_refused():
    builder = GraphBuilder(features=1)
    builder.constant("table", np.ones(1, np.float32))
    builder.constant("one", np.int64(1))
    index = builder.node("Add", [builder.node("Cast", [INPUT], "index", to=TensorProto.INT64), "one"], "next")
    builder.node("Gather", ["table", index], OUTPUT)
    with pytest.raises(EngineRefused, match="a run on zeros failed"):
        engine_of(builder.model())


def test_one_thread_that_does_not_spin(engine):
    options = engine._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    for pool in ("intra", "inter"):
        assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("level", "expected"), [("all", "ENABLE_ALL"), ("extended", "ENABLE_EXTENDED"), ("disabled", "DISABLE_ALL")]
)
def test_the_manifest_fixes_the_optimisation_level(level, expected):
    options = engine_of(FP32, graph_optimisation=level)._session.get_session_options()
    assert options.graph_optimization_level.name == f"ORT_{expected}"


def test_the_engine_says_what_it_is(tmp_path):
    engine = OnnxEngine.load(publish_graph(tmp_path, INT8), FINGERPRINT)
    info = engine.info
    assert (info.name, info.version, info.precision, info.provider) == ("test", "1", "int8", "cpu")
    assert (info.schema_fingerprint, info.thresholds) == (FINGERPRINT, Thresholds(0.4, 0.6))
    assert (info.runtime, info.isa) == (ort.__version__, golden.host_isa())
    assert len(info.engine_digest) == 64
    assert not info.bit_proved
    assert engine.run_ns > 0
    assert repr(engine).startswith("<OnnxEngine test/1 int8 cpu ")


# Refusing


def reshaped(output: str) -> GraphBuilder:
    builder = GraphBuilder()
    builder.head(INPUT, FEATURES)
    builder.nodes[-1].output[0] = "column"
    return builder


def score_of_shape(*shape: int):
    builder = reshaped("column")
    builder.node("Reshape", ["column", builder.constant("shape", np.array(shape, np.int64))], OUTPUT)
    return builder.model(output_shape=shape)


def score_of_type(data_type: int):
    builder = reshaped("column")
    builder.node("Cast", ["column"], OUTPUT, to=data_type)
    model = builder.model()
    model.graph.output[0].type.tensor_type.elem_type = data_type
    return model


def two_outputs():
    builder = GraphBuilder()
    builder.head(INPUT, FEATURES)
    return builder.model(outputs=[helper.make_tensor_value_info("logit", TensorProto.FLOAT, (32, 1))])


def two_inputs():
    model = fp32_graph()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (32, 1)))
    return model


def float64_input():
    builder = GraphBuilder()
    builder.head(builder.node("Cast", [INPUT], "cast", to=TensorProto.FLOAT), FEATURES)
    model = builder.model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dynamic_graph(), "quantise statically"),
        (fp32_graph(input_shape=("N", FEATURES), output_shape=("N", 1)), "needs one input float32"),
        (fp32_graph(input_shape=(64, FEATURES), output_shape=(64, 1)), "needs one input float32"),
        (float64_input(), "needs one input float32"),
        (two_inputs(), "needs one input float32"),
        (score_of_shape(32), "needs one output, the score"),
        (score_of_shape(1, 32), "needs one output, the score"),
        (score_of_shape(16, 2), "needs one output, the score"),
        (score_of_type(TensorProto.DOUBLE), "needs one output, the score"),
        (score_of_type(TensorProto.FLOAT16), "needs one output, the score"),
        (two_outputs(), "needs one output, the score"),
    ],
)
def test_a_graph_is_refused_with_its_reason(model, message):
    with pytest.raises(EngineRefused, match=message):
        engine_of(model)


@pytest.mark.parametrize("data", [b"", b"not a model", FP32.SerializeToString()[:-40]])
def test_bytes_that_are_no_graph_are_refused(data):
    with pytest.raises(EngineRefused):
        OnnxEngine(data, manifest_for(FP32))


def test_an_operator_that_the_runtime_does_not_know_is_refused():
    builder = GraphBuilder()
    builder.node("NoSuchOperator", [INPUT], OUTPUT)
    with pytest.raises(EngineRefused, match="does not take the graph"):
        engine_of(builder.model())


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (Tensor(INPUT, "float32", (32, 14)),)},
        {"inputs": (Tensor("x", "float32", (32, FEATURES)),)},
        {"outputs": (Tensor(OUTPUT, "float16", (32, 1)),)},
        {"outputs": ()},
    ],
)
def test_a_graph_that_its_manifest_does_not_describe_is_refused(change):
    with pytest.raises(EngineRefused, match="the manifest says"):
        engine_of(FP32, **change)


def test_another_schema_is_refused(tmp_path):
    model_dir = publish_graph(tmp_path, FP32)
    with pytest.raises(EngineRefused, match=r"test/1: trained on feature schema f{64}, but e{64} is served"):
        OnnxEngine.load(model_dir, "e" * 64)


def test_changed_bytes_are_refused(tmp_path):
    model_dir = publish_graph(tmp_path, FP32)
    (model_dir / "model.onnx").write_bytes(INT8.SerializeToString())
    with pytest.raises(EngineRefused, match="has SHA-256"):
        OnnxEngine.load(model_dir, FINGERPRINT)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_another_provider_than_the_one_asked_for_is_refused(tmp_path, provider):
    if PROVIDERS[provider] in ort.get_available_providers():
        pytest.skip(f"this runtime has the provider {provider}")
    model_dir = publish_graph(tmp_path, FP32)
    with pytest.raises(EngineRefused, match=f"provider '{provider}' was asked for and is not at hand"):
        OnnxEngine.load(model_dir, FINGERPRINT, provider)
    assert OnnxEngine.load(model_dir, FINGERPRINT, provider, allow_fallback=True).info.provider == "cpu"


def test_an_unknown_provider_is_refused_even_with_the_fallback(tmp_path):
    with pytest.raises(EngineRefused, match="choose one of cpu, cuda, tensorrt"):
        OnnxEngine.load(publish_graph(tmp_path, FP32), FINGERPRINT, "npu", allow_fallback=True)


def test_a_session_that_fell_back_by_itself_is_refused(tmp_path, monkeypatch):
    # A runtime with GPU providers on a machine without a GPU: it lists CUDA and gives a CPU session.
    model_dir = publish_graph(tmp_path, FP32)
    session = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda model, options, **_: session(model, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(EngineRefused, match="not at hand"):
        OnnxEngine.load(model_dir, FINGERPRINT, "cuda")
    assert OnnxEngine.load(model_dir, FINGERPRINT, "cuda", allow_fallback=True).info.provider == "cpu"
