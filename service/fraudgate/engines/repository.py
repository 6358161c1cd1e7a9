"""The model repository: ``<root>/<model>/<version>/`` holds manifest.json, model.onnx, golden.arrow, a card and,
since it is written, drift.json.

A version is published by renaming a complete directory into place, its manifest written last, and never changes
afterwards. A directory without a manifest is not published yet. Nothing here needs a runtime.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from fraudgate.errors import EngineRefused, ModelMissing
from fraudgate.limits import BATCH_ROWS_MAX

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.arrow"
DRIFT = "drift.json"
MANIFEST_BYTES_MAX = 1 << 20
FILE_BYTES_MAX = 256 << 20

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")]
"""A model, version or file name: no separators, no leading dot, so that it cannot leave its directory."""
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Precision = Literal["int8", "fp32"]
GraphOptimisation = Literal["all", "extended", "basic", "disabled"]


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of the graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class BatchProfile(Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of one engine call: always ``BATCH_ROWS_MAX``, padded."""

    min: int = BATCH_ROWS_MAX
    opt: int = BATCH_ROWS_MAX
    max: int = BATCH_ROWS_MAX

    def __post_init__(self) -> None:
        if (self.min, self.opt, self.max) != (BATCH_ROWS_MAX,) * 3:
            raise ValueError(f"batch min, opt and max must be {BATCH_ROWS_MAX}: export the graph with that fixed shape")


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True):
    """A score at or over ``review`` is reviewed, at or over ``decline`` declined. Probabilities."""

    review: float
    decline: float

    def __post_init__(self) -> None:
        if not 0 < self.review <= self.decline <= 1:
            raise ValueError("thresholds need 0 < review <= decline <= 1")


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """One scale and bias on the logit. A record: both are folded into the graph's last layer already."""

    scale: float
    bias: float


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a published version says about itself. ``files`` is filled in by ``publish``."""

    name: Name
    version: Name
    files: dict[Name, Digest] = {}
    schema_fingerprint: Digest
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batch: BatchProfile = BatchProfile()
    precision: Precision
    calibration_set_digest: Digest
    metrics: dict[str, dict[str, float]]
    thresholds: Thresholds
    calibration: Calibration
    graph_optimisation: GraphOptimisation = "all"
    command: str
    published_at: Annotated[datetime, Meta(tz=True)]

    @property
    def engine_digest(self) -> str:
        """SHA-256 of the engine's bytes, 64 hex digits."""
        return self.files[MODEL]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, 64 hex digits. It names every file's digest, so it stands for the whole version."""
        return _sha256(msgspec.json.encode(self))


class Version(NamedTuple):
    """A version as it was read: its manifest, and the bytes of its files, proved against that."""

    manifest: Manifest
    files: dict[str, bytes]


class ModelEntry(NamedTuple):
    """One version of the repository; ``problem`` says why it cannot be served, empty when nothing speaks against it."""

    name: str
    version: str
    manifest: Manifest | None
    problem: str


def publish(root: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Publish a version atomically and return its directory.

    Everything is written and synced in a hidden directory beside, then renamed into place; a crash leaves either the
    whole version or none. Raises EngineRefused when the version exists or the manifest does not hold.
    """
    manifest = msgspec.structs.replace(manifest, files={name: _sha256(data) for name, data in sorted(files.items())})
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    _decode(encoded, f"{manifest.name}/{manifest.version}")
    target = Path(root) / manifest.name / manifest.version
    if target.exists():
        raise EngineRefused(f"{target} exists, and a published version never changes: choose another version")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".publishing-{manifest.version}-", dir=target.parent))
    try:
        building.chmod(0o755)
        for name, data in files.items():
            _write_synced(building / name, data)
        _write_synced(building / MANIFEST, encoded)
        _sync_directory(building)
        building.rename(target)
    except OSError as error:
        raise EngineRefused(f"cannot publish {target}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _sync_directory(target.parent)
    return target


def read_manifest(model_dir: Path) -> Manifest:
    """The manifest of a version's directory, checked by itself and against the directory's two names."""
    model_dir = Path(model_dir).resolve()
    manifest = _decode(_read(model_dir / MANIFEST, MANIFEST_BYTES_MAX), str(model_dir / MANIFEST))
    if (manifest.name, manifest.version) != (model_dir.parent.name, model_dir.name):
        raise EngineRefused(
            f"{model_dir}: the manifest is of {manifest.name}/{manifest.version}; "
            "publish a version under its own name instead of copying it"
        )
    return manifest


def check_schema(manifest: Manifest, schema_fingerprint: str) -> None:
    """Refuse a model that was trained on other features than those served."""
    if manifest.schema_fingerprint != schema_fingerprint:
        raise EngineRefused(
            f"trained on feature schema {manifest.schema_fingerprint}, but {schema_fingerprint} is served: "
            "serve its own schema or train it again"
        )


def read_files(model_dir: Path, manifest: Manifest) -> dict[str, bytes]:
    """The bytes of every file of the manifest, digests checked on the very bytes returned.

    Raises EngineRefused for a missing, changed, oversized, linked or foreign file.
    """
    model_dir = Path(model_dir)
    try:
        foreign = sorted({path.name for path in model_dir.iterdir()} - set(manifest.files) - {MANIFEST})
    except OSError as error:
        raise EngineRefused(f"cannot read {model_dir}: {error}") from error
    if foreign:
        raise EngineRefused(f"{model_dir} holds files that its manifest does not name: {', '.join(foreign)}")
    return {name: _read_proved(model_dir / name, digest) for name, digest in manifest.files.items()}


def read_version(model_dir: Path, manifest: Manifest | None = None) -> Version:
    """A version, each file read once. ``manifest``: one read earlier, which the files must still fit.

    Raises EngineRefused as ``read_manifest`` and ``read_files`` do.
    """
    manifest = manifest or read_manifest(model_dir)
    return Version(manifest, read_files(model_dir, manifest))


def list_models(root: Path) -> list[ModelEntry]:
    """Every published version by name, then version; manifests and digests are checked, graphs are not loaded."""
    return [_entry(model_dir) for model_dir in _version_dirs(Path(root))]


def resolve(root: Path, name: str, version: str | None = None) -> Path:
    """The directory of a version; without ``version`` of the one published last.

    A version that cannot be read is never passed over in silence: it might be the newest. Raises ModelMissing.
    """
    dirs = {path.name: path for path in _version_dirs(Path(root), name)}
    if not dirs:
        known = sorted({path.parent.name for path in _version_dirs(Path(root))})
        raise ModelMissing(f"no model {name!r} in {root}; it holds: {', '.join(known) or 'nothing'}")
    if version is not None:
        if version not in dirs:
            raise ModelMissing(f"no version {version!r} of {name!r} in {root}; it holds: {', '.join(sorted(dirs))}")
        return dirs[version]
    return max(dirs.values(), key=lambda path: (read_manifest(path).published_at, path.name))


def _version_dirs(root: Path, name: str | None = None) -> list[Path]:
    models = sorted(root.iterdir()) if root.is_dir() else []
    chosen = [path for path in models if path.is_dir() and path.name[0] != "." and name in (None, path.name)]
    versions = [path for model in chosen for path in sorted(model.iterdir())]
    return [path for path in versions if path.name[0] != "." and (path / MANIFEST).exists()]


def _entry(model_dir: Path) -> ModelEntry:
    name, version = model_dir.parent.name, model_dir.name
    manifest = None
    try:
        manifest = read_manifest(model_dir)
        read_files(model_dir, manifest)
    except EngineRefused as refusal:
        return ModelEntry(name, version, manifest, str(refusal))
    return ModelEntry(name, version, manifest, "")


def _decode(data: bytes, where: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise EngineRefused(f"{where}: {error}") from error
    if MODEL not in manifest.files:
        raise EngineRefused(f"{where}: files must name {MODEL}")
    if MANIFEST in manifest.files:
        raise EngineRefused(f"{where}: a manifest cannot hold its own digest; leave {MANIFEST} out of files")
    return manifest


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise EngineRefused(f"cannot read {path}: {error.strerror}") from error
    if len(data) > bytes_max:
        raise EngineRefused(f"{path} is larger than {bytes_max} bytes")
    return data


def _read_proved(path: Path, wanted: str) -> bytes:
    data = _read(path, FILE_BYTES_MAX)
    if (digest := _sha256(data)) != wanted:
        raise EngineRefused(f"{path} has SHA-256 {digest}, its manifest says {wanted}: publish it again")
    return data


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
