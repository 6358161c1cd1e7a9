"""Which shapes are worth their time."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the [train] extra: make train installs it")

from models.pareto import FLOOR, LATENCY_US_MAX, Found, best, pareto_front, table, write
from models.protocol import Quality


def shape(width: int, us: float, precision: float) -> Found:
    return Found((width, 8), us, us * 1.1, Quality(0.88, precision, 0.29))


@pytest.mark.parametrize("seed", range(20))
def test_front_against_every_pair(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = [shape(i, float(random.integers(5, 15)), float(random.integers(700, 712)) / 1_000) for i in range(12)]
    front = pareto_front(found)

    def beaten(one: Found) -> bool:
        return any(
            other.int8_us <= one.int8_us
            and other.quality.average_precision >= one.quality.average_precision
            and (other.int8_us, other.quality) != (one.int8_us, one.quality)
            for other in found
        )

    assert {(each.int8_us, each.quality) for each in front} == {
        (each.int8_us, each.quality) for each in found if not beaten(each)
    }


def test_the_best_is_within_latency_and_over_the_floor() -> None:
    slow = shape(1, LATENCY_US_MAX + 1, FLOOR + 0.02)
    quick = shape(2, 5.0, FLOOR - 0.01)
    good = shape(3, 9.0, FLOOR + 0.01)
    assert best([slow, quick, good]) is good
    no_better = shape(4, 10.0, FLOOR + 0.0103)
    assert best([slow, quick, good, no_better]) is good
    better = shape(5, 10.0, FLOOR + 0.011)
    assert best([slow, quick, good, better]) is better
    assert best([slow, quick]) is None


def test_the_same_figures_give_the_same_files(tmp_path: Path) -> None:
    found = [shape(1, 9.0, 0.73), shape(2, 8.0, 0.72), Found((512,), 22.0, 44.0, None)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(found, tmp_path / name)
    for file in ("pareto.svg", "pareto.md", "pareto.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert "| 512 | 22.0 | 44.0 | 2.00 | - | - | - |  |" in table(found)
