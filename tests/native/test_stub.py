"""The stub of the native module says what the module holds."""

import subprocess
import sys
from pathlib import Path

import pytest

MADE_BY_MATURIN = ("fraudgate_ingress.__all__", "fraudgate_ingress.fraudgate_ingress")
NOT_BEFORE_PYTHON_3_12 = ("fraudgate_ingress.Columns.__buffer__",)


def test_the_stub_fits_the_module(tmp_path: Path) -> None:
    pytest.importorskip("fraudgate_ingress", reason="fraudgate_ingress is not built")
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("\n".join(MADE_BY_MATURIN + NOT_BEFORE_PYTHON_3_12), "utf-8")
    flags = ["--allowlist", str(allowed), "--ignore-unused-allowlist", "--ignore-disjoint-bases"]
    command = [sys.executable, "-m", "mypy.stubtest", "fraudgate_ingress", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
