"""``python -m models.publish --dataset handbook``: put a draft of ``models.train`` into the repository.

The draft is proved once more on this host, golden rows and all, then renamed into models/repository as a whole.
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fraudgate.engines import golden, probes
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import DRIFT, GOLDEN, MANIFEST, MODEL, Manifest, publish
from fraudgate.errors import EngineRefused, FraudgateError
from models.sources import DATASETS, HISTORY_SUFFIX

DRAFTS = Path("run/models")
REPOSITORY = Path(__file__).parent / "repository"
CARD = "card.md"
FILES = (MODEL, GOLDEN, CARD, DRIFT)


def write_draft(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a draft: ``FILES`` and a manifest that names neither version nor digests yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(files[name])
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def publish_draft(folder: Path, version: str, repository: Path = REPOSITORY) -> Path:
    """Publish the draft in ``folder`` and return the version's directory.

    Raises EngineRefused for a draft that misses its floor, that this host does not prove, that strays from FP32, or
    whose version exists.
    """
    try:
        draft = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        files = {name: (folder / name).read_bytes() for name in FILES}
    except (OSError, msgspec.MsgspecError) as error:
        raise EngineRefused(f"{folder} holds no draft ({error}): run python -m models.train first") from error
    manifest = msgspec.structs.replace(draft, version=version, published_at=datetime.now(UTC).replace(microsecond=0))
    if missed := shortfalls(manifest):
        raise EngineRefused(f"{folder} misses its floor: {'; '.join(missed)}")
    engine, rows = OnnxEngine(files[MODEL], manifest), golden.decode(files[GOLDEN])
    if not golden.check(engine, rows):
        raise EngineRefused(f"{folder} was made on another class of host: train it here")
    probes.parity(engine, rows)
    return publish(repository, manifest, files)


def shortfalls(manifest: Manifest) -> list[str]:
    """Which metrics of the INT8 model lie under their floor."""
    reached, floor = manifest.metrics["int8"], manifest.metrics["floor"]
    return [
        f"{name} is {reached[name]:.4f}, its floor {least}" for name, least in floor.items() if reached[name] < least
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.publish", description="Publish a trained model.")
    parser.add_argument("--dataset", choices=DATASETS, required=True)
    parser.add_argument("--history", action="store_true", help="the draft that models.train --history left")
    parser.add_argument("--version", default=f"{datetime.now(UTC):%Y.%m.%d}", help="default: today's date")
    parser.add_argument("--drafts", type=Path, default=DRAFTS, metavar="DIR")
    args = parser.parse_args()
    try:
        draft = args.drafts / (args.dataset + HISTORY_SUFFIX * args.history)
        print(f"published {publish_draft(draft, args.version)}")
    except FraudgateError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
