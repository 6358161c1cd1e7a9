"""A sabotaged model directory is refused by ``fraudgate model check``, and for the right reason."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines import conformance, sandbox
from fraudgate.engines.conformance import CHECKS, Request, Result, Subject
from fraudgate.engines.repository import Thresholds
from fraudgate.engines.sandbox import check_model
from fraudgate.features.schema import SCHEMAS_DIRECTORY
from fraudgate.limits import SECOND_NS
from tests.integration.sabotaged import AMOUNT, RAW, Version, looping, node, sound

SOUND = sound()


def results(directory: Path, **asked: object) -> dict[str, Result]:
    """The whole suite in its quick form, in this process."""
    request = Request(str(directory), quick=True, **asked)  # type: ignore[arg-type]
    return {result.check: result for result in conformance.run(Subject(request))}


def refusals(directory: Path, **asked: object) -> dict[str, str]:
    """Check -> reason, of those that were made and do not hold."""
    found = results(directory, **asked).items()
    return {check: result.detail for check, result in found if not (result.holds or result.skipped)}


def swap(first: int, second: int, axis: int = 0):
    def swapped(values: np.ndarray) -> np.ndarray:
        order = np.arange(values.shape[axis])
        order[[first, second]] = second, first
        return np.take(values, order, axis)

    return swapped


COLUMNS = SOUND.changing("ramp_weight", swap(0, 8))  # the amount and the customer's mean of 30 days
WEIGHTS = SOUND.changing("hidden_steps", swap(5, 70))
SCALE = SOUND.changing("hidden_scale", lambda scale: scale * 2)
ZERO_POINT = SOUND.changing("ramp_zero", lambda zero: zero + 40)
CONSTANT = SOUND.changing("output_weight", np.zeros_like)
SHIFTED = SOUND.changing("output_bias", lambda bias: bias + 1)
SLIGHTLY_SHIFTED = SOUND.changing("output_bias", lambda bias: bias + 0.1)
COARSE = SOUND.ending(
    node("Mul", [RAW, "steps"], "scaled"), node("Floor", ["scaled"], "whole"), node("Div", ["whole", "steps"]),
    steps=np.float32(40),
)  # fmt: skip
OVER_ONE = SOUND.ending(node("Mul", [RAW, "twice"]), twice=np.float32(2))
NEGATIVE = SOUND.ending(node("Sub", [RAW, "little"]), little=np.float32(0.01))
NAN_AT_EXTREMES = SOUND.ending(
    AMOUNT[0], node("Greater", ["amount", "limit"], "huge"), node("Where", ["huge", "nan", RAW]),
    limit=np.float32(5e4), nan=np.float32(np.nan), **AMOUNT[1],
)  # fmt: skip
NAN_SWALLOWED = SOUND.ending(
    node("IsNaN", [RAW], "unknown"), node("Where", ["unknown", "low", RAW]), low=np.float32(0.001)
)
BY_SLOT = SOUND.ending(node("Mul", [RAW, "by_slot"]), by_slot=np.linspace(1, 0.999, 32, dtype=np.float32)[:, None])
BY_BATCH = SOUND.ending(
    node("ReduceMean", [RAW], "mean", axes=[0]), node("Mul", ["mean", "little"], "share"), node("Sub", [RAW, "share"]),
    little=np.float32(1e-4),
)  # fmt: skip
BY_HUGE_NEIGHBOURS = SOUND.ending(
    AMOUNT[0], node("ReduceMax", ["amount"], "largest", axes=[0]), node("Greater", ["largest", "limit"], "huge"),
    node("Mul", [RAW, "half"], "halved"), node("Where", ["huge", "halved", RAW]),
    limit=np.float32(1e20), half=np.float32(0.5), **AMOUNT[1],
)  # fmt: skip
SLOW, SLOWEST = (
    SOUND.ending(
        node("MatMul", [RAW, "wide"], "widened"), node("MatMul", ["widened", "square"], "useless"),
        node("MatMul", ["useless", "narrow"], "nothing"), node("Add", [RAW, "nothing"]),
        wide=np.zeros((1, width), np.float32), square=np.zeros((width, width), np.float32),
        narrow=np.zeros((width, 1), np.float32),
    )
    for width in (640, 1_280)
)  # fmt: skip
DROPPING = SOUND.ending(
    node("Dropout", [RAW, "share", "training"], "dropped"), node("Clip", ["dropped", "none", "all"]),
    share=np.float32(0.01), training=np.array(True), none=np.float32(0), all=np.float32(1),
)  # fmt: skip
NOISY = SOUND.ending(node("RandomNormal", [], "noise", shape=[32, 1], scale=1e-6), node("Add", [RAW, "noise"]))


def undressed(version: Version) -> Version:
    """The same network with no integer kernel: the ramps are no longer rounded."""

    def edit(graph: onnx.GraphProto) -> None:
        for each in [each for each in graph.node if each.output[0] in ("ramps_u8", "ramps_dq")]:
            graph.node.remove(each)
        next(each for each in graph.node if "ramps_dq" in each.input).input[0] = "clipped"

    return version.edited(edit)


def dynamic(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        first = next(each for each in graph.node if each.output[0] == "ramps_u8")
        second = next(each for each in graph.node if each.output[0] == "ramps_dq")
        first.CopyFrom(helper.make_node("DynamicQuantizeLinear", ["clipped"], ["ramps_u8", "step", "zero_point"]))
        second.input[1:] = ["step", "zero_point"]

    return version.edited(edit)


def external(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == "ramp_weight")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../../etc/passwd")

    return version.edited(edit)


def enormous(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        graph.initializer.append(TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[50_000, 50_000]))

    return version.ending(node("Identity", [RAW])).edited(edit)


def metrics(**changes: dict[str, float]) -> Version:
    known = SOUND.manifest.metrics
    return SOUND.declaring(metrics=known | {name: known.get(name, {}) | values for name, values in changes.items()})


SABOTAGES = {
    # A careless colleague: the golden rows are still those of the sound engine.
    "swapped columns": (COLUMNS, "golden", "golden rows differ|golden scores move"),
    "swapped weight rows": (WEIGHTS, "golden", "golden rows differ|golden scores move"),
    "wrong scale": (SCALE, "golden", "golden rows differ|golden scores move"),
    "zero point off": (ZERO_POINT, "golden", "golden rows differ|golden scores move"),
    "golden rows of another width": (
        Version(SOUND.manifest, SOUND.model, SOUND.rows._replace(features=SOUND.rows.features[:, :14])),
        "golden", "golden rows have 14 features",
    ),
    # The golden bits are forged: they are what the spoilt engine gives.
    "swapped columns, forged": (COLUMNS.forged(), "parity", "a score moves by 0.[2-9]"),
    "swapped weight rows, forged": (WEIGHTS.forged(), "parity", "a score moves by 0.[2-9]"),
    "wrong scale, forged": (SCALE.forged(), "parity", "a score moves by 0.[2-9]"),
    "zero point off, forged": (ZERO_POINT.forged(), "parity", "a score moves by 0.[2-9]"),
    "shifted calibration, forged": (SHIFTED.forged(), "parity", "a logit by 0.9"),
    "slightly shifted calibration, forged": (SLIGHTLY_SHIFTED.forged(), "parity", "a logit by 0.09"),
    # And so are the FP32 scores, where what is wrong shows by itself.
    "constant output, forged": (CONSTANT.forged_fp32(), "distinct", "1 distinct scores of 2,048"),
    "few distinct scores, forged": (COARSE.forged_fp32(), "distinct", "cannot rank payments"),
    "over one": (OVER_ONE.forged_fp32(), "golden", "not a probability"),
    "under nought": (NEGATIVE.forged_fp32(), "golden", "not a probability"),
    "NaN at extremes only": (NAN_AT_EXTREMES.forged_fp32(), "extremes", "finite rows at extremes have no score"),
    "NaN swallowed": (NAN_SWALLOWED.forged_fp32(), "extremes", "are scored as if it were"),
    "another score in each slot": (BY_SLOT.forged_fp32(), "golden", "its slot or its neighbours"),
    "the batch's mean": (BY_BATCH.forged_fp32(), "golden", "its slot or its neighbours"),
    "a huge neighbour": (BY_HUGE_NEIGHBOURS.forged_fp32(), "invariance", "rows change with their batch"),
    "ten times slower": (SLOWEST.forged_fp32(), "latency", r"over 10 times the 10\.0 us"),
    "dropout as in training": (DROPPING, "engine", "1 Dropout nodes may be training"),
    "no integer kernel": (undressed(SOUND).forged(), "precision", "says int8, no integer kernel runs"),
    "quantised, said to be fp32": (
        metrics(fp32=SOUND.manifest.metrics["int8"]).declaring(precision="fp32").forged(),
        "precision", "says fp32, the graph has QuantizeLinear",
    ),
    # Graphs that no engine is made of.
    "dynamic quantisation": (dynamic(SOUND), "engine", "quantises dynamically"),
    "random numbers": (NOISY, "engine", "draws random numbers"),
    "external data": (external(SOUND), "engine", "keeps tensors in other files"),
    "ten gigabytes declared": (enormous(SOUND), "engine", r"declare more than they hold \(huge\)"),
    "an operator of its own": (
        SOUND.ending(node("Evil", [RAW], domain="evil")), "engine", "does not take the graph",
    ),
    # The manifest.
    "stale schema": (SOUND.declaring(schema_fingerprint="a" * 64), "schema", "trained on schema a{64}"),
    "thresholds that stop all": (
        SOUND.declaring(thresholds=Thresholds(1e-6, 1e-6)), "decisions", "must pass",
    ),
    "a calibration that stops nothing": (
        SOUND.ending(node("Mul", [RAW, "little"]), little=np.float32(0.01)).forged_fp32(), "decisions", "stop nothing",
    ),
    "under its floor": (metrics(int8={"auc_roc": 0.8}), "metrics", "auc_roc 0.8 is under its floor 0.866"),
    "lossy": (metrics(fp32={"average_precision": 0.74}), "metrics", "average_precision is 0.02861 under FP32"),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotaged_version_is_refused_with_the_reason(tmp_path, name):
    version, check, reason = SABOTAGES[name]
    found = refusals(version.write(tmp_path))
    assert check in found, found
    assert re.search(reason, found[check]), found


def test_the_sound_version_passes_every_check(tmp_path):
    directory = SOUND.write(tmp_path)
    found = results(directory, against=str(directory))
    assert list(found) == list(CHECKS)
    assert all(result.holds for result in found.values()), found
    assert "0 of 2,048 decisions flip" in found["parity"].detail
    assert "100% of the rows" in found["against"].detail


# The directory itself.


def rewritten(directory: Path, **fields: object) -> None:
    """The manifest with other fields, as plain JSON: nothing is checked on the way."""
    file = directory / "manifest.json"
    file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes()) | fields))


def signed_again(directory: Path, name: str, data: bytes) -> None:
    (directory / name).write_bytes(data)
    files = msgspec.json.decode((directory / "manifest.json").read_bytes())["files"]
    rewritten(directory, files=files | {name: hashlib.sha256(data).hexdigest()})


def cut(name: str, again: bool) -> Callable[[Path], object]:
    def spoil(directory: Path) -> None:
        data = (directory / name).read_bytes()[:-300]
        signed_again(directory, name, data) if again else (directory / name).write_bytes(data)

    return spoil


def linked(directory: Path) -> None:
    (directory / "model.onnx").rename(directory.parent / "elsewhere")
    (directory / "model.onnx").symlink_to(directory.parent / "elsewhere")


DIRECTORIES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated model": (cut("model.onnx", again=False), "digests", "has SHA-256"),
    "truncated model, signed": (cut("model.onnx", again=True), "engine", "not an ONNX model|not take the graph"),
    "truncated golden rows, signed": (cut("golden.arrow", again=True), "golden", "golden.arrow: "),
    "truncated manifest": (cut("manifest.json", again=False), "manifest", "manifest.json: "),
    "wrong digest": (
        lambda directory: signed_again(directory, "card.md", b"x") or (directory / "card.md").write_bytes(b"y"),
        "digests", "has SHA-256",
    ),
    "foreign file": (lambda directory: (directory / "evil.so").touch(), "digests", "does not name: evil.so"),
    "no manifest yet": (lambda directory: (directory / "manifest.json").unlink(), "manifest", "cannot read"),
    "no golden rows": (lambda directory: (directory / "golden.arrow").unlink(), "digests", "cannot read"),
    "path traversal": (
        lambda directory: rewritten(directory, files={"../../evil": "0" * 64, "model.onnx": "0" * 64}),
        "manifest", "manifest.json: ",
    ),
    "a name that leaves": (lambda directory: rewritten(directory, name="../handbook"), "manifest", "manifest.json: "),
    "linked file": (linked, "digests", "cannot read"),
    "swapped thresholds": (
        lambda directory: rewritten(directory, thresholds={"review": 0.4, "decline": 0.04}),
        "manifest", "0 < review <= decline <= 1",
    ),
    "thresholds of nought": (
        lambda directory: rewritten(directory, thresholds={"review": 0, "decline": 0}),
        "manifest", "0 < review <= decline <= 1",
    ),
    "another batch": (
        lambda directory: rewritten(directory, batch={"min": 1, "opt": 32, "max": 64}), "manifest", "must be 32",
    ),
    "inputs of another order of dimensions": (
        lambda directory: rewritten(directory, inputs=[{"name": "features", "dtype": "float32", "shape": [15, 32]}]),
        "schema", "has 15 features, the manifest's inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_spoilt_directory_is_refused_with_the_reason(tmp_path, name):
    spoil, check, reason = DIRECTORIES[name]
    directory = SOUND.write(tmp_path)
    spoil(directory)
    found = refusals(directory)
    assert re.search(reason, found[check]), found


def test_a_renamed_version_is_refused(tmp_path):
    directory = SOUND.write(tmp_path)
    found = refusals(directory.rename(directory.with_name("2027.01.01")))
    assert "publish a version under its own name" in found["manifest"]


def test_a_schema_may_demand_which_way_the_score_goes(tmp_path):
    directory, schema = SOUND.write(tmp_path), tmp_path / "schema.toml"
    plain = (SCHEMAS_DIRECTORY / "handbook.toml").read_text()
    schema.write_text(plain.replace('kind = "weekend"', 'kind = "weekend"\nmonotone = "increasing"'))
    assert results(directory, schema=str(schema))["monotone"].detail == "1 features over 64 rows, 9 values each"
    schema.write_text(plain.replace('kind = "amount"', 'kind = "amount"\nmonotone = "decreasing"'))
    found = refusals(directory, schema=str(schema))
    assert list(found) == ["monotone"]
    assert re.search(r"raising feature 0 raises the score of \d+ of 64 rows", found["monotone"])


class FakeTensorRT:
    """As much of the ``tensorrt`` package as takes a plan."""

    __version__ = "10.13"

    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None: ...

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, plan: bytes) -> object:
            return plan if plan.startswith(b"ptrt") else None


def test_a_plan_is_tried_where_its_runtime_is(tmp_path, monkeypatch):
    directory = SOUND.write(tmp_path)
    signed_again(directory, "model.plan", b"ptrt and so on")
    monkeypatch.setattr(conformance, "find_spec", lambda name: None)
    assert results(directory)["plan"].detail.startswith("model.plan was not tried: ")
    assert results(directory, provider="tensorrt")["plan"].detail.startswith("model.plan was not tried: ")
    monkeypatch.setattr(conformance, "find_spec", lambda name: name)
    monkeypatch.setattr(conformance, "import_module", lambda name: FakeTensorRT)
    assert results(directory, provider="tensorrt")["plan"].detail == "TensorRT 10.13 takes model.plan"
    signed_again(directory, "model.plan", b"not a plan")
    assert "TensorRT 10.13 does not take model.plan" in refusals(directory, provider="tensorrt")["plan"]


def test_what_needs_a_failed_check_is_skipped_and_the_rest_is_made(tmp_path):
    found = results(external(SOUND).declaring(schema_fingerprint="a" * 64).write(tmp_path))
    made = [check for check, result in found.items() if not result.skipped]
    assert made == ["manifest", "digests", "schema", "metrics", "plan", "engine"]
    assert found["monotone"].detail == "skipped for want of schema, engine, rows"


# Everything forged: only another version tells.

FORGED = {
    "swapped columns": (COLUMNS.forged_fp32(), "rows that either stops"),
    "FP32 scores left out": (
        Version(COLUMNS.manifest, COLUMNS.model, COLUMNS.rows._replace(fp32=None)).forged(),
        "published without FP32 scores, which handbook/2026.11.22 has",
    ),
    "shifted calibration": (SHIFTED.forged_fp32(), r"the median logit moves by \+1\.0"),
    "slow, and published so": (
        SLOW.declaring(metrics=SOUND.manifest.metrics | {"run_us": {"int8": 1_000.0}}).forged_fp32(),
        r"\d\d\.\d times its run",
    ),
    "thresholds of another model": (
        SOUND.declaring(thresholds=Thresholds(1, 1)).forged_fp32(), "rows that either stops",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_what_is_forged_throughout_is_refused_beside_another_version(tmp_path, name):
    version, reason = FORGED[name]
    directory, live = version.write(tmp_path / "new"), SOUND.write(tmp_path / "live")
    found = refusals(directory, against=str(live))
    assert list(found) == ["against"]
    assert re.search(reason, found["against"]), found


UNSEEN = {
    "a slightly shifted calibration": SLIGHTLY_SHIFTED,
    "one amount that always passes": SOUND.ending(
        AMOUNT[0], node("Equal", ["amount", "secret"], "known"), node("Where", ["known", "low", RAW]),
        secret=np.float32(1_234.56), low=np.float32(0.001), **AMOUNT[1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_what_the_suite_cannot_see(tmp_path, name):
    """Sound engines of another opinion: digests say who published them, drift and outcomes whether they are right."""
    directory, live = UNSEEN[name].forged_fp32().write(tmp_path / "new"), SOUND.write(tmp_path / "live")
    assert refusals(directory, against=str(live)) == {}


# In a child.


def test_a_child_gives_the_verdict_and_the_digest(tmp_path):
    directory = SOUND.write(tmp_path)
    verdict = check_model(Request(str(directory), quick=True))
    assert verdict.holds, verdict.reason
    assert verdict.reason == ""
    assert [result.check for result in verdict.results] == list(CHECKS)
    assert (
        verdict.engine_digest == msgspec.json.decode((directory / "manifest.json").read_bytes())["files"]["model.onnx"]
    )


def test_a_graph_that_never_ends_is_killed(tmp_path):
    version = SOUND.ending(looping(1), turns=np.array(1 << 62), go=np.array(True))
    verdict = check_model(Request(str(version.write(tmp_path)), quick=True), limit_ns=4 * SECOND_NS)
    assert not verdict.holds
    assert verdict.reason == "engine: not done within 4 s"
    assert [result.skipped for result in verdict.results[6:]] == [True] * 11


def test_a_graph_that_asks_for_all_memory_is_refused(tmp_path):
    version = SOUND.ending(
        node("ConstantOfShape", ["shape"], "huge"), node("ReduceSum", ["huge"], "sum", keepdims=0),
        node("Add", [RAW, "sum"]),
        shape=np.array([50_000, 50_000]),
    )  # fmt: skip
    verdict = check_model(Request(str(version.write(tmp_path)), quick=True))
    assert verdict.reason.startswith("engine: ")
    assert verdict.engine_digest


def test_a_sparse_tensor_of_ten_gigabytes_is_refused(tmp_path):
    def edit(graph: onnx.GraphProto) -> None:
        sparse = graph.sparse_initializer.add(dims=[50_000, 50_000])
        sparse.values.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), "huge"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "where"))

    version = SOUND.ending(node("ReduceSum", ["huge"], "sum", keepdims=0), node("Add", [RAW, "sum"])).edited(edit)
    assert check_model(Request(str(version.write(tmp_path)), quick=True)).reason.startswith("engine: ")


def test_a_child_limits_itself():
    code = (
        "import os, resource; from fraudgate.engines import sandbox;"
        "sandbox._limit(7, 'cpu'); sandbox._limit(9, 'cpu');"
        "print(os.nice(0), *(resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    assert [int(value) for value in found] == [19, 8, sandbox.ADDRESS_BYTES_MAX]


def test_a_child_that_dies_says_where(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'["manifest",true,"fine",false]\'\nkill -SEGV $$\n')
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    verdict = check_model(Request("anywhere"))
    assert verdict.reason == "digests: the checking process died of SIGSEGV"
    assert len(verdict.results) == len(CHECKS)


def test_a_child_knows_little_of_its_environment(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nenv >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    assert "secret" not in check_model(Request("anywhere")).reason
