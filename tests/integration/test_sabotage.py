"""A sabotaged model directory is refused by ``fraudgate model check``, and for the right reason."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks import sabotage
from benchmarks.__main__ import GOALS
from fraudgate.engines import conformance, sandbox
from fraudgate.engines.conformance import CHECKS, Request, Result, Subject
from fraudgate.engines.repository import read_manifest
from fraudgate.engines.sandbox import check_model
from fraudgate.features.schema import SCHEMAS_DIRECTORY
from fraudgate.limits import SECOND_NS
from tests.integration.sabotaged import AMOUNT, RAW, looping, node
from tests.integration.sabotages import (
    CATALOGUE,
    DIRECTORIES,
    FORGED,
    SABOTAGES,
    SLIGHTLY_SHIFTED,
    SOUND,
    Sabotage,
    external,
    signed_again,
)


def results(directory: Path, **asked: object) -> dict[str, Result]:
    """The whole suite in its quick form, in this process."""
    request = Request(str(directory), quick=True, **asked)  # type: ignore[arg-type]
    return {result.check: result for result in conformance.run(Subject(request))}


def refusals(directory: Path, **asked: object) -> dict[str, str]:
    """Check -> reason, of those that were made and do not hold."""
    found = results(directory, **asked).items()
    return {check: result.detail for check, result in found if not (result.holds or result.skipped)}


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


def test_the_benchmark_counts_what_the_command_catches_for_the_right_reason(capsys):
    wanted = ("swapped columns", "path traversal", "shifted calibration, all forged")
    some = {name: CATALOGUE[name] for name in wanted}
    assert sabotage.measure(some) == {"sabotaged_caught": 3, "sabotaged_total": 3}
    some["for another reason"] = Sabotage(CATALOGUE["path traversal"].write, "digests")
    some["a sound one"] = Sabotage(SOUND.write, "golden")
    assert sabotage.measure(some) == {"sabotaged_caught": 3, "sabotaged_total": 5}
    assert capsys.readouterr().err.count("LET THROUGH") == 2
    assert len(CATALOGUE) == GOALS["sabotaged_caught"][1] >= 24


# In a child.


def test_a_child_gives_the_verdict_and_the_digest(tmp_path):
    directory = SOUND.write(tmp_path)
    verdict = check_model(Request(str(directory), quick=True))
    assert verdict.holds, verdict.reason
    assert verdict.reason == ""
    assert [result.check for result in verdict.results] == list(CHECKS)
    assert verdict.digest == read_manifest(directory).digest


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
    assert verdict.digest


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
