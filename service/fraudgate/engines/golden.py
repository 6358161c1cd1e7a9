"""Golden rows: inputs whose score bits are known, so that a host can prove that it computes the same.

``golden.arrow`` is an Arrow IPC file of at least 1,000 rows: ``features``, a fixed-size list of float32, one uint32
column of score bits per (runtime version, instruction-set class), named ``bits:<version>:<class>``, and where it was
published with them ``fp32``, the float32 scores of the network before it was quantised.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fraudgate.engines.base import Engine
from fraudgate.engines.pacing import PAUSE_RUNS, pause
from fraudgate.engines.repository import Thresholds
from fraudgate.errors import EngineRefused
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.tensors import Slab
from fraudgate.transaction import Float32, Float64

UInt32 = npt.NDArray[np.uint32]

ROWS_MIN = 1_000
DIFFERENCE_MAX = 1e-5
"""How far a score may move on a host of another class or runtime."""
FEATURES = "features"
BITS = "bits"
FP32 = "fp32"
OTHER_ISA = "other"


class Golden(NamedTuple):
    """Known rows: float32[n, F], and their score bits, uint32[n] by column name."""

    features: Float32
    bits: dict[str, UInt32]
    fp32: Float32 | None = None
    """Scores [n] of the network in FP32; None where it was published without them."""


def host_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The class of this host's integer kernels: avx512_vnni, avx_vnni, avx512, avx2 or other."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return OTHER_ISA
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "avx512_vnni" if "avx512_vnni" in flags else "avx512"
    if "avx2" in flags:
        return "avx_vnni" if "avx_vnni" in flags else "avx2"
    return OTHER_ISA


def bits_column(engine: Engine) -> str:
    """The column that holds the bits of this engine's host."""
    return f"{BITS}:{engine.info.runtime}:{engine.info.isa}"


def encode(golden: Golden) -> bytes:
    """The bytes of ``golden.arrow``."""
    rows, features = golden.features.shape
    inputs = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(golden.features).ravel()), features)
    columns = {FEATURES: inputs, **{name: pa.array(bits, pa.uint32()) for name, bits in golden.bits.items()}}
    if golden.fp32 is not None:
        columns[FP32] = pa.array(golden.fp32, pa.float32())
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def decode(data: bytes) -> Golden:
    """The rows of ``golden.arrow``. Raises EngineRefused for a file that is not as described above."""
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
        table.validate(full=True)
        inputs = table.column(FEATURES)
        bits = {name: table.column(name) for name in table.column_names if name.startswith(f"{BITS}:")}
        fp32 = table.column(FP32) if FP32 in table.column_names else None
    except (pa.ArrowException, KeyError, OSError) as error:
        raise EngineRefused(f"golden.arrow: {error}; publish the model again") from error
    if not (pa.types.is_fixed_size_list(inputs.type) and inputs.type.value_type == pa.float32()):
        raise EngineRefused(f"golden.arrow: {FEATURES} must be a fixed-size list of float, not {inputs.type}")
    if not bits or any(column.type != pa.uint32() for column in bits.values()):
        raise EngineRefused(f"golden.arrow: needs uint32 columns named {BITS}:<version>:<class>")
    if fp32 is not None and fp32.type != pa.float32():
        raise EngineRefused(f"golden.arrow: {FP32} must be float, not {fp32.type}")
    if len(table) < ROWS_MIN or any(column.null_count for column in table.columns):
        raise EngineRefused(f"golden.arrow: needs at least {ROWS_MIN} rows and no nulls")
    values = inputs.chunk(0).flatten().to_numpy().reshape(len(table), inputs.type.list_size)
    if not np.isfinite(values).all():
        raise EngineRefused("golden.arrow: a feature is not finite")
    scores = None if fp32 is None else fp32.to_numpy()
    return Golden(values, {name: column.to_numpy() for name, column in bits.items()}, scores)


def record(engine: Engine, features: Float32, fp32: Float32 | None = None) -> Golden:
    """Golden rows from an engine on this host, beside the scores [n] of its FP32 network. Binds a slab of its own."""
    return Golden(features, {bits_column(engine): score(engine, features.astype(np.float64)).view(np.uint32)}, fp32)


def check(engine: Engine, golden: Golden) -> bool:
    """True when every golden row has its expected bits on this host; False where only closeness can be shown.

    Raises EngineRefused when the scores are wrong, or depend on slot or neighbours. Binds a slab of its own.
    """
    if golden.features.shape[1] != engine.features:
        raise EngineRefused(f"golden rows have {golden.features.shape[1]} features, the graph takes {engine.features}")
    pause()
    features = golden.features.astype(np.float64)
    scores = score(engine, features)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise EngineRefused("a golden row's score is not a probability: calibrate the graph's output to 0..1")
    order = np.random.default_rng(0).permutation(len(features))
    if not np.array_equal(score(engine, features[order]).view(np.uint32), scores[order].view(np.uint32)):
        raise EngineRefused("a golden row's score depends on its slot or its neighbours: no operator may mix rows")
    column = bits_column(engine)
    if column in golden.bits and engine.info.isa != OTHER_ISA:
        wrong = int((golden.bits[column] != scores.view(np.uint32)).sum())
        if wrong:
            raise EngineRefused(f"{wrong} of {len(scores)} golden rows differ from {column}: another graph or runtime")
        return True
    for name, bits in golden.bits.items():
        _check_close(scores, bits.view(np.float32), engine.info.thresholds, name)
    return False


def score(engine: Engine, features: Float64) -> Float32:
    """Scores float32[n] of any number of rows, in batches of 32. Binds a slab of its own."""
    slab = Slab(engine.features)
    engine.bind([slab])
    scores = np.empty(len(features), np.float32)
    for start in _starts(len(features)):
        rows = features[start : start + BATCH_ROWS_MAX]
        slab.pack(rows)
        scores[start : start + len(rows)] = engine.run(0)[: len(rows)]
        if start % (PAUSE_RUNS * BATCH_ROWS_MAX) == 0:
            pause()
    return scores


def _starts(rows: int) -> Iterator[int]:
    return iter(range(0, rows, BATCH_ROWS_MAX))


def _check_close(scores: Float32, expected: Float32, thresholds: Thresholds, column: str) -> None:
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    flips = int((decisions(scores, thresholds) != decisions(expected, thresholds)).sum())
    if flips or not difference <= DIFFERENCE_MAX:
        raise EngineRefused(
            f"golden scores move by up to {difference:.3g} against {column} and {flips} decisions flip: "
            f"at most {DIFFERENCE_MAX:g} and none are allowed"
        )


def decisions(scores: Float32, thresholds: Thresholds) -> npt.NDArray[np.int64]:
    """Of each score [n]: 0 approved, 1 reviewed, 2 declined."""
    wide = scores.astype(np.float64)
    return np.add(wide >= thresholds.review, wide >= thresholds.decline, dtype=np.int64)
