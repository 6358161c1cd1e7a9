"""Which engine and which rules an answer's edition stands for: ``editions-RUN.jsonl`` beside the files of a batch log.

A line is an edition. It is there before the first batch that it decides, for engines change while a file is open.
"""

import logging
from pathlib import Path

import msgspec

from fraudgate.editions import Edition
from fraudgate.errors import SnapshotError

_log = logging.getLogger(__name__)


class LoggedEdition(msgspec.Struct, frozen=True):
    """What a replay has to know of an edition."""

    number: int
    model_name: str
    model_version: str
    engine_digest: str
    rules_version: str

    @property
    def model(self) -> str:
        """NAME/VERSION, as people write it."""
        return f"{self.model_name}/{self.model_version}"


def note_edition(directory: Path, run: str, number: int, edition: Edition) -> None:
    """Add an edition to the file of a run. A file that cannot be written costs the replay, and no decision."""
    logged = LoggedEdition(
        number, edition.model_name, edition.model_version, edition.engine_digest, edition.texts.version
    )
    try:
        with _path(directory, run).open("ab") as file:
            file.write(msgspec.json.encode(logged) + b"\n")
    except OSError as error:
        _log.error("batch log: decisions of %s cannot be replayed: %s", logged.model, error)


def read_editions(directory: Path, run: str) -> dict[int, LoggedEdition]:
    """The editions of a run by number; an unfinished last line is left out. Raises SnapshotError."""
    path = _path(directory, run)
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        editions = [msgspec.json.decode(line, type=LoggedEdition) for line in lines]
    except (OSError, msgspec.MsgspecError) as error:
        raise SnapshotError(f"{path}: {error}; without it the log does not say which engine decided") from error
    return {edition.number: edition for edition in editions}


def _path(directory: Path, run: str) -> Path:
    return directory / f"editions-{run}.jsonl"
