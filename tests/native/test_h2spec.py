"""HTTP/2 as a stranger speaks it: h2spec, a conformance client that nobody here wrote, in full and strict.

``H2SPEC_PORT=50051 .venv/bin/pytest tests/native/test_h2spec.py`` points it at a server on loopback that runs already.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from tests.integration import server

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
PORT = os.environ.get("H2SPEC_PORT", "")
CASES_MIN = 146
"""What this version of h2spec holds: fewer means that it did not run in full."""
TIMEOUT_SECONDS = 2
"""How long h2spec waits for each thing that a server must do."""
INSTALL_SECONDS_MAX, RUN_SECONDS_MAX = 300, 400
ALLOWED: dict[str, str] = {}
"""Cases that may fail, as "section: what is sent", and why that is right."""


class Ended(NamedTuple):
    """What a run of h2spec came to; a case is "section: what is sent"."""

    cases: int
    failures: dict[str, str]
    """What the server did instead, by case."""
    skipped: list[str]


def ended(junit: str) -> Ended:
    """The result in a JUnit report of h2spec's."""
    cases, failures, skipped = 0, {}, []
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name = f"{case.get('package')}: {case.get('classname')}"
        cases += 1
        if case.find("skipped") is not None:
            skipped.append(name)
        for kind in ("error", "failure"):
            if (found := case.find(kind)) is not None:
                failures[name] = " / ".join((found.text or "no reason given").split("\n"))
    return Ended(cases, failures, skipped)


@pytest.fixture
def target() -> int | None:
    """What H2SPEC_PORT names; None = a server of our own, for which the native module must be there."""
    if not PORT:
        pytest.importorskip("fraudgate_ingress", reason="fraudgate_ingress is not built")
    return int(PORT) if PORT else None


@pytest.fixture
def h2spec(target: int | None) -> str:
    """The path of h2spec; where it is missing, go puts it beside this Python, once."""
    beside = Path(sys.prefix) / "bin"
    path = shutil.which("h2spec", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        go = shutil.which("go")
        if go is None:
            pytest.skip("h2spec is missing, and so is go (https://go.dev/dl), which would install it")
        environment = {**os.environ, "GOBIN": str(beside)}
        command = [go, "install", MODULE]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
        if result.returncode:
            pytest.skip(f"h2spec is missing, and go cannot install it: {result.stderr.strip()[-500:]}")
        path = str(beside / "h2spec")
    return path


@pytest.fixture
async def port(target: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The data plane of the server that is tested."""
    if target is not None:
        yield target
        return
    monkeypatch.setattr(server, "frontend", "native")
    models = server.publish_small_model(tmp_path / "models")
    async with server.serve_child(tmp_path, models) as child:
        yield child.data_port


def report_of(h2spec: str, port: int, report: Path) -> str:
    """Run h2spec against this port of loopback; its JUnit report."""
    flags = ["--strict", "--host", "127.0.0.1", "--port", str(port), "--timeout", str(TIMEOUT_SECONDS)]
    command = [h2spec, *flags, "--junit-report", str(report)]
    subprocess.run(command, capture_output=True, timeout=RUN_SECONDS_MAX)  # its status says what the report says
    return report.read_text("utf-8")


async def test_every_case_of_h2spec_holds(h2spec: str, port: int, tmp_path: Path) -> None:
    result = ended(await asyncio.to_thread(report_of, h2spec, port, tmp_path / "h2spec.xml"))
    lines = [f"{case}\n    {instead}" for case, instead in result.failures.items() if case not in ALLOWED]
    assert not lines, f"{len(lines)} of {result.cases} cases failed:\n" + "\n".join(lines)
    assert ALLOWED.keys() <= result.failures.keys(), "a case of ALLOWED holds: take it out"
    assert (result.cases >= CASES_MIN, result.skipped) == (True, [])


def test_a_failure_is_found() -> None:
    report = """<?xml version="1.0"?><testsuites><testsuite>
        <testcase package="generic/1" classname="Sends a preface" time="0.1"></testcase>
        <testcase package="generic/2" classname="Sends a DATA frame"><error>DATA frame\nTimeout</error></testcase>
        <testcase package="generic/3" classname="Sends a word"><skipped></skipped></testcase>
    </testsuite></testsuites>"""
    failures = {"generic/2: Sends a DATA frame": "DATA frame / Timeout"}
    assert ended(report) == Ended(3, failures, ["generic/3: Sends a word"])
