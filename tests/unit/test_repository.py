"""The model repository: published whole or not at all, and never believed without its digests."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from fraudgate.engines import repository
from fraudgate.engines.repository import (
    BatchProfile,
    Calibration,
    Manifest,
    Tensor,
    Thresholds,
    list_models,
    publish,
    read_files,
    read_manifest,
    read_version,
    resolve,
)
from fraudgate.errors import EngineRefused

FILES = {"model.onnx": b"an engine", "card.md": b"# A card\n"}


def manifest(name: str = "handbook", version: str = "1", day: int = 0) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        schema_fingerprint="a" * 64,
        inputs=(Tensor("features", "float32", (32, 15)),),
        outputs=(Tensor("score", "float32", (32, 1)),),
        precision="int8",
        calibration_set_digest="b" * 64,
        metrics={"fp32": {"auc_roc": 0.88}, "int8": {"auc_roc": 0.88}},
        thresholds=Thresholds(review=0.3, decline=0.7),
        calibration=Calibration(scale=1.0, bias=0.0),
        command="pytest",
        published_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day),
    )


def rewrite(model_dir: Path, change) -> None:
    """Change the manifest of a published version as an attacker or an editor would."""
    fields = json.loads((model_dir / "manifest.json").read_text())
    change(fields)
    (model_dir / "manifest.json").write_text(json.dumps(fields))


def problem(root: Path) -> str:
    (entry,) = list_models(root)
    return entry.problem


def test_a_published_version_reads_back(tmp_path):
    model_dir = publish(tmp_path, manifest(), FILES)
    assert model_dir == tmp_path / "handbook" / "1"
    assert sorted(os.listdir(model_dir)) == ["card.md", "manifest.json", "model.onnx"]
    found = read_manifest(model_dir)
    assert read_files(model_dir, found) == FILES
    assert found == msgspec.structs.replace(manifest(), files=found.files)
    assert found.engine_digest == repository._sha256(b"an engine")
    assert [(e.name, e.version, e.problem) for e in list_models(tmp_path)] == [("handbook", "1", "")]


def test_a_published_directory_can_be_read_by_others(tmp_path):
    assert publish(tmp_path, manifest(), FILES).stat().st_mode & 0o777 == 0o755


def test_a_version_is_published_once(tmp_path):
    model_dir = publish(tmp_path, manifest(), FILES)
    with pytest.raises(EngineRefused, match="never changes: choose another version"):
        publish(tmp_path, manifest(), {"model.onnx": b"another"})
    assert (model_dir / "model.onnx").read_bytes() == b"an engine"


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    written = []
    write = repository._write_synced
    monkeypatch.setattr(repository, "_write_synced", lambda path, data: (written.append(path.name), write(path, data)))
    publish(tmp_path, manifest(), FILES)
    assert written == ["model.onnx", "card.md", "manifest.json"]


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_failed_publish_leaves_nothing(tmp_path, monkeypatch, failing_call):
    calls = 0
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError("disk full")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EngineRefused, match="disk full"):
        publish(tmp_path, manifest(), FILES)
    assert list_models(tmp_path) == []
    assert list((tmp_path / "handbook").iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a b", "a\n", "é", "x" * 65])
def test_a_name_cannot_leave_its_directory(tmp_path, name):
    for bad in (manifest(name=name), manifest(version=name)):
        with pytest.raises(EngineRefused, match="matching regex"):
            publish(tmp_path, bad, FILES)
    with pytest.raises(EngineRefused, match="matching regex"):
        publish(tmp_path, manifest(), {**FILES, name: b""})
    assert list(tmp_path.rglob("*")) == []


def test_publish_refuses_what_could_not_be_read_back(tmp_path):
    with pytest.raises(EngineRefused, match=r"files must name model\.onnx"):
        publish(tmp_path, manifest(), {"card.md": b""})
    with pytest.raises(EngineRefused, match=r"leave manifest\.json out"):
        publish(tmp_path, manifest(), {**FILES, "manifest.json": b"{}"})
    with pytest.raises(EngineRefused, match=r"\$\.precision"):
        publish(tmp_path, msgspec.structs.replace(manifest(), precision="int4"), FILES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(extra=1), "unknown field `extra`"),
        (lambda m: m.pop("precision"), "missing required field `precision`"),
        (lambda m: m.pop("published_at"), "missing required field `published_at`"),
        (lambda m: m.update(precision="fp16"), r"Invalid enum value 'fp16' - at `\$.precision`"),
        (lambda m: m.update(graph_optimisation="fast"), "graph_optimisation"),
        (lambda m: m.update(schema_fingerprint="A" * 64), "schema_fingerprint"),
        (lambda m: m.update(published_at="2026-01-01T00:00:00"), "timezone"),
        (lambda m: m["batch"].update(max=64), "batch min, opt and max must be 32"),
        (lambda m: m["thresholds"].update(review=0.9), "0 < review <= decline <= 1"),
        (lambda m: m["thresholds"].update(decline=1.5), "0 < review <= decline <= 1"),
        (lambda m: m["thresholds"].update(block=0.9), "unknown field `block`"),
        (lambda m: m["inputs"][0].update(shape=["N", 15]), "inputs"),
        (lambda m: m["inputs"][0].update(dtype=1), "inputs"),
        (lambda m: m["files"].pop("model.onnx"), "files must name model.onnx"),
        (lambda m: m["files"].update({"../../etc/passwd": "0" * 64}), "files"),
        (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "files"),
        (lambda m: m["files"].update({"manifest.json": "0" * 64}), "leave manifest.json out"),
        (lambda m: m["files"].update({"model.onnx": "short"}), "files"),
        (lambda m: m["metrics"].update(int8={"auc_roc": "high"}), "metrics"),
        (lambda m: m.update(name="other"), "is of other/1"),
        (lambda m: m.update(version="2"), "is of handbook/2"),
    ],
)
def test_a_manifest_is_refused_with_its_reason(tmp_path, change, message):
    model_dir = publish(tmp_path, manifest(), FILES)
    rewrite(model_dir, change)
    with pytest.raises(EngineRefused, match=message):
        read_manifest(model_dir)
    assert problem(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "handbook"'])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path, data):
    model_dir = publish(tmp_path, manifest(), FILES)
    (model_dir / "manifest.json").write_bytes(data)
    with pytest.raises(EngineRefused, match=r"manifest\.json"):
        read_manifest(model_dir)


def test_a_changed_file_is_refused(tmp_path):
    model_dir = publish(tmp_path, manifest(), FILES)
    (model_dir / "model.onnx").write_bytes(b"An engine")
    assert "has SHA-256" in problem(tmp_path)


def test_a_version_is_read_as_its_manifest_was_and_no_other(tmp_path):
    model_dir = publish(tmp_path, manifest(), FILES)
    found = read_manifest(model_dir)
    version = read_version(model_dir, found)
    assert version == read_version(model_dir) == (found, FILES)
    (model_dir / "card.md").write_bytes(b"changed")
    rewrite(model_dir, lambda m: m["files"].update({"card.md": repository._sha256(b"changed")}))
    with pytest.raises(EngineRefused, match="has SHA-256"):
        read_version(model_dir, found)
    assert read_version(model_dir).manifest.digest != found.digest


def test_a_missing_file_is_refused(tmp_path):
    (publish(tmp_path, manifest(), FILES) / "card.md").unlink()
    assert "No such file" in problem(tmp_path)


@pytest.mark.parametrize("foreign", ["model.plan", ".hidden", "extra.so"])
def test_a_foreign_file_is_refused(tmp_path, foreign):
    (publish(tmp_path, manifest(), FILES) / foreign).write_bytes(b"")
    assert f"does not name: {foreign}" in problem(tmp_path)


def test_a_foreign_directory_is_refused(tmp_path):
    (publish(tmp_path, manifest(), FILES) / "weights").mkdir()
    assert "does not name: weights" in problem(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_link_is_refused(tmp_path, name):
    model_dir = publish(tmp_path / "root", manifest(), FILES)
    (model_dir / name).rename(tmp_path / "elsewhere")
    (model_dir / name).symlink_to(tmp_path / "elsewhere")
    assert "cannot read" in problem(tmp_path / "root")


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    model_dir = publish(tmp_path, manifest(), FILES)
    (model_dir / "model.onnx").unlink()
    os.mkfifo(model_dir / "model.onnx")
    assert "has SHA-256" in problem(tmp_path)


def test_oversized_files_are_refused(tmp_path, monkeypatch):
    model_dir = publish(tmp_path, manifest(), FILES)
    monkeypatch.setattr(repository, "FILE_BYTES_MAX", 8)
    assert "larger than 8 bytes" in problem(tmp_path)
    (model_dir / "manifest.json").write_bytes(b" " * (repository.MANIFEST_BYTES_MAX + 1))
    with pytest.raises(EngineRefused, match="larger than 1048576 bytes"):
        read_manifest(model_dir)


def test_a_copy_under_another_name_is_refused(tmp_path):
    publish(tmp_path, manifest(), FILES).rename(tmp_path / "handbook" / "2")
    assert "publish a version under its own name" in problem(tmp_path)


def test_a_linked_directory_is_its_target(tmp_path):
    model_dir = publish(tmp_path / "real", manifest(), FILES)
    (tmp_path / "current").symlink_to(model_dir)
    assert read_manifest(tmp_path / "current").version == "1"


def test_models_are_listed_by_name_then_version(tmp_path):
    for name, version in [("b", "2"), ("b", "10"), ("a", "1")]:
        publish(tmp_path, manifest(name, version), FILES)
    (tmp_path / "a" / ".publishing-2-x").mkdir()
    (tmp_path / "a" / "unfinished").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    assert [(entry.name, entry.version) for entry in list_models(tmp_path)] == [("a", "1"), ("b", "10"), ("b", "2")]


def test_no_repository_holds_no_models(tmp_path):
    assert list_models(tmp_path / "absent") == []


def test_the_latest_is_the_one_published_last(tmp_path):
    for version, day in [("9", 1), ("10", 3), ("zebra", 2)]:
        publish(tmp_path, manifest(version=version, day=day), FILES)
    assert resolve(tmp_path, "handbook").name == "10"
    assert resolve(tmp_path, "handbook", "9").name == "9"


def test_what_is_not_there_is_refused_with_what_is(tmp_path):
    with pytest.raises(EngineRefused, match="it holds: nothing"):
        resolve(tmp_path, "handbook")
    publish(tmp_path, manifest(), FILES)
    with pytest.raises(EngineRefused, match=r"no model 'hand'.*it holds: handbook"):
        resolve(tmp_path, "hand")
    for version in ("2", "..", ""):
        with pytest.raises(EngineRefused, match=r"no version .*it holds: 1"):
            resolve(tmp_path, "handbook", version)


@pytest.mark.parametrize("name", ["*", "..", ".", ""])
def test_a_model_name_is_no_pattern_and_no_path(tmp_path, name):
    publish(tmp_path, manifest(), FILES)
    with pytest.raises(EngineRefused, match="no model"):
        resolve(tmp_path, name)


def test_an_unreadable_version_is_not_passed_over_for_an_older_one(tmp_path):
    publish(tmp_path, manifest(version="1"), FILES)
    newer = publish(tmp_path, manifest(version="2", day=1), FILES)
    (newer / "manifest.json").write_bytes(b"{")
    with pytest.raises(EngineRefused, match=r"2/manifest\.json"):
        resolve(tmp_path, "handbook")
    assert resolve(tmp_path, "handbook", "1").name == "1"


def test_the_batch_profile_is_the_batch():
    assert BatchProfile() == BatchProfile(32, 32, 32)
    with pytest.raises(ValueError, match="must be 32"):
        BatchProfile(min=1)
