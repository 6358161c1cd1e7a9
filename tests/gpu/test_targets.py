"""The published models on a GPU: ONNX Runtime's providers, and native plans. A test that cannot run says why."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from fraudgate.engines import cuda, golden
from fraudgate.engines.extras import need
from fraudgate.engines.invariance import check_invariance
from fraudgate.engines.loading import opened
from fraudgate.engines.onnxruntime import PROVIDERS, OnnxEngine
from fraudgate.engines.plan import MODULES, compile_plan, named_capabilities, plan_name, write_plan
from fraudgate.engines.repository import GOLDEN, MODEL, read_files, read_manifest, read_version
from fraudgate.engines.tensorrt import TensorRTEngine
from fraudgate.errors import EngineRefused
from fraudgate.tensors import Slab

pytestmark = pytest.mark.gpu
REPOSITORY = Path(__file__).resolve().parents[2] / "models" / "repository"
PUBLISHED = sorted(path.parent for path in REPOSITORY.glob("*/*/manifest.json"))


def needed(module: str) -> None:
    try:
        need(module)
    except EngineRefused as refusal:
        pytest.skip(str(refusal))


@pytest.fixture(params=["cuda", "tensorrt"])
def provider(request) -> str:
    if PROVIDERS[request.param] not in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no provider {request.param}: it needs fraudgate[gpu] in place of [cpu]")
    return request.param


@pytest.fixture(scope="module", params=["tensorrt", "rtx"])
def target(request) -> str:
    needed(MODULES[request.param])
    needed("onnx")
    try:
        cuda.device_count()
    except EngineRefused as refusal:
        pytest.skip(str(refusal))
    return request.param


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda path: path.parent.name)
def model_dir(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def native(target, model_dir, tmp_path_factory) -> TensorRTEngine:
    manifest = read_manifest(model_dir)
    model = read_files(model_dir, manifest)[MODEL]
    capability = cuda.compute_capability() if target == "rtx" else None
    if capability and capability not in named_capabilities(need(MODULES["rtx"])):
        pytest.skip(f"TensorRT for RTX knows no compute capability {capability}: it needs an RTX GPU")
    plans = tmp_path_factory.mktemp("plans")
    write_plan(plans / plan_name(manifest, target), compile_plan(model, manifest, target, capability))
    engine = opened(read_version(model_dir), manifest.schema_fingerprint, f"{target}-plan", plan_dir=plans)
    assert isinstance(engine, TensorRTEngine)
    return engine


def golden_rows(model_dir: Path) -> golden.Golden:
    return golden.decode(read_files(model_dir, read_manifest(model_dir))[GOLDEN])


def test_a_provider_gives_the_golden_scores_and_keeps_its_engine(provider, model_dir, tmp_path):
    fingerprint = read_manifest(model_dir).schema_fingerprint
    engine = OnnxEngine.load(model_dir, fingerprint, provider, cache_dir=tmp_path / "cache")
    assert engine.info.provider == provider
    kept = {path.suffix for path in (tmp_path / "cache").rglob("*")}
    assert provider == "cuda" or {".engine", ".timing"} <= kept


def test_a_plan_gives_the_golden_scores(native, model_dir):
    # Loading has checked them already; this says which engine it was.
    assert native.info.provider in MODULES
    golden.check(native, golden_rows(model_dir))


def test_a_plan_knows_neither_neighbours_nor_places(native, model_dir):
    rows = golden_rows(model_dir).features.astype(np.float64)[:1_000]
    assert check_invariance(native, rows).differing_bits == 0


def test_two_slots_do_not_share_memory(native):
    slabs = [Slab(native.features), Slab(native.features)]
    slabs[1].pack(np.full((32, native.features), 1e3))
    native.bind(slabs)
    first = native.run(0).copy()
    assert not np.array_equal(native.run(1), first)
    assert np.array_equal(native.run(0), first)


def test_a_feature_that_is_not_finite_gives_no_score(native):
    slab = Slab(native.features)
    rows = np.zeros((2, native.features))
    rows[1, 0] = np.nan
    slab.pack(rows)
    native.bind([slab])
    assert np.isnan(native.run(0)[:2]).tolist() == [False, True]


def test_timings_are_kept_and_read(model_dir, tmp_path):
    needed("tensorrt")
    needed("onnx")
    try:
        cuda.device_count()
    except EngineRefused as refusal:
        pytest.skip(str(refusal))
    manifest = read_manifest(model_dir)
    timings = tmp_path / "tensorrt.timings"
    model = read_files(model_dir, manifest)[MODEL]
    compile_plan(model, manifest, "tensorrt", timing_cache=timings)
    assert timings.stat().st_size > 0
    compile_plan(model, manifest, "tensorrt", timing_cache=timings)
