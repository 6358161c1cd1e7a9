"""Sixty ways to spoil a model directory, each with the check that has to find it and what that has to say."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from fraudgate.engines.repository import Thresholds
from tests.integration.sabotaged import AMOUNT, RAW, Version, node, sound

SOUND = sound()


def swap(first: int, second: int, axis: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    def swapped(values: np.ndarray) -> np.ndarray:
        order = np.arange(values.shape[axis])
        order[[first, second]] = second, first
        return np.take(values, order, axis)

    return swapped


COLUMNS = SOUND.changing("ramp_weight", swap(0, 8))  # the amount and the customer's mean of 30 days
WEIGHTS = SOUND.changing("hidden_steps", swap(5, 70))
SCALE = SOUND.changing("hidden_scale", lambda scale: scale * 2)
ZERO_POINT = SOUND.changing("ramp_zero", lambda zero: zero + 40)
CONSTANT = SOUND.changing("output_weight", np.zeros_like)
SHIFTED = SOUND.changing("output_bias", lambda bias: bias + 1)
SLIGHTLY_SHIFTED = SOUND.changing("output_bias", lambda bias: bias + 0.1)
COARSE = SOUND.ending(
    node("Mul", [RAW, "steps"], "scaled"), node("Floor", ["scaled"], "whole"), node("Div", ["whole", "steps"]),
    steps=np.float32(40),
)  # fmt: skip
OVER_ONE = SOUND.ending(node("Mul", [RAW, "twice"]), twice=np.float32(2))
NEGATIVE = SOUND.ending(node("Sub", [RAW, "little"]), little=np.float32(0.01))
NAN_AT_EXTREMES = SOUND.ending(
    AMOUNT[0], node("Greater", ["amount", "limit"], "huge"), node("Where", ["huge", "nan", RAW]),
    limit=np.float32(5e4), nan=np.float32(np.nan), **AMOUNT[1],
)  # fmt: skip
NAN_SWALLOWED = SOUND.ending(
    node("IsNaN", [RAW], "unknown"), node("Where", ["unknown", "low", RAW]), low=np.float32(0.001)
)
BY_SLOT = SOUND.ending(node("Mul", [RAW, "by_slot"]), by_slot=np.linspace(1, 0.999, 32, dtype=np.float32)[:, None])
BY_BATCH = SOUND.ending(
    node("ReduceMean", [RAW], "mean", axes=[0]), node("Mul", ["mean", "little"], "share"), node("Sub", [RAW, "share"]),
    little=np.float32(1e-4),
)  # fmt: skip
BY_HUGE_NEIGHBOURS = SOUND.ending(
    AMOUNT[0], node("ReduceMax", ["amount"], "largest", axes=[0]), node("Greater", ["largest", "limit"], "huge"),
    node("Mul", [RAW, "half"], "halved"), node("Where", ["huge", "halved", RAW]),
    limit=np.float32(1e20), half=np.float32(0.5), **AMOUNT[1],
)  # fmt: skip
SLOW, SLOWEST = (
    SOUND.ending(
        node("MatMul", [RAW, "wide"], "widened"), node("MatMul", ["widened", "square"], "useless"),
        node("MatMul", ["useless", "narrow"], "nothing"), node("Add", [RAW, "nothing"]),
        wide=np.zeros((1, width), np.float32), square=np.zeros((width, width), np.float32),
        narrow=np.zeros((width, 1), np.float32),
    )
    for width in (640, 1_280)
)  # fmt: skip
DROPPING = SOUND.ending(
    node("Dropout", [RAW, "share", "training"], "dropped"), node("Clip", ["dropped", "none", "all"]),
    share=np.float32(0.01), training=np.array(True), none=np.float32(0), all=np.float32(1),
)  # fmt: skip
NOISY = SOUND.ending(node("RandomNormal", [], "noise", shape=[32, 1], scale=1e-6), node("Add", [RAW, "noise"]))


def undressed(version: Version) -> Version:
    """The same network with no integer kernel: the ramps are no longer rounded."""

    def edit(graph: onnx.GraphProto) -> None:
        for each in [each for each in graph.node if each.output[0] in ("ramps_u8", "ramps_dq")]:
            graph.node.remove(each)
        next(each for each in graph.node if "ramps_dq" in each.input).input[0] = "clipped"

    return version.edited(edit)


def dynamic(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        first = next(each for each in graph.node if each.output[0] == "ramps_u8")
        second = next(each for each in graph.node if each.output[0] == "ramps_dq")
        first.CopyFrom(helper.make_node("DynamicQuantizeLinear", ["clipped"], ["ramps_u8", "step", "zero_point"]))
        second.input[1:] = ["step", "zero_point"]

    return version.edited(edit)


def external(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == "ramp_weight")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../../etc/passwd")

    return version.edited(edit)


def enormous(version: Version) -> Version:
    def edit(graph: onnx.GraphProto) -> None:
        graph.initializer.append(TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[50_000, 50_000]))

    return version.ending(node("Identity", [RAW])).edited(edit)


def metrics(**changes: dict[str, float]) -> Version:
    known = SOUND.manifest.metrics
    return SOUND.declaring(metrics=known | {name: known.get(name, {}) | values for name, values in changes.items()})


SABOTAGES = {
    # A careless colleague: the golden rows are still those of the sound engine.
    "swapped columns": (COLUMNS, "golden", "golden rows differ|golden scores move"),
    "swapped weight rows": (WEIGHTS, "golden", "golden rows differ|golden scores move"),
    "wrong scale": (SCALE, "golden", "golden rows differ|golden scores move"),
    "zero point off": (ZERO_POINT, "golden", "golden rows differ|golden scores move"),
    "golden rows of another width": (
        Version(SOUND.manifest, SOUND.model, SOUND.rows._replace(features=SOUND.rows.features[:, :14])),
        "golden", "golden rows have 14 features",
    ),
    # The golden bits are forged: they are what the spoilt engine gives.
    "swapped columns, forged": (COLUMNS.forged(), "parity", "a score moves by 0.[2-9]"),
    "swapped weight rows, forged": (WEIGHTS.forged(), "parity", "a score moves by 0.[2-9]"),
    "wrong scale, forged": (SCALE.forged(), "parity", "a score moves by 0.[2-9]"),
    "zero point off, forged": (ZERO_POINT.forged(), "parity", "a score moves by 0.[2-9]"),
    "shifted calibration, forged": (SHIFTED.forged(), "parity", "a logit by 0.9"),
    "slightly shifted calibration, forged": (SLIGHTLY_SHIFTED.forged(), "parity", "a logit by 0.09"),
    # And so are the FP32 scores, where what is wrong shows by itself.
    "constant output, forged": (CONSTANT.forged_fp32(), "distinct", "1 distinct scores of 2,048"),
    "few distinct scores, forged": (COARSE.forged_fp32(), "distinct", "cannot rank payments"),
    "over one": (OVER_ONE.forged_fp32(), "golden", "not a probability"),
    "under nought": (NEGATIVE.forged_fp32(), "golden", "not a probability"),
    "NaN at extremes only": (NAN_AT_EXTREMES.forged_fp32(), "extremes", "finite rows at extremes have no score"),
    "NaN swallowed": (NAN_SWALLOWED.forged_fp32(), "extremes", "are scored as if it were"),
    "another score in each slot": (BY_SLOT.forged_fp32(), "golden", "its slot or its neighbours"),
    "the batch's mean": (BY_BATCH.forged_fp32(), "golden", "its slot or its neighbours"),
    "a huge neighbour": (BY_HUGE_NEIGHBOURS.forged_fp32(), "invariance", "rows change with their batch"),
    "ten times slower": (SLOWEST.forged_fp32(), "latency", r"over 10 times the 10\.0 us"),
    "dropout as in training": (DROPPING, "engine", "1 Dropout nodes may be training"),
    "no integer kernel": (undressed(SOUND).forged(), "precision", "says int8, no integer kernel runs"),
    "quantised, said to be fp32": (
        metrics(fp32=SOUND.manifest.metrics["int8"]).declaring(precision="fp32").forged(),
        "precision", "says fp32, the graph has QuantizeLinear",
    ),
    # Graphs that no engine is made of.
    "dynamic quantisation": (dynamic(SOUND), "engine", "quantises dynamically"),
    "random numbers": (NOISY, "engine", "draws random numbers"),
    "external data": (external(SOUND), "engine", "keeps tensors in other files"),
    "ten gigabytes declared": (enormous(SOUND), "engine", r"declare more than they hold \(huge\)"),
    "an operator of its own": (
        SOUND.ending(node("Evil", [RAW], domain="evil")), "engine", "does not take the graph",
    ),
    # The manifest.
    "stale schema": (SOUND.declaring(schema_fingerprint="a" * 64), "schema", "trained on schema a{64}"),
    "thresholds that stop all": (
        SOUND.declaring(thresholds=Thresholds(1e-6, 1e-6)), "decisions", "must pass",
    ),
    "a calibration that stops nothing": (
        SOUND.ending(node("Mul", [RAW, "little"]), little=np.float32(0.01)).forged_fp32(), "decisions", "stop nothing",
    ),
    "under its floor": (metrics(int8={"auc_roc": 0.8}), "metrics", "auc_roc 0.8 is under its floor 0.866"),
    "lossy": (metrics(fp32={"average_precision": 0.74}), "metrics", "average_precision is 0.02861 under FP32"),
}  # fmt: skip


# The directory itself.


def rewritten(directory: Path, **fields: object) -> None:
    """The manifest with other fields, as plain JSON: nothing is checked on the way."""
    file = directory / "manifest.json"
    file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes()) | fields))


def signed_again(directory: Path, name: str, data: bytes) -> None:
    (directory / name).write_bytes(data)
    files = msgspec.json.decode((directory / "manifest.json").read_bytes())["files"]
    rewritten(directory, files=files | {name: hashlib.sha256(data).hexdigest()})


def signed_then_changed(directory: Path) -> None:
    signed_again(directory, "card.md", b"x")
    (directory / "card.md").write_bytes(b"y")


def cut(name: str, again: bool) -> Callable[[Path], object]:
    def spoil(directory: Path) -> None:
        data = (directory / name).read_bytes()[:-300]
        signed_again(directory, name, data) if again else (directory / name).write_bytes(data)

    return spoil


def linked(directory: Path) -> None:
    (directory / "model.onnx").rename(directory.parent / "elsewhere")
    (directory / "model.onnx").symlink_to(directory.parent / "elsewhere")


DIRECTORIES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated model": (cut("model.onnx", again=False), "digests", "has SHA-256"),
    "truncated model, signed": (cut("model.onnx", again=True), "engine", "not an ONNX model|not take the graph"),
    "truncated golden rows, signed": (cut("golden.arrow", again=True), "golden", "golden.arrow: "),
    "truncated manifest": (cut("manifest.json", again=False), "manifest", "manifest.json: "),
    "wrong digest": (
        signed_then_changed, "digests", "has SHA-256",
    ),
    "foreign file": (lambda directory: (directory / "evil.so").touch(), "digests", "does not name: evil.so"),
    "no manifest yet": (lambda directory: (directory / "manifest.json").unlink(), "manifest", "cannot read"),
    "no golden rows": (lambda directory: (directory / "golden.arrow").unlink(), "digests", "cannot read"),
    "path traversal": (
        lambda directory: rewritten(directory, files={"../../evil": "0" * 64, "model.onnx": "0" * 64}),
        "manifest", "manifest.json: ",
    ),
    "a name that leaves": (lambda directory: rewritten(directory, name="../handbook"), "manifest", "manifest.json: "),
    "linked file": (linked, "digests", "cannot read"),
    "swapped thresholds": (
        lambda directory: rewritten(directory, thresholds={"review": 0.4, "decline": 0.04}),
        "manifest", "0 < review <= decline <= 1",
    ),
    "thresholds of nought": (
        lambda directory: rewritten(directory, thresholds={"review": 0, "decline": 0}),
        "manifest", "0 < review <= decline <= 1",
    ),
    "another batch": (
        lambda directory: rewritten(directory, batch={"min": 1, "opt": 32, "max": 64}), "manifest", "must be 32",
    ),
    "inputs of another order of dimensions": (
        lambda directory: rewritten(directory, inputs=[{"name": "features", "dtype": "float32", "shape": [15, 32]}]),
        "schema", "has 15 features, the manifest's inputs",
    ),
}  # fmt: skip


# Everything forged: only another version tells.

FORGED = {
    "swapped columns": (COLUMNS.forged_fp32(), "rows that either stops"),
    "FP32 scores left out": (
        Version(COLUMNS.manifest, COLUMNS.model, COLUMNS.rows._replace(fp32=None)).forged(),
        "published without FP32 scores, which handbook/2026.11.22 has",
    ),
    "shifted calibration": (SHIFTED.forged_fp32(), r"the median logit moves by \+1\.0"),
    "slow, and published so": (
        SLOW.declaring(metrics=SOUND.manifest.metrics | {"run_us": {"int8": 1_000.0}}).forged_fp32(),
        r"\d\d\.\d times its run",
    ),
    "thresholds of another model": (
        SOUND.declaring(thresholds=Thresholds(1, 1)).forged_fp32(), "rows that either stops",
    ),
}  # fmt: skip


class Sabotage(NamedTuple):
    """A way to spoil a version."""

    write: Callable[[Path], Path]
    """Publish the version, spoilt, under a root; its directory."""
    check: str
    """The check that has to find it, beside the sound version."""


def _spoiling(spoil: Callable[[Path], object]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        directory = SOUND.write(root)
        spoil(directory)
        return directory

    return write


CATALOGUE = {
    **{name: Sabotage(version.write, check) for name, (version, check, _) in SABOTAGES.items()},
    **{name: Sabotage(_spoiling(spoil), check) for name, (spoil, check, _) in DIRECTORIES.items()},
    **{f"{name}, all forged": Sabotage(version.write, "against") for name, (version, _) in FORGED.items()},
}
"""All of these by name."""
