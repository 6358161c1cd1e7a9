"""The reference that live transactions are compared with: bins of every feature and of the score, and two distances.

Values are float32, as the engine is given them. Bins are cut by quantiles of the reference sample:

    (below the least], one or several distinct values each ..., (above the greatest]

    PSI = sum over bins of (p - q) ln(p / q), p and q the live and the reference share, both with half a row more a bin
    KS  = the greatest distance of the two distribution functions at the edges; never over that of the samples
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fraudgate.errors import EngineRefused
from fraudgate.transaction import Float32, Float64, Int64

BINS_MAX = 20
SCORE = "score"
_INNER_BINS_MAX = BINS_MAX - 2
PSI_MAX = 0.125
"""Over this, and over the critical KS, a column has drifted. Where nothing has changed, a window of 10,000 rows shows
0.003 from chance, up to 0.03 as customers come more than once, and up to 0.1 in the counts of one day where a week-day
is compared with a Sunday. A bell curve moved by half its standard deviation shows 0.25."""
REST_PSI_MAX, REST_ROWS_MIN = 0.5, 200
"""The same among the rows that have not the commonest value, if there are so many: frauds come in clusters, which
shows up to 0.4; half as much again of a share of fraud shows 0.9."""
REST_FACTOR, REST_ROWS_WANTED = 4, 50
"""So many times more or fewer of these rows than in the reference is drift, where at least so many would be right: a
share of fraud that stays 0 as no outcome arrives any more. Steady traffic has shown 0.37 to 1.8 times as many."""
_KS_FACTOR = 1.95
"""sqrt(-ln(alpha / 2) / 2) at alpha = 0.001, rounded up."""


class _Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``Bins`` in a file."""

    name: str
    edges: list[float]
    counts: list[int]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``Reference`` in a file."""

    columns: list[_Column]


@dataclass(frozen=True, eq=False)
class Bins:
    """One column of the reference sample."""

    name: str
    edges: Float32
    """[bins - 1], ascending: bin i holds what is over edge i - 1 and at most edge i."""
    counts: Int64
    """[bins]: rows of the sample; the first and the last bin have none."""

    @classmethod
    def of(cls, name: str, sample: Float32) -> "Bins":
        """Bins of a sample float32[n] without NaN."""
        bins = cls(name, bin_edges(sample), np.zeros(0, np.int64))
        return cls(name, bins.edges, bins.count(sample))

    def count(self, values: Float32) -> Int64:
        """Rows of ``values`` float32[n] by bin, int64[bins]. NaN counts as above the greatest."""
        return np.bincount(self.edges.searchsorted(values), minlength=len(self.edges) + 1)


def bin_edges(sample: Float32) -> Float32:
    """The edges of at most ``BINS_MAX`` bins, float32[bins - 1], ascending; empty for an empty sample.

    A value never lies in two bins, so one that many rows share fills its bin alone or nearly so, and the other bins
    share what is left: a feature that is mostly 0 has fine bins where it is not.
    """
    values, counts = np.unique(sample, return_counts=True)
    if not len(values):
        return np.zeros(0, np.float32)
    cumulative = np.cumsum(counts)
    edges, done = [np.nextafter(values[0], np.float32(-np.inf))], 0
    for bins_left in range(_INNER_BINS_MAX, 0, -1):
        wanted = done + -(-(len(sample) - done) // bins_left)  # rounded up, so the last bin takes the rest
        last = np.searchsorted(cumulative, wanted)
        edges.append(values[last])
        done = int(cumulative[last])
        if done == len(sample):
            break
    return np.array(edges, np.float32)


def psi(reference: Int64, live: Int64) -> float:
    """The population stability index of two columns of counts, int64[bins]; symmetric, finite, 0 for equal shares."""
    p, q = _smoothed(live), _smoothed(reference)
    return float(((p - q) * np.log(p / q)).sum())


def _smoothed(counts: Int64) -> Float64:
    more = counts + 0.5
    return np.asarray(more / more.sum(), np.float64)


def ks(reference: Int64, live: Int64) -> float:
    """The Kolmogorov-Smirnov distance at the edges of two columns of counts, int64[bins], neither of them empty."""
    return float(np.abs(np.cumsum(live) / live.sum() - np.cumsum(reference) / reference.sum()).max())


def ks_critical(reference_rows: int, live_rows: int) -> float:
    """What two samples of one distribution exceed once in a thousand times, if their rows are independent."""
    return _KS_FACTOR * float(np.sqrt(1 / reference_rows + 1 / live_rows))


def has_drifted(reference: Int64, live: Int64) -> bool:
    """Whether two columns of counts, int64[bins], neither of them empty, differ more than those of steady traffic."""
    return _has_moved(reference, live, PSI_MAX) or _rest_has_drifted(reference, live)


def _has_moved(reference: Int64, live: Int64, psi_max: float) -> bool:
    critical = ks_critical(int(reference.sum()), int(live.sum()))
    return psi(reference, live) > psi_max and ks(reference, live) > critical


def _rest_has_drifted(reference: Int64, live: Int64) -> bool:
    """The rows without the commonest value: what there is to see of a feature that is nearly always 0."""
    rest = np.arange(len(reference)) != reference.argmax()
    rows, live_rows = int(reference[rest].sum()), int(live[rest].sum())
    wanted = rows * live.sum() / reference.sum()
    if wanted < REST_ROWS_WANTED:
        return False
    if not wanted / REST_FACTOR <= live_rows <= wanted * REST_FACTOR:
        return True
    return min(rows, live_rows) >= REST_ROWS_MIN and _has_moved(reference[rest], live[rest], REST_PSI_MAX)


class Reference:
    """Bins of the features, in the order of the tensor, and last of the score."""

    def __init__(self, columns: Sequence[Bins]) -> None:
        self.columns = tuple(columns)

    def __repr__(self) -> str:
        return f"<Reference [{self.rows:,} rows, {len(self.columns)} columns]>"

    @classmethod
    def of(cls, names: Sequence[str], features: Float32, scores: Float32) -> "Reference":
        """The reference made from a sample: float32[n, F] and float32[n], NaN where a row has no score."""
        columns = [Bins.of(name, features[:, number]) for number, name in enumerate(names)]
        return cls([*columns, Bins.of(SCORE, scores[~np.isnan(scores)])])

    @property
    def rows(self) -> int:
        """Rows of the sample."""
        return int(self.columns[0].counts.sum())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, the score's last."""
        return tuple(bins.name for bins in self.columns)

    def to_json(self) -> bytes:
        """As it stands beside a published model. The sample has to be finite."""
        columns = [_Column(bins.name, bins.edges.tolist(), bins.counts.tolist()) for bins in self.columns]
        return msgspec.json.format(msgspec.json.encode(_File(columns)), indent=0) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, names: Sequence[str]) -> "Reference":
        """Read back what ``to_json`` wrote, for features called ``names``. Raises EngineRefused."""
        try:
            columns = msgspec.json.decode(data, type=_File).columns
        except msgspec.MsgspecError as error:
            raise EngineRefused(f"the drift reference cannot be read: {error}") from error
        if [column.name for column in columns] != [*names, SCORE]:
            raise EngineRefused("the drift reference is of other features: publish the model again")
        return cls([_checked(column) for column in columns])


def _checked(column: _Column) -> Bins:
    bins = Bins(column.name, np.array(column.edges, np.float32), np.array(column.counts, np.int64))
    fits = len(bins.counts) == len(bins.edges) + 1 <= BINS_MAX
    if not (fits and np.isfinite(bins.edges).all() and (np.diff(bins.edges) > 0).all() and (bins.counts >= 0).all()):
        raise EngineRefused(f"the drift reference of {column.name} does not hold: publish the model again")
    return bins
