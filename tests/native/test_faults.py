"""A small ``make bench-faults``: what comes late of a server under load is explained by the fault that was injected.

The machine of a test may be busy with others, which is a cause of its own: beside the fault's, only that of a CPU that
was not to be had, or taken away, may be named for most. The bound is the benchmark's.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")

from benchmarks import faults
from benchmarks.faults import FAULTS, Load, Place, measure

pytestmark = pytest.mark.slow  # a minute; and a test machine's neighbours must not fail it
BUSY_MACHINE = {"cpu_wait", "front_wait", "cpu_steal"}
STRIKES = {"steal": 5, "swap": 1}
"""The others strike twice."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with faults.serving(tmp_path_factory.mktemp("faults")) as place:
        place.strike("garbage")
        yield place


@pytest.fixture(scope="module")
def load(place: Place) -> Load:
    made = Load(place)
    made.send(faults.RATE, 1.0)
    return made


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "neighbour"])
def test_what_comes_late_names_the_fault(place: Place, load: Load, name: str) -> None:
    fault = FAULTS[name]
    late = measure(place, load, fault, STRIKES.get(name, 2))
    others = Counter({cause: n for cause, n in late.items() if cause not in BUSY_MACHINE.union(fault.causes)})
    assert late.total() > 0
    assert others.total() <= sum(late[cause] for cause in BUSY_MACHINE.union(fault.causes)) / 4, late
    assert name == "burst" or sum(late[cause] for cause in fault.causes), late
