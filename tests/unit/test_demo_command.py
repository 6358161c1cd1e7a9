"""The demo's command line: what is refused before anything is started, and what is left behind."""

import argparse
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudgate.cli import main
from fraudgate.commands import demo
from fraudgate.demo import run
from fraudgate.demo.summary import Result
from fraudgate.errors import FraudgateError
from tests.unit.test_demo_page import RESULTS


@pytest.fixture(autouse=True)
def keep_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The working folders of demos that end at once, with the benchmark's result unless a test says otherwise."""
    return stand_in(monkeypatch, lambda: RESULTS["benchmark"])


def stand_in(monkeypatch: pytest.MonkeyPatch, ending: Callable[[], Result]) -> list[Path]:
    folders: list[Path] = []

    def run_demo(options: run.Options) -> Result:
        assert options.work.is_dir()
        folders.append(options.work)
        return ending()

    monkeypatch.setattr(run, "run_demo", run_demo)
    return folders


def fails(error: BaseException) -> Callable[[], Result]:
    def ending() -> Result:
        raise error

    return ending


def test_everything_is_written_and_nothing_left(
    works: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    html, form = tmp_path / "run" / "page.html", tmp_path / "demo.json"
    assert main(["demo", "--html", str(html), "--json", str(form)]) == 0
    assert html.read_text().startswith("<!doctype html>")
    assert json.loads(form.read_text())["data"] == "handbook"
    assert "HOLDS" in capsys.readouterr().out
    assert not works[0].exists()


def test_json_on_stdout_is_alone_there(works: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["demo", "--html", str(tmp_path / "page.html"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["window_mismatches"] == 0
    assert "HOLDS" in err


def test_a_shortfall_is_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stand_in(monkeypatch, lambda: RESULTS["short"])
    assert main(["demo", "--html", str(tmp_path / "page.html")]) == 1
    assert "FALLS SHORT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [(FraudgateError("the server ended"), "the server ended"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_demo_that_breaks_off_cleans_up_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture, error: BaseException, message: str
) -> None:
    folders = stand_in(monkeypatch, fails(error))
    assert main(["demo", "--html", str(tmp_path / "page.html")]) == 1
    assert message in capsys.readouterr().err
    assert not folders[0].exists()


def test_keep_keeps_the_working_folder(
    works: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo", "--keep", "--html", str(tmp_path / "page.html")]) == 0
    assert works[0].is_dir()
    assert f"kept {works[0]}" in capsys.readouterr().err


def test_a_wrong_folder_or_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = str(tmp_path / "page.html")
    assert main(["demo", "--html", page, "--data", str(tmp_path)]) == 2
    (tmp_path / "file").touch()
    assert main(["demo", "--html", str(tmp_path / "file" / "page.html")]) == 2
    said = capsys.readouterr().err
    assert "--data" in said
    assert "cannot write" in said


@pytest.mark.parametrize("words", [["--rate", "0"], ["--rate", "x"], ["--rows", "0"], ["--rows", "1.5"]])
def test_numbers_have_to_make_sense(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
