"""Model directories that somebody spoilt, carelessly or on purpose. Each starts from the published handbook model.

``Version`` is a directory in memory. A saboteur edits it and signs it again: digests always fit unless the digests are
the sabotage. ``forged`` records the golden bits again on the spoilt engine, ``forged_fp32`` the FP32 scores too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, MODEL, Manifest, publish, read_files, read_manifest
from models import served
from models.network import Network
from models.quantise import INPUT, OUTPUT, export
from models.ramps import RampLayer

PUBLISHED = Path(__file__).parents[2] / "models" / "repository" / "handbook" / "2026.11.22"
RUN_US = 10.0
"""What the versions here promise: a sound graph takes about as much, a slow one 30 times."""
RAW = "raw"


@dataclass(frozen=True)
class Version:
    """A model directory before it is written."""

    manifest: Manifest
    model: onnx.ModelProto
    rows: golden.Golden

    def write(self, root: Path, **files: bytes) -> Path:
        """Publish it under ``root``, digests and all, and these .json files; its directory."""
        found = {MODEL: self.model.SerializeToString(), GOLDEN: golden.encode(self.rows), "card.md": b"# spoilt\n"}
        return publish(root, self.manifest, found | {f"{name}.json": data for name, data in files.items()})

    def scores(self) -> np.ndarray:
        engine = OnnxEngine(self.model.SerializeToString(), self.manifest)
        return golden.score(engine, self.rows.features.astype(np.float64))

    def forged(self) -> "Version":
        """The golden bits are what this engine gives."""
        engine = OnnxEngine(self.model.SerializeToString(), self.manifest)
        return replace(self, rows=golden.record(engine, self.rows.features, self.rows.fp32))

    def forged_fp32(self) -> "Version":
        """So are the FP32 scores."""
        return replace(self, rows=self.rows._replace(fp32=self.scores())).forged()

    def declaring(self, **fields: object) -> "Version":
        """Another manifest."""
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **fields))

    def edited(self, edit: Callable[[onnx.GraphProto], None]) -> "Version":
        """Another graph."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        edit(model.graph)
        return replace(self, model=model)

    def changing(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> "Version":
        """Another constant."""
        return self.edited(lambda graph: _change(graph, name, change))

    def ending(self, *nodes: onnx.NodeProto, **constants: np.ndarray | np.generic) -> "Version":
        """Nodes behind the last one: from ``RAW``, the sound score, to ``OUTPUT``."""
        return self.edited(lambda graph: _end(graph, nodes, constants))


@cache
def sound() -> Version:
    """The published model, published anew on this host: with FP32 scores and with the time of a run."""
    manifest = read_manifest(PUBLISHED)
    files = read_files(PUBLISHED, manifest)
    rows = golden.decode(files[GOLDEN])
    model = onnx.load_from_string(files[MODEL])
    fp32 = served.score(export(network(model), "fp32"), "fp32", rows.features)
    metrics = manifest.metrics | {"run_us": {"int8": RUN_US}}
    version = Version(msgspec.structs.replace(manifest, metrics=metrics), model, rows._replace(fp32=fp32))
    return version.forged()


def node(op: str, inputs: list[str], output: str = OUTPUT, **attributes: Any) -> onnx.NodeProto:
    """A node of one output."""
    return helper.make_node(op, inputs, [output], **attributes)


def looping(turns: int) -> onnx.NodeProto:
    """The score, after ``turns`` turns of doing nothing; the constants ``turns`` and ``go`` belong to it."""
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("turn", TensorProto.INT64, []),
            ("going", TensorProto.BOOL, []),
            ("value", TensorProto.FLOAT, [32, 1]),
            ("still_going", TensorProto.BOOL, []),
            ("same_value", TensorProto.FLOAT, [32, 1]),
        )
    ]
    nodes = [node("Identity", ["going"], "still_going"), node("Identity", ["value"], "same_value")]
    body = helper.make_graph(nodes, "body", values[:3], values[3:])
    return node("Loop", ["turns", "go", RAW], body=body)


def network(model: onnx.ModelProto) -> Network:
    """The network of a published graph, its hidden weights as the integers say."""
    constant = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    bias, weight = -constant["floor"], constant["output_weight"]
    output_bias = (constant["output_bias"] - bias.astype(np.float64) @ weight).astype(np.float32)
    hidden = constant["hidden_steps"].astype(np.float32) * constant["hidden_scale"]
    ramps = RampLayer(constant["ramp_weight"], constant["ramp_bias"])
    return Network(ramps, (hidden, weight), (bias, output_bias))


def _change(graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    before = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(before.copy()), before.dtype), name))


def _end(
    graph: onnx.GraphProto, nodes: tuple[onnx.NodeProto, ...], constants: Mapping[str, np.ndarray | np.generic]
) -> None:
    graph.node[-1].output[0] = RAW
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())


AMOUNT = (
    node("Slice", [INPUT, "first", "second", "columns"], "amount"),
    {"first": np.array([0]), "second": np.array([1]), "columns": np.array([1])},
)
"""The amount alone, [32, 1]: nodes and constants to lead an ``ending``."""
