"""``fraudgate model`` and ``ModelService.ListModels``: the same repository for a person, a program and a client."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fraudgate.commands import model
from fraudgate.control.models import ModelServicer
from fraudgate.engines import golden
from fraudgate.errors import ConfigError
from fraudgate.features.schema import FeatureSchema
from fraudgate.v1 import models_pb2
from tests.unit.onnx_graphs import FEATURES, FINGERPRINT, engine_of, fp32_graph, int8_graph, publish_graph

CHECKS = ["manifest", "digests", "schema", "engine", "golden", "invariance", "latency"]


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    model.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def published(root: Path, version: str = "1", with_golden: bool = True, **changes: object) -> Path:
    graph = int8_graph()
    rows = np.random.default_rng(0).normal(size=(1_024, FEATURES)).astype(np.float32)
    files = {"golden.arrow": golden.encode(golden.record(engine_of(graph), rows))} if with_golden else {}
    fingerprint = FeatureSchema.named("handbook").fingerprint
    return publish_graph(root, graph, files, **({"version": version, "schema_fingerprint": fingerprint} | changes))


def test_a_good_model_passes_every_check(tmp_path, capsys):
    assert model.run(arguments("check", published(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", check] for check in CHECKS]
    assert "0 differing bits" in lines[5]


def test_the_first_check_that_does_not_hold_ends_it(tmp_path, capsys):
    directory = published(tmp_path, with_golden=False)
    assert model.run(arguments("check", directory, "--json")) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["holds"] is False
    assert [check["check"] for check in answer["checks"]] == CHECKS[:5]
    assert answer["checks"][-1] == {
        "check": "golden",
        "holds": False,
        "detail": "there is no golden.arrow: publish the model with golden rows",
    }


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
    for words in (["check", tmp_path / "absent"], ["list", "--repository", tmp_path / "absent"]):
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


async def test_list_models_over_grpc_says_which_is_live(tmp_path):
    graph = fp32_graph()
    at = datetime(2026, 2, 3, tzinfo=UTC)
    good = publish_graph(tmp_path, graph, version="1", precision="fp32", published_at=at)
    (publish_graph(tmp_path, graph, version="2") / "manifest.json").write_text("{")
    servicer = ModelServicer(tmp_path, lambda: ("test", "1"))
    first, second = (await servicer.ListModels(models_pb2.ListModelsRequest(), None)).models
    digest = model.read_manifest(good).engine_digest
    assert first == models_pb2.ModelVersion(
        name="test",
        version="1",
        engine_digest=digest,
        precision="fp32",
        schema_fingerprint=FINGERPRINT,
        live=True,
        published_at_seconds=int(at.timestamp()),
    )
    assert (second.version, second.live, second.engine_digest) == ("2", False, "")
    assert "manifest.json" in second.problem


async def test_list_models_of_an_empty_repository_is_empty(tmp_path):
    servicer = ModelServicer(tmp_path, lambda: None)
    assert not (await servicer.ListModels(models_pb2.ListModelsRequest(), None)).models
