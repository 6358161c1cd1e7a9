"""Which shapes of a student are worth their time: the Pareto front, as a table and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from models.protocol import Quality

LATENCY_US_MAX = 16.0
FLOOR = 0.725
"""Of average precision: the mean of the folds."""
CHANCE = 0.0005  # of average precision, between seeds: one standard deviation


class Found(NamedTuple):
    """One shape."""

    hidden: tuple[int, ...]
    int8_us: float  # CPU time of a run at 32 rows
    fp32_us: float
    quality: Quality | None  # mean of the folds and seeds, INT8; None: only timed

    @property
    def name(self) -> str:
        """Its widths."""
        return "-".join(map(str, self.hidden))


def write(found: Sequence[Found], folder: Path) -> None:
    """pareto.svg, pareto.md and pareto.json."""
    picture(found, folder / "pareto.svg")
    (folder / "pareto.md").write_text(table(found))
    rows = [{**shape._asdict(), "quality": shape.quality and shape.quality._asdict()} for shape in found]
    (folder / "pareto.json").write_text(json.dumps(rows, indent=1) + "\n")


def pareto_front(found: Sequence[Found]) -> list[Found]:
    """The judged shapes that none beats in both time and average precision, fastest first."""
    front: list[Found] = []
    for shape in sorted(_judged(found), key=lambda shape: (shape.int8_us, -_precision(shape))):
        if not front or _precision(shape) > _precision(front[-1]):
            front.append(shape)
    return front


def best(found: Sequence[Found]) -> Found | None:
    """Of the shapes within the latency and over the floor, the fastest that differs from the best by chance at most."""
    allowed = [shape for shape in _judged(found) if shape.int8_us <= LATENCY_US_MAX and _precision(shape) >= FLOOR]
    least = max(map(_precision, allowed), default=0.0) - CHANCE
    return min(
        (shape for shape in allowed if _precision(shape) >= least), key=lambda shape: shape.int8_us, default=None
    )


def table(found: Sequence[Found]) -> str:
    """All shapes as Markdown, fastest first."""
    front, chosen = pareto_front(found), best(found)
    lines = [
        "| hidden layers | INT8 us | FP32 us | FP32 / INT8 | AUC ROC | average precision | CP@100 | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in sorted(found, key=lambda shape: shape.int8_us):
        quality = [f"{value:.4f}" for value in shape.quality] if shape.quality else ["-"] * 3
        note = "best within the limits" if shape is chosen else "front" if shape in front else ""
        times = [f"{shape.int8_us:.1f}", f"{shape.fp32_us:.1f}", f"{shape.fp32_us / shape.int8_us:.2f}"]
        lines.append("| " + " | ".join([shape.name, *times, *quality, note]) + " |")
    return "\n".join(lines) + "\n"


def picture(found: Sequence[Found], path: Path) -> None:
    """The shapes and the front as SVG at ``path``; the same figures give the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "fraudgate"
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    front, judged = pareto_front(found), _judged(found)
    axes.plot(*_points(front), color="tab:blue", drawstyle="steps-post", label="Pareto front")
    axes.plot(*_points(judged), "o", color="tab:gray", label="students, INT8 as served")
    for shape in judged:
        axes.annotate(
            shape.name, (shape.int8_us, _precision(shape)), textcoords="offset points", xytext=(4, 4), fontsize=8
        )
    axes.axvline(LATENCY_US_MAX, color="tab:red", linestyle=":", label="latency allowed")
    axes.axhline(FLOOR, color="tab:orange", linestyle=":", label="floor")
    axes.set(xlabel="CPU time of 32 rows, us", ylabel="average precision, mean of the folds")
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def _judged(found: Sequence[Found]) -> list[Found]:
    return [shape for shape in found if shape.quality]


def _precision(shape: Found) -> float:
    assert shape.quality is not None
    return shape.quality.average_precision


def _points(shapes: Sequence[Found]) -> tuple[list[float], list[float]]:
    return [shape.int8_us for shape in shapes], [_precision(shape) for shape in shapes]
