"""The reference that was made from live transactions, as it outlives the process.

A server that made a new one at every start would, after a restart, take a stream that has drifted for sound.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from fraudgate.drift.reference import BINS_MAX, SCORE, Bins, Reference


class _Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``Bins`` in a file. Edges are the bytes of little-endian float32: of live values, one may be infinite."""

    name: str
    edges: bytes
    counts: list[Annotated[int, msgspec.Meta(ge=0, le=2**62)]]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``LiveReference`` in a file."""

    columns: list[_Column]
    scores: dict[str, _Column]


class LiveReference(NamedTuple):
    """Bins of live features and of scores."""

    reference: Reference
    scores: Mapping[str, Bins]
    """By the engine that gave them."""

    def to_json(self) -> bytes | None:
        """As it stands in a snapshot; None where a sample had values that make no bins, such as NaN."""
        if not all(map(_holds, (*self.reference.columns, *self.scores.values()))):
            return None
        scores = {engine: _column(bins) for engine, bins in self.scores.items()}
        return msgspec.json.encode(_File([_column(bins) for bins in self.reference.columns], scores))

    @classmethod
    def from_json(cls, data: bytes, names: Sequence[str]) -> "LiveReference":
        """Read back what ``to_json`` wrote, for features called ``names``. Raises ValueError."""
        file = msgspec.json.decode(data, type=_File)  # its errors are ValueErrors
        kept = cls(Reference(list(map(_bins, file.columns))), {name: _bins(each) for name, each in file.scores.items()})
        if kept.reference.names != (*names, SCORE):
            raise ValueError("it is of other features")
        if not all(map(_holds, (*kept.reference.columns, *kept.scores.values()))):
            raise ValueError("its bins do not hold")
        return kept


def _column(bins: Bins) -> _Column:
    return _Column(bins.name, bins.edges.astype("<f4").tobytes(), bins.counts.tolist())


def _bins(column: _Column) -> Bins:
    return Bins(column.name, np.frombuffer(column.edges, "<f4").astype(np.float32), np.array(column.counts, np.int64))


def _holds(bins: Bins) -> bool:
    fits = len(bins.counts) == len(bins.edges) + 1 <= BINS_MAX
    return fits and bool((bins.edges[1:] > bins.edges[:-1]).all())
