"""Cores are divided where there are cores to divide, and a process keeps to its own."""

import os
import subprocess
import sys

import pytest

from fraudgate.demo import placement
from fraudgate.demo.placement import Placement, divide_cores, keep_to

NOWHERE = frozenset[int]()
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")


@linux
@pytest.mark.parametrize(
    ("cores", "server", "client", "words"),
    [
        ({3}, set(), set(), "server and client share what cores there are"),
        ({0, 1}, {0}, {1}, "server on core 0, client on core 1"),
        ({0, 2, 5}, {0}, {2, 5}, "server on core 0, client on cores 2, 5"),
    ],
)
def test_each_gets_half(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], server: set[int], client: set[int], words: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert divide_cores() == Placement(frozenset(server), frozenset(client))
    assert str(divide_cores()) == words


@linux
def test_a_process_keeps_to_its_cores() -> None:
    core = min(os.sched_getaffinity(0))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        keep_to(NOWHERE, child.pid)
        assert os.sched_getaffinity(child.pid) == os.sched_getaffinity(0)
        keep_to(frozenset({core}), child.pid)
        assert os.sched_getaffinity(child.pid) == {core}
    finally:
        child.kill()
        child.wait()
    keep_to(frozenset({core}), child.pid)  # it has ended: nothing to do


def test_a_system_without_affinity_has_nothing_to_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    assert divide_cores() == Placement(NOWHERE, NOWHERE)
    placement.yield_to_no_one()
