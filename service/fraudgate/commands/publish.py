"""``fraudgate model publish DIR``: check a version's directory, and put it into a repository as a whole or not at all.

Checked as ``fraudgate model check DIR --against`` does, beside the newest version of that name where there is one; what
that refuses is not published. The files are read once more afterwards and must be those that were checked.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fraudgate.commands import check
from fraudgate.engines.conformance import Request
from fraudgate.engines.repository import Manifest, publish, read_manifest, read_version, resolve
from fraudgate.engines.sandbox import check_model
from fraudgate.errors import EngineRefused, ModelMissing

HELP = "check a version's directory and put it into a repository, whole or not at all"
MORE = """
DIR is a complete version, as another repository holds it: <anywhere>/<model>/<version> with a manifest that names both
and the digests of the files. It is checked on this host, beside the newest version of that model in the repository;
one check that does not hold, and nothing is written (exit status 1). What is published keeps its name, version and
files; published_at becomes now, so that it is the newest. A running server is not told: promote it there.

  fraudgate model publish build/handbook/2026.12.01
  fraudgate model promote handbook/2026.12.01 --wait
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate model publish``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = MORE
    check.add_common(parser)
    parser.add_argument("--repository", type=Path, default=Path("models/repository"), metavar="ROOT")


def run(args: argparse.Namespace) -> tuple[dict[str, object], list[str], int]:
    """Check and publish: the answer as JSON and as lines, and the exit status. Raises ConfigError, EngineRefused."""
    check.need_directory(args.directory)
    manifest = read_manifest(args.directory)
    target = args.repository / manifest.name / manifest.version
    if target.exists():  # said before a check of ten seconds
        raise EngineRefused(f"{target} exists, and a published version never changes: choose another version")
    newest = _newest(args.repository, manifest.name)
    against = str(newest) if newest else None
    request = Request(str(args.directory), args.schema, args.provider, against=against, plan_dir=args.plan_dir)
    verdict = check_model(request)
    form = check.form(verdict) | {"against": against, "published": None}
    if not verdict.holds:
        return form, [*check.lines(verdict), f"not published: {verdict.reason}"], 1
    published = str(_publish(args.repository, args.directory, manifest, verdict.digest))
    return form | {"published": published}, [*check.lines(verdict), f"published {published}"], 0


def _newest(repository: Path, name: str) -> Path | None:
    try:
        return resolve(repository, name)
    except ModelMissing:
        return None


def _publish(repository: Path, directory: Path, manifest: Manifest, checked: str) -> Path:
    if manifest.digest != checked:
        raise EngineRefused(f"{directory} changed while it was checked: publish it again")
    files = read_version(directory, manifest).files
    now = datetime.now(UTC).replace(microsecond=0)
    return publish(repository, msgspec.structs.replace(manifest, published_at=now), files)
