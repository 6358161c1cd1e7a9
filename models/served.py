"""A graph as serving sees it: its scores, its kernels and its time, all from the service's own engine."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time_ns
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import Calibration, Manifest, Precision, Tensor, Thresholds
from fraudgate.errors import EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32
from models.quantise import INPUT, OUTPUT

TIMED_ROUNDS, TIMED_RUNS = 9, 2_000
INT8_KERNELS = frozenset({"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})


def manifest_of(name: str, precision: Precision, features: int, **fields: Any) -> Manifest:
    """A manifest for a graph of ``quantise.export`` on ``features`` features; ``fields``: what differs from a draft."""
    draft: dict[str, Any] = {
        "version": "draft",
        "schema_fingerprint": "0" * 64,
        "calibration_set_digest": "0" * 64,
        "metrics": {},
        "thresholds": Thresholds(review=0.5, decline=0.5),
        "calibration": Calibration(scale=1.0, bias=0.0),
        "command": "",
        "published_at": datetime.fromtimestamp(0, UTC),
    }
    return Manifest(
        name=name,
        precision=precision,
        inputs=(Tensor(INPUT, "float32", (BATCH_ROWS_MAX, features)),),
        outputs=(Tensor(OUTPUT, "float32", (BATCH_ROWS_MAX, 1)),),
        **(draft | fields),
    )


def engine_of(graph: bytes, precision: Precision) -> OnnxEngine:
    """An engine on a graph that is not published."""
    (features,) = onnx.load_from_string(graph).graph.input
    _, columns = features.type.tensor_type.shape.dim
    return OnnxEngine(graph, manifest_of("draft", precision, columns.dim_value))


def score(graph: bytes, precision: Precision, features: Float32) -> Float32:
    """Scores [n] of float32 ``features`` [n, F], in batches of 32 as served."""
    return golden.score(engine_of(graph, precision), features.astype(np.float64))


def kernels(graph: bytes) -> list[str]:
    """The operators that the runtime really runs on this host, after its own optimisation."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


class Comparison(NamedTuple):
    """INT8 beside FP32, of the same network on the same rows; keys are precisions."""

    scores: dict[Precision, Float32]  # [n]
    kernels: dict[Precision, list[str]]
    run_us: dict[Precision, float]  # CPU time of one run at 32 rows
    largest_change: float  # of a score
    distinct_scores: int  # INT8


def compare(graphs: Mapping[Precision, bytes], features: Float32) -> Comparison:
    """Score float32 ``features`` [n, F] in both precisions. Raises EngineRefused where no INT8 kernel would run."""
    scores = {precision: score(graph, precision, features) for precision, graph in graphs.items()}
    used = {precision: kernels(graph) for precision, graph in graphs.items()}
    if not INT8_KERNELS.intersection(used["int8"]):
        raise EngineRefused(f"the runtime fused no INT8 kernel: {', '.join(used['int8'])}")
    return Comparison(
        scores,
        used,
        run_us(graphs, features),
        float(np.abs(scores["int8"] - scores["fp32"]).max()),
        len(np.unique(scores["int8"])),
    )


def run_us(graphs: Mapping[Precision, bytes], features: Float32) -> dict[Precision, float]:
    """CPU time of one run at 32 rows, microseconds: the best of many rounds, which the graphs take turns in."""
    engines = {precision: engine_of(graph, precision) for precision, graph in graphs.items()}
    slab = Slab(features.shape[1])
    slab.pack(features[:BATCH_ROWS_MAX].astype(np.float64))
    for engine in engines.values():
        engine.bind([slab])
    rounds = [{name: _time_us(engine) for name, engine in engines.items()} for _ in range(TIMED_ROUNDS)]
    return {precision: min(taken[precision] for taken in rounds) for precision in engines}


def _time_us(engine: OnnxEngine) -> float:
    start_ns = process_time_ns()
    for _ in range(TIMED_RUNS):
        engine.run(0)
    return (process_time_ns() - start_ns) / TIMED_RUNS / 1_000
