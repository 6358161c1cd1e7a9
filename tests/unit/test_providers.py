"""Options of ONNX Runtime's providers, and the directory in which TensorRT keeps engines."""

from pathlib import Path

import onnxruntime as ort
import pytest

from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.providers import engine_cache, make_private, provider_options
from fraudgate.engines.signed import signed_activations
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import int8_graph, manifest_for

INT8 = int8_graph()


def test_the_cpu_takes_no_options(tmp_path):
    assert provider_options("cpu", tmp_path) == {}


def test_cuda_keeps_float_layers_in_float32(tmp_path):
    options = provider_options("cuda", tmp_path, device=1)
    assert (options["device_id"], options["use_tf32"]) == ("1", "0")


def test_tensorrt_takes_int8_where_the_graph_says_so_and_keeps_engines_and_timings():
    options = provider_options("tensorrt", Path("cache/0123"))
    assert (options["trt_int8_enable"], options["trt_fp16_enable"], options["trt_bf16_enable"]) == (
        "True",
        "False",
        "False",
    )
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("True", "cache/0123")
    assert (options["trt_timing_cache_enable"], options["trt_timing_cache_path"]) == ("True", "cache")


@pytest.mark.parametrize(
    ("configured", "environment", "expected"),
    [
        ("kept", {"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "kept"),
        ("", {"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/fraudgate/engines"),
        ("", {"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/fraudgate/engines"),
    ],
)
def test_engines_are_kept_where_told_or_in_the_users_cache(configured, environment, expected):
    assert engine_cache(configured, environment) == Path(expected)


def test_a_cache_is_made_for_this_user_alone(tmp_path):
    directory = make_private(tmp_path / "a" / "b")
    assert directory.stat().st_mode & 0o077 == 0
    assert make_private(directory) == directory


def test_a_cache_that_others_may_write_is_refused(tmp_path):
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(EngineRefused, match=r"engines are code: chmod 700, or set model\.cache_dir"):
        make_private(directory)


def test_a_cache_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineRefused, match=r"cannot keep engines in .*Not a directory; set model\.cache_dir"):
        make_private(tmp_path / "file" / "cache")


def test_tensorrt_is_given_the_signed_graph_and_a_cache_of_its_own(tmp_path, monkeypatch):
    # A runtime that lists TensorRT: what it is asked for is recorded, and what it gives is a session on the CPU.
    asked = []

    def session(model, options, providers, provider_options, **_):
        asked.append((model, providers, provider_options))
        return real(INT8.SerializeToString(), providers=["CPUExecutionProvider"])

    real = ort.InferenceSession
    listed = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    monkeypatch.setattr(ort, "InferenceSession", session)
    cache = tmp_path / "cache"
    with pytest.raises(EngineRefused, match="not at hand"):
        OnnxEngine(INT8.SerializeToString(), manifest_for(INT8), "tensorrt", cache_dir=cache)
    [(model, providers, [options])] = asked
    assert providers == ["TensorrtExecutionProvider"]
    assert model == signed_activations(INT8.SerializeToString()) != INT8.SerializeToString()
    assert Path(options["trt_engine_cache_path"]).parent == cache == Path(options["trt_timing_cache_path"])


@pytest.mark.parametrize("raises", [False, True])
def test_after_a_fallback_the_cpu_is_given_the_published_graph(tmp_path, monkeypatch, raises):
    asked = []

    def session(model, options, providers, **_):
        asked.append((model, providers))
        if raises and providers != ["CPUExecutionProvider"]:
            raise RuntimeError("Please install TensorRT libraries")
        return real(model, options, providers=["CPUExecutionProvider"])

    real = ort.InferenceSession
    listed = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    monkeypatch.setattr(ort, "InferenceSession", session)
    published = INT8.SerializeToString()
    engine = OnnxEngine(published, manifest_for(INT8), "tensorrt", allow_fallback=True, cache_dir=tmp_path / "cache")
    assert engine.info.provider == "cpu"
    assert asked[-1] == (published, ["CPUExecutionProvider"])
