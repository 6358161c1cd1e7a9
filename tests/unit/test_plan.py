"""Plans and their records, and the child process that reads an unknown one; nothing here needs TensorRT."""

import json
import os
import signal
import sys
import time
from enum import Enum
from hashlib import sha256
from pathlib import Path

import pytest

from fraudgate.cli import main
from fraudgate.commands import model
from fraudgate.engines import cuda
from fraudgate.engines.plan import (
    PROVIDERS,
    Plan,
    PlanRecord,
    compile_plan,
    integer_layers,
    plan_name,
    read_plan,
    record_path,
    write_plan,
)
from fraudgate.engines.repository import Manifest, read_manifest, read_version
from fraudgate.engines.tensorrt import TensorRTEngine, in_child
from fraudgate.errors import ConfigError, EngineFailed, EngineRefused
from tests.unit.onnx_graphs import FINGERPRINT, dynamic_graph, int8_graph, publish_graph
from tests.unit.test_model_command import arguments, published

DATA = b"the bytes of a plan"
DIGEST = "0" * 64


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(publish_graph(tmp_path / "repository", int8_graph()))


def plan_of(manifest: Manifest, **changes: object) -> Plan:
    fields = {
        "target": "rtx",
        "runtime": "1.7.1",
        "compute_capability": "8.9",
        "model_digest": manifest.engine_digest,
        "plan_digest": sha256(DATA).hexdigest(),
        "inputs": manifest.inputs,
        "outputs": manifest.outputs,
        "integer_layers": ("hidden",),
    }
    return Plan(DATA, PlanRecord(**(fields | changes)))  # type: ignore[arg-type]


# Plans in files


def test_a_plan_is_read_as_it_was_written(tmp_path, manifest):
    plan = plan_of(manifest)
    write_plan(tmp_path / "a.plan", plan)
    assert read_plan(tmp_path / "a.plan", manifest) == plan
    assert json.loads((tmp_path / "a.plan.json").read_text())["compute_capability"] == "8.9"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_digest": DIGEST}, "is not the plan of its record"),
        ({"model_digest": DIGEST}, r"was compiled from another model\.onnx than test/1"),
        ({"outputs": ()}, "has other inputs or outputs than test/1"),
    ],
)
def test_a_plan_of_something_else_is_refused(tmp_path, manifest, changes, message):
    write_plan(tmp_path / "a.plan", plan_of(manifest, **changes))
    with pytest.raises(EngineRefused, match=message):
        read_plan(tmp_path / "a.plan", manifest)


def test_a_plan_without_a_record_is_refused(tmp_path, manifest):
    write_plan(tmp_path / "a.plan", plan_of(manifest))
    record_path(tmp_path / "a.plan").write_text('{"target": "npu"}')
    with pytest.raises(EngineRefused, match=r"a\.plan\.json: "):
        read_plan(tmp_path / "a.plan", manifest)
    record_path(tmp_path / "a.plan").unlink()
    with pytest.raises(EngineRefused, match="No such file or directory; fraudgate model compile makes one"):
        read_plan(tmp_path / "a.plan", manifest)


# Compiling


@pytest.mark.parametrize(
    ("target", "capability", "message"),
    [
        ("rtx", None, "name one, for example 8.9"),
        ("rtx", "8.9", r"tensorrt_rtx is not at hand .*: pip install 'fraudgate\[rtx\]'"),
        ("tensorrt", "8.9", "for the GPU of this machine: leave the compute capability out"),
        ("tensorrt", None, r"cuda\.bindings\.runtime is not at hand .*: pip install 'fraudgate\[tensorrt\]'"),
    ],
)
def test_what_cannot_be_compiled_here_is_refused(manifest, monkeypatch, target, capability, message):
    for module in ("tensorrt", "tensorrt_rtx", "cuda.bindings.runtime", "cuda.bindings", "cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineRefused, match=message):
        compile_plan(int8_graph().SerializeToString(), manifest, target, capability)


def test_a_graph_that_is_not_served_is_not_compiled(manifest):
    with pytest.raises(EngineRefused, match="quantises dynamically"):
        compile_plan(dynamic_graph().SerializeToString(), manifest, "rtx", "8.9")


def test_a_plan_does_not_go_into_the_repository(tmp_path):
    directory = publish_graph(tmp_path, int8_graph())
    with pytest.raises(ConfigError, match="which never changes: choose another --out"):
        model.run(arguments("compile", directory, "--target", "rtx", "--out", directory / "model.plan"))


def test_there_must_be_something_to_compile(tmp_path):
    with pytest.raises(ConfigError, match="no directory"):
        model.run(arguments("compile", tmp_path / "absent", "--target", "rtx"))


def test_integer_layers_are_the_products_of_int8():
    lines = [
        "Name: cast, LayerType: kgen, Inputs: [ { Name: x, Datatype: Int8 }], Constants: [], Outputs: []",
        "Name: hidden, LayerType: gemm, Inputs: [ { Name: x, Datatype: Int8 }], Constants: [ { Name: w }], Outputs: []",
        "Name: first, LayerType: fusion, Inputs: [ { Name: w, Datatype: Int8 }], Constants: [], Outputs: []",
        "Name: last, LayerType: gemm, Inputs: [ { Name: y, Datatype: Float }], Constants: [ { Datatype: Int8 }]",
        "",
    ]
    assert list(integer_layers(lines)) == ["hidden", "first"]


# The child process


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise EngineRefused("not a plan")


def test_a_child_that_ends_well_is_believed():
    in_child(print)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (crash, (), "crash ended by signal 11 in a child process"),
        (fail, (), "fail ended with status 1 in a child process"),
        (time.sleep, (60,), "sleep did not end within 0 s in a child process"),
    ],
)
def test_a_child_that_does_not_is_the_plans_fault(task, arguments, message):
    with pytest.raises(EngineRefused, match=message):
        in_child(task, *arguments, seconds_max=0.1 if arguments else 60)


# The engine, as far as it comes without a GPU


def test_a_plan_needs_its_schema_its_record_and_a_gpu(tmp_path, monkeypatch):
    for module in ("cuda.bindings.runtime", "cuda.bindings", "cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    directory = publish_graph(tmp_path / "repository", int8_graph())
    path = tmp_path / "a.plan"
    with pytest.raises(EngineRefused, match="test/1: trained on feature schema"):
        TensorRTEngine.of(read_version(directory), "e" * 64, path)
    with pytest.raises(EngineRefused, match="test/1: cannot read"):
        TensorRTEngine.of(read_version(directory), FINGERPRINT, path)
    write_plan(path, plan_of(read_manifest(directory)))
    with pytest.raises(EngineRefused, match=r"test/1: cuda\.bindings\.runtime is not at hand"):
        TensorRTEngine.of(read_version(directory), FINGERPRINT, path)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_that_cannot_run_its_plan_says_why(tmp_path, monkeypatch, capsys, provider):
    for module in ("cuda.bindings.runtime", "cuda.bindings", "cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    directory = published(tmp_path / "repository")
    path = tmp_path / plan_name(read_manifest(directory), PROVIDERS[provider])
    config = tmp_path / "fraudgate.toml"
    model = {
        "repository": str(tmp_path / "repository"),
        "name": "test",
        "provider": provider,
        "plan_dir": str(tmp_path),
    }
    config.write_text("[model]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in model.items()))
    serve = ["serve", "--config", str(config)]
    assert main(serve) == 2
    assert f"test/1: cannot read {path}: No such file or directory; fraudgate model compile makes" in tried(capsys)
    write_plan(path, plan_of(read_manifest(directory), target=PROVIDERS[provider]))
    assert main(serve) == 2
    assert "test/1: cuda.bindings.runtime is not at hand" in (told := tried(capsys))
    assert "pip install 'fraudgate[tensorrt]'" in told
    words = ["model", "check", str(directory), "--provider", provider, "--plan-dir", str(tmp_path), "--quick", "--json"]
    assert main(words) == 1
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (checks["engine"]["holds"], checks["golden"]["skipped"]) == (False, True)
    assert any(word in checks["engine"]["detail"] for word in ("is not at hand", "no GPU answers", "needs"))


def tried(capsys) -> str:
    return str(capsys.readouterr().err)


class Status(Enum):
    GOOD, BAD = 0, 35


def test_a_call_of_cuda_gives_its_value_or_raises():
    assert cuda.checked((Status.GOOD, 7)) == 7
    assert cuda.checked((Status.GOOD,)) is None
    with pytest.raises(EngineFailed, match="CUDA: BAD"):
        cuda.checked((Status.BAD, None))
