"""What the logs say, and what they keep to themselves."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from fraudgate.errors import EngineFailed
from fraudgate.ops import logs
from fraudgate.sections import Logging

CUSTOMER = "C-0001106"


@pytest.fixture
def restored() -> Iterator[None]:
    """The process's own logging, hooks and levels afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("fraudgate")
    before = root.handlers[:], root.level, ours.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    root.handlers.clear()  # which set_up would close
    yield
    logging.captureWarnings(False)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    root.handlers[:], root.level, ours.level = before


def set_up(format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(Logging(format=format, level=level), stream)  # type: ignore[arg-type]
    return stream


def fail() -> None:
    try:
        {}[CUSTOMER]
    except KeyError as error:
        raise ValueError(f"no window of {CUSTOMER}") from error


@pytest.mark.usefixtures("restored")
def test_a_json_line_has_time_level_logger_message_and_fields() -> None:
    stream = set_up("json")
    logging.getLogger("fraudgate.door").warning('two "lines"\nof %d', 7, extra={"rows": 32})
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {"level": "warning", "logger": "fraudgate.door", "message": 'two "lines"\nof 7', "rows": 32}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_has_its_type_and_traceback_but_not_what_it_says(format: str) -> None:
    stream = set_up(format)
    try:
        fail()
    except ValueError:
        logging.getLogger("fraudgate.door").exception("a batch of %d failed", 3)
    text = stream.getvalue()
    assert CUSTOMER not in text
    assert "a batch of 3 failed" in text
    assert text.index("KeyError: what it says is withheld") < text.index("ValueError: what it says is withheld")
    assert "in fail" in text
    if format == "json":
        assert json.loads(text)["exception"] == "ValueError"


@pytest.mark.usefixtures("restored")
def test_what_speaks_of_models_and_files_is_quoted() -> None:
    stream = set_up("text")
    for error in (EngineFailed("the device is gone"), OSError(28, "No space left on device")):
        try:
            raise error
        except type(error):
            logging.getLogger("fraudgate.engine").exception("failed")
    assert "EngineFailed: the device is gone" in stream.getvalue()
    assert "No space left on device" in stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_a_level_is_that_of_our_loggers_and_never_opens_those_of_libraries() -> None:
    stream = set_up("text", "debug")
    logging.getLogger("fraudgate.door").debug("ours")
    logging.getLogger("grpc").debug("theirs")
    assert stream.getvalue() == "DEBUG fraudgate.door: ours\n"
    stream = set_up("text", "error")
    logging.getLogger("fraudgate.door").warning("ours")
    logging.getLogger("grpc").warning("theirs")
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("restored")
def test_what_nobody_caught_is_told_the_same_way() -> None:
    stream = set_up("text")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
        logs.report(None, {"message": "Task failed", "exception": error, "future": CUSTOMER})  # type: ignore[arg-type]
    text = stream.getvalue()
    assert [line for line in text.splitlines() if line.startswith(("ERROR", "CRITICAL"))] == [
        "ERROR fraudgate.ops.logs: a thread ended",
        "CRITICAL fraudgate.ops.logs: the process ends",
        "ERROR fraudgate.ops.logs: Task failed",
    ]
    assert CUSTOMER not in text
