"""``fraudgate model`` and ``ModelService.ListModels``: the same repository for a person, a program and a client."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fraudgate.commands import model
from fraudgate.commands import publish as commands_publish
from fraudgate.control.models import to_wire
from fraudgate.engines import golden
from fraudgate.engines.conformance import CHECKS
from fraudgate.engines.repository import Thresholds, list_models, read_manifest, read_version
from fraudgate.errors import ConfigError, EngineRefused
from fraudgate.features.schema import FeatureSchema
from fraudgate.v1 import models_pb2
from tests.unit.onnx_graphs import FEATURES, FINGERPRINT, INPUT, engine_of, fp32_graph, int8_graph, publish_graph


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    model.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def published(root: Path, version: str = "1", with_golden: bool = True, **changes: object) -> Path:
    graph = nan_aware(int8_graph())
    rows = np.random.default_rng(0).normal(size=(1_024, FEATURES)).astype(np.float32)
    recorded = golden.record(engine_of(graph), rows)
    (bits,) = recorded.bits.values()
    review, decline = np.quantile(bits.view(np.float32).astype(np.float64), [0.9, 0.95]).tolist()
    files = {"golden.arrow": golden.encode(recorded)} if with_golden else {}
    fields = {
        "version": version,
        "schema_fingerprint": FeatureSchema.named("handbook").fingerprint,
        "thresholds": Thresholds(review, decline),
    }
    return publish_graph(root, graph, files, **(fields | changes))


def nan_aware(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, but a feature that is not finite gives NaN: 0 x every feature is added to the logit."""
    nodes, initializers = graph.graph.node, graph.graph.initializer
    initializers.append(numpy_helper.from_array(np.zeros((FEATURES, 1), np.float32), "zeros"))
    last = nodes.pop()
    nodes.append(helper.make_node("MatMul", [INPUT, "zeros"], ["finite"]))
    nodes.append(helper.make_node("Add", [last.input[0], "finite"], ["checked"]))
    nodes.append(helper.make_node(last.op_type, ["checked"], last.output))
    return graph


def test_a_good_model_passes_every_check(tmp_path, capsys):
    assert model.run(arguments("check", published(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", check] for check in CHECKS]
    assert "1,024 rows in 20,480 contexts, 528 places: 0 differing bits" in "\n".join(lines)


def test_a_good_model_passes_beside_itself_quickly(tmp_path, capsys):
    directory = published(tmp_path)
    assert model.run(arguments("check", directory, "--quick", "--against", directory)) == 0
    output = capsys.readouterr().out
    assert "528 rows in 5,808 contexts, 528 places: 0 differing bits" in output
    assert "test/1: 100% of the rows that either stops are stopped by both" in output


def test_a_check_that_does_not_hold_stops_only_those_that_need_it(tmp_path, capsys):
    directory = published(tmp_path, with_golden=False)
    assert model.run(arguments("check", directory, "--quick", "--json")) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["holds"] is False
    checks = {check.pop("check"): check for check in answer["checks"]}
    assert list(checks) == list(CHECKS)
    assert checks["golden"] == {
        "holds": False,
        "detail": "there is no golden.arrow: publish the model with golden rows",
        "skipped": False,
    }
    assert checks["invariance"] == {"holds": False, "detail": "skipped for want of rows", "skipped": True}
    assert checks["memory"]["holds"] is True


def test_a_schema_that_no_one_knows_is_named(tmp_path, capsys):
    directory = published(tmp_path, schema_fingerprint=FINGERPRINT)
    assert model.run(arguments("check", directory, "--schema", "handbook")) == 1
    assert f"NO  schema      trained on schema {FINGERPRINT}, which is not: handbook" in capsys.readouterr().out


def test_a_changed_file_is_found(tmp_path, capsys):
    directory = published(tmp_path)
    (directory / "card.md").write_text("changed")
    assert model.run(arguments("check", directory)) == 1
    assert "NO  digests     " in capsys.readouterr().out


def test_there_must_be_something_to_check_or_list(tmp_path):
    for words in (
        ["check", tmp_path / "absent"],
        ["check", tmp_path, "--against", tmp_path / "absent"],
        ["list", "--repository", tmp_path / "absent"],
    ):
        with pytest.raises(ConfigError, match="absent"):
            model.run(arguments(*words))


def test_list_shows_versions_and_problems(tmp_path, capsys):
    published(tmp_path)
    (published(tmp_path, "2") / "card.md").unlink()
    assert model.run(arguments("list", "--repository", tmp_path)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("test/1  int8  2026-01-01 00:00  ")
    assert first.endswith("  ok")
    assert second.endswith("No such file or directory")


def test_list_of_an_empty_repository_says_so(tmp_path, capsys):
    assert model.run(arguments("list", "--repository", tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path} holds no models\n"


def test_list_as_json_goes_to_a_file(tmp_path):
    root, file = tmp_path / "repository", tmp_path / "list.json"
    published(root)
    (published(root, "2") / "manifest.json").write_text("{")
    assert model.run(arguments("list", "--repository", root, "--json", file)) == 0
    first, second = json.loads(file.read_text())
    assert (first["name"], first["version"], first["precision"], first["problem"]) == ("test", "1", "int8", "")
    assert set(second) == {"name", "version", "problem"}
    assert "manifest.json" in second["problem"]


def test_versions_as_messages_say_which_is_live(tmp_path):
    graph = fp32_graph()
    at = datetime(2026, 2, 3, tzinfo=UTC)
    good = publish_graph(tmp_path, graph, version="1", precision="fp32", published_at=at)
    (publish_graph(tmp_path, graph, version="2") / "manifest.json").write_text("{")
    first, second = list_models(tmp_path)
    assert to_wire(first, "live") == models_pb2.ModelVersion(
        name="test",
        version="1",
        engine_digest=read_manifest(good).engine_digest,
        precision="fp32",
        schema_fingerprint=FINGERPRINT,
        live=True,
        state="live",
        published_at_seconds=int(at.timestamp()),
    )
    damaged = to_wire(second, "canary 25 %")
    assert (damaged.version, damaged.live, damaged.state, damaged.engine_digest) == ("2", False, "canary 25 %", "")
    assert "manifest.json" in damaged.problem


# -- publish -----------------------------------------------------------------------------------------------------------


def publish(candidate: Path, root: Path, *more: object) -> int:
    return model.run(arguments("publish", candidate, "--repository", root, *more))


def test_a_candidate_is_published_with_its_files_and_becomes_the_newest(tmp_path, capsys):
    root, candidate = tmp_path / "root", published(tmp_path / "build", published_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert publish(candidate, root) == 0
    *checks, last = capsys.readouterr().out.splitlines()
    assert len(checks) == len(CHECKS)
    assert last == f"published {root / 'test' / '1'}"
    was, version = read_version(candidate), read_version(root / "test" / "1")
    assert version.files == was.files
    assert msgspec.structs.replace(version.manifest, published_at=was.manifest.published_at) == was.manifest
    assert publish(published(tmp_path / "build", "0"), root, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["holds"], answer["against"], answer["published"]) == (True, f"{root}/test/1", f"{root}/test/0")
    assert version.manifest.published_at > datetime(2020, 1, 1, tzinfo=UTC), "the newest is the one published last"
    assert sorted(path.name for path in (root / "test").iterdir()) == ["0", "1"]


def test_what_check_refuses_is_not_published(tmp_path, capsys):
    root, candidate = tmp_path / "root", published(tmp_path / "build")
    (candidate / "card.md").write_text("changed")
    assert publish(candidate, root) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("not published: digests: ")
    assert not root.exists()


def test_a_candidate_of_another_opinion_than_the_newest_is_not_published(tmp_path, capsys):
    root = tmp_path / "root"
    published(root, "1")
    stops_all = published(tmp_path / "build", "2", thresholds=Thresholds(0.9999, 0.99995))
    assert publish(stops_all, root, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["published"], answer["against"]) == (None, f"{root}/test/1")
    assert not {check["check"]: check for check in answer["checks"]}["against"]["holds"]
    assert [path.name for path in (root / "test").iterdir()] == ["1"]


def test_a_version_that_exists_is_refused_before_it_is_checked(tmp_path, monkeypatch):
    directory = published(tmp_path)
    monkeypatch.setattr(commands_publish, "check_model", None)
    with pytest.raises(EngineRefused, match="never changes: choose another version"):
        publish(directory, tmp_path)
    with pytest.raises(ConfigError, match="absent"):
        publish(tmp_path / "absent", tmp_path)


def test_a_candidate_that_changes_while_it_is_checked_is_refused(tmp_path, monkeypatch):
    candidate, check_model = published(tmp_path / "build"), commands_publish.check_model

    def check_and_change(request):
        verdict = check_model(msgspec.structs.replace(request, quick=True))
        (candidate / "card.md").write_text("changed")
        return verdict

    monkeypatch.setattr(commands_publish, "check_model", check_and_change)
    with pytest.raises(EngineRefused, match="SHA-256"):
        publish(candidate, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        arguments("publish", "--help")
    told = capsys.readouterr().out
    assert "one check that does not hold, and nothing is written" in told
    assert "fraudgate model promote handbook/2026.12.01 --wait" in told
