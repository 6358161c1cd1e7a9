"""Rotated stream files of one log directory: whole writes or none, so that a file always ends between two messages."""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

END_OF_STREAM = b"\xff\xff\xff\xff" + bytes(4)
"""What ends an Arrow IPC stream."""

_NAME = re.compile(r"batches-(\d{6,})\.arrows")
_log = logging.getLogger(__name__)


def numbered_files(directory: Path) -> list[Path]:
    """The log files of ``directory``, oldest first; other files are none of ours."""
    numbers = {path: _number(path) for path in directory.iterdir()}
    return sorted((path for path, number in numbers.items() if number), key=lambda path: numbers[path])


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


class RotatedFiles:
    """Writes messages to ``batches-000001.arrows`` and on; a file that has reached ``rotate_bytes`` is ended.

    The next file is made by the first write that needs it, and its number follows the largest in the directory.
    ``write`` and ``finish`` may raise OSError; what was written before stays readable.
    """

    def __init__(self, directory: Path, rotate_bytes: int, files_max: int | None) -> None:
        if rotate_bytes < 1 or (files_max is not None and files_max < 1):
            raise ValueError("need rotate_bytes >= 1 and files_max >= 1")
        self.directory = directory
        self._rotate_bytes = rotate_bytes
        self._files_max = files_max
        self._descriptor = -1
        self._size = 0

    def write(self, message: memoryview, header: Callable[[], memoryview]) -> None:
        """Append one message, after ``header()`` where it starts a file; on an error nothing of it stays behind."""
        if self._descriptor < 0:
            self._open()
        parts = [message] if self._size else [header(), message]
        try:
            for part in parts:
                self._write_whole(part)
        except OSError:
            self._rewind()
            raise
        self._size += sum(map(len, parts))
        if self._size >= self._rotate_bytes:
            self.finish()

    def finish(self) -> None:
        """End the open file, if there is one."""
        if self._descriptor < 0:
            return
        try:
            if self._size:
                self._write_whole(memoryview(END_OF_STREAM))
        finally:
            self._abandon()

    def _write_whole(self, part: memoryview) -> None:
        while part:
            part = part[os.write(self._descriptor, part) :]

    def _rewind(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:  # nothing may follow a torn message
            self._abandon()

    def _abandon(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> None:
        files = numbered_files(self.directory)
        number = _number(files[-1]) if files else 0
        while self._descriptor < 0:
            number += 1
            path = self.directory / f"batches-{number:06d}.arrows"
            # Exclusive: two processes in one directory take turns instead of mixing their rows.
            with suppress(FileExistsError):
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._size = 0
        if self._files_max is not None:
            self._delete(files[: max(0, len(files) + 1 - self._files_max)])

    def _delete(self, files: list[Path]) -> None:
        for path in files:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("batch log: cannot delete %s: %s", path, error)
