"""A graph as serving sees it: its scores, its kernels and its time, all from the service's own engine."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time_ns
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import Calibration, Manifest, Precision, Tensor, Thresholds
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32
from models.dataset import SCHEMA
from models.quantise import INPUT, OUTPUT

TIMED_ROUNDS, TIMED_RUNS = 9, 2_000
INT8_KERNELS = frozenset({"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})


def manifest_of(name: str, precision: Precision, **fields: Any) -> Manifest:
    """A manifest for a graph of ``quantise.export``; what ``fields`` does not give holds for a draft."""
    draft: dict[str, Any] = {
        "version": "draft",
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
        schema_fingerprint=SCHEMA.fingerprint,
        inputs=(Tensor(INPUT, "float32", (BATCH_ROWS_MAX, len(SCHEMA.names))),),
        outputs=(Tensor(OUTPUT, "float32", (BATCH_ROWS_MAX, 1)),),
        **(draft | fields),
    )


def engine_of(graph: bytes, precision: Precision) -> OnnxEngine:
    """An engine on a graph that is not published."""
    return OnnxEngine(graph, manifest_of("draft", precision))


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


def run_us(graphs: Sequence[tuple[bytes, Precision]], features: Float32) -> list[float]:
    """CPU time of one run at 32 rows, microseconds: the best of rounds that take turns, so that all see the same host."""
    slabs = []
    engines = [engine_of(graph, precision) for graph, precision in graphs]
    for engine in engines:
        slab = Slab(features.shape[1])
        slab.pack(features[:BATCH_ROWS_MAX].astype(np.float64))
        engine.bind([slab])
        slabs.append(slab)
    best = [float("inf")] * len(engines)
    for _ in range(TIMED_ROUNDS):
        for i, engine in enumerate(engines):
            best[i] = min(best[i], _time_us(engine))
    return best


def _time_us(engine: OnnxEngine) -> float:
    start_ns = process_time_ns()
    for _ in range(TIMED_RUNS):
        engine.run(0)
    return (process_time_ns() - start_ns) / TIMED_RUNS / 1_000
