"""What the process says on standard error, as text or as a JSON object a line, without what its callers sent.

Our own messages name counts, files and models, never ids or amounts. What an exception says may hold a caller's values
(``KeyError: 'C-17'``), so only those that speak of files, models and settings are quoted; of others the log has the
type and the traceback, whose lines are source code.
"""

import asyncio
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fraudgate.errors import ConfigError, EngineFailed, EngineRefused, RuleError, SchemaError, SnapshotError
from fraudgate.sections import Logging

QUOTED = (ConfigError, EngineFailed, EngineRefused, OSError, RuleError, SchemaError, SnapshotError)
WITHHELD = "what it says is withheld: it may hold a caller's data"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_log = logging.getLogger(__name__)


def set_up(settings: Logging, stream: Any = None) -> None:
    """Send every logger, warning and uncaught exception to ``stream`` (standard error)."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if settings.format == "json" else Text())
    level = settings.level.upper()
    logging.basicConfig(level=max(logging.INFO, logging.getLevelName(level)), handlers=[handler], force=True)
    logging.getLogger("fraudgate").setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: _log.critical("the process ends", exc_info=(kind, error, trace))
    sys.unraisablehook = lambda args: _log.error("nobody could catch this", exc_info=args.exc_value)
    threading.excepthook = lambda args: _log.error("a thread ended", exc_info=args.exc_value)


def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler. The loop's own would print futures and arguments."""
    _log.error("%s", context.get("message", "a callback failed"), exc_info=context.get("exception"))


class Text(logging.Formatter):
    """``LEVEL logger: message``, with the traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname} {record.name}: {record.getMessage()}"
        error = _error_of(record)
        return line if error is None else f"{line}\n{told(error)}"


class Json(logging.Formatter):
    """time (UTC), level, logger, message, and what the call gave as ``extra``; of an exception type and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        error = _error_of(record)
        if error is not None:
            line |= {"exception": type(error).__qualname__, "traceback": told(error)}
        return json.dumps(line, default=str)


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def told(error: BaseException) -> str:
    """A traceback as Python prints it, causes first; see the module for what it leaves out."""
    return "\n".join(reversed([_told_alone(each) for each in _chain(error)]))


def _told_alone(error: BaseException) -> str:
    says = str(error) if isinstance(error, QUOTED) else WITHHELD
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {says}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
