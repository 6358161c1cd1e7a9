"""The live window against the reference, fed by the scoring loop and read by any thread.

The loop hands over a batch by reference; every 32 batches their rows are copied into rings. Bins are counted only when
somebody asks, on the asker's thread, so a decision pays for the copy alone. The window is the last ``window_rows`` rows
exactly. Without a reference of its own, the model is compared with the first ``reference_rows`` live rows.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fraudgate import wheel
from fraudgate.drift.kept import LiveReference
from fraudgate.drift.reference import SCORE, Bins, Reference, has_drifted, ks, psi
from fraudgate.latency.recorder import Waiting
from fraudgate.transaction import Answers, Float32, Float64, joined

WINDOW_ROWS, REFERENCE_ROWS = 10_000, 20_000

Verdict = Literal["drifted", "steady", "calendar"]
Source = Literal["model", "live"]


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature, or the score; the names are those of ``fraudgate.v1.FeatureDrift``."""

    feature: str
    psi: float
    ks: float
    rows: int
    """Live rows: of the score, those that have one."""
    verdict: Verdict
    """calendar: the feature follows the clock, any window shorter than its period differs, so nothing is concluded."""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The live window against the reference; the names are those of ``fraudgate.v1.DriftReport``."""

    source: Source
    """Where the reference comes from: published with the model, or the first live rows."""
    reference_rows: int
    """Of live ones, how many there are so far."""
    reference_rows_wanted: int
    window_rows: int
    unscored_rows: int
    """Rows of the window that rules alone decided."""
    features: tuple[FeatureDrift, ...]
    """Worst first: drifted, steady, calendar, each by PSI. Empty until there are a reference and half a window."""

    @property
    def drifted(self) -> list[str]:
        """The features that have drifted, worst first."""
        return [each.feature for each in self.features if each.verdict == "drifted"]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        return asdict(self)


class Ring:
    """The last ``capacity`` rows of features and scores."""

    def __init__(self, capacity: int, features: int) -> None:
        self._features = np.empty((capacity, features), np.float32)
        self._scores = np.empty(capacity, np.float32)
        self._written = 0

    @property
    def rows(self) -> int:
        return min(self._written, len(self._scores))

    @property
    def room(self) -> int:
        """How many rows fit in before the oldest is lost."""
        return len(self._scores) - self.rows

    @property
    def features(self) -> Float32:
        """[rows, F], in no order."""
        return self._features[: self.rows]

    @property
    def scores(self) -> Float32:
        """[rows], in the same order; NaN where a row has none."""
        return self._scores[: self.rows]

    def add(self, features: Float32, scores: Float32) -> None:
        """Add rows, float32[n, F] and float32[n], in place of the oldest."""
        capacity = len(self._scores)
        features, scores = features[-capacity:], scores[-capacity:]
        start = self._written % capacity
        first = min(capacity - start, len(scores))
        rest = len(scores) - first
        self._features[start : start + first], self._scores[start : start + first] = features[:first], scores[:first]
        self._features[:rest], self._scores[:rest] = features[first:], scores[first:]
        self._written += len(scores)

    def add_batches(self, batches: Sequence["Batch"]) -> bool:
        """Add the rows of batches straight into place; without the wheel or at the ring's end False, and nothing added.

        Values beyond float32 become infinite, and what is not scored NaN, as in ``columns_of``.
        """
        rows, start = sum(len(decided) for _, decided in batches), self._written % len(self._scores)
        if _keep_rows is None or start + rows > len(self._scores):
            return False
        kept = [(features, decided.tobytes()) for features, decided in batches]
        _keep_rows(kept, self._features, self._scores, start)
        self._written += rows
        return True

    def copy(self) -> "Ring":
        copy = Ring.__new__(Ring)
        copy._features, copy._scores, copy._written = self._features.copy(), self._scores.copy(), self._written
        return copy


_keep_rows = wheel.kernel("keep_rows")

Batch = tuple[Float64, Answers]
"""Features float64[n, F] and the answers ANSWER_DTYPE[n] made from them."""


def columns_of(batches: Sequence[Batch]) -> tuple[Float32, Float32]:
    """Features float32[N, F] and scores float32[N] of all rows."""
    answers = joined(decided for _, decided in batches)
    scores = answers["score"].copy()
    scores[~answers["scored"]] = np.nan
    with np.errstate(over="ignore"):  # a value beyond float32 is infinite, to the engine too
        features = np.concatenate([features for features, _ in batches], dtype=np.float32, casting="same_kind")
    return features, scores


@dataclass
class _Rows:
    """The first rows, where they are to become the reference, then the window."""

    first_engine: str
    """Whose scores the first rows have."""
    first: Ring | None
    live: Ring

    def add(self, batches: Sequence[Batch]) -> None:
        room = self.first.room if self.first is not None else 0
        if not room and self.live.add_batches(batches):
            return
        features, scores = columns_of(batches)
        if self.first is not None and room:
            self.first.add(features[:room], scores[:room])
        self.live.add(features[room:], scores[room:])

    def copy(self) -> "_Rows":
        first = self.first.copy() if self.first is not None and self.first.room else self.first  # full: never written
        return _Rows(self.first_engine, first, self.live.copy())


class _Recording:
    """What is recorded while one engine is live."""

    def __init__(self, engine: str, rows: _Rows) -> None:
        self.engine, self.rows = engine, rows
        self.waiting: Waiting[Batch] = Waiting(rows.add)

    def copy(self) -> _Rows:
        """Everything so far."""
        with self.waiting.still:
            rows, waiting = self.rows.copy(), self.waiting.seen()
        if waiting:
            rows.add(waiting)
        return rows

    def scores(self) -> Float32:
        """The engine's usable scores so far, but for the latest batches: cheaper than ``copy``."""
        with self.waiting.still:
            rows = self.rows
            has_only_first = not rows.live.rows and rows.first_engine == self.engine
            scores = (rows.first if rows.first is not None and has_only_first else rows.live).scores.copy()
        return scores[~np.isnan(scores)]


class DriftWatch:
    """Compares the last rows with a reference. One thread records and follows the engines, any may ask for a report."""

    def __init__(
        self,
        names: Sequence[str],
        reference: Reference | LiveReference | None = None,
        *,
        engine: str = "",
        calendar: Collection[str] = (),
        window_rows: int = WINDOW_ROWS,
        reference_rows: int = REFERENCE_ROWS,
    ) -> None:
        """``names``: of the features, in the order of the tensor; ``calendar``: those that follow the clock.

        ``reference``: the model's, or a live one of an earlier process. ``engine``: whose scores these are at first.
        """
        self._source: Source = "model" if isinstance(reference, Reference) else "live"
        self._scores: dict[str, Bins] = {}  # by engine
        if isinstance(reference, LiveReference):
            self._scores, reference = dict(reference.scores), reference.reference
        elif reference is not None:
            self._scores = {engine: reference.columns[-1]}
        self._names, self._calendar, self._reference = tuple(names), frozenset(calendar), reference
        self._reference_rows_wanted = reference_rows if reference is None else reference.rows
        first = Ring(reference_rows, len(names)) if reference is None else None
        self._reference_rows, self._window_rows = reference_rows, window_rows
        self._recording = _Recording(engine, _Rows(engine, first, Ring(window_rows, len(names))))
        self._rows_min = -(-window_rows // 2)

    def __repr__(self) -> str:
        report = self.report()
        return f"<DriftWatch [{report.window_rows:,} rows, drifted: {', '.join(report.drifted) or 'nothing'}]>"

    def record_batch(self, features: Float64, decided: Answers) -> None:
        """Record float64[n, F] and ANSWER_DTYPE[n] of rows decided now; nobody may change them from here on."""
        self._recording.waiting.put((features, decided))

    def follow(self, engine: str, scores: Bins | None) -> None:
        """Another engine is live: the window begins anew, against its own reference of scores.

        None: the one that it had when it was live before, or none at all. That of the features stays, or, if it is not
        complete, begins anew.
        """
        before = self._recording
        if engine == before.engine:
            return
        if scores is not None:
            self._scores[engine] = scores
        features = len(self._names)
        rows = _Rows(before.rows.first_engine, before.rows.first, Ring(self._window_rows, features))
        if self._reference is not None:
            rows.first = None
        elif rows.first is not None and rows.first.room:
            rows.first_engine, rows.first = engine, Ring(self._reference_rows, features)
        self._recording = _Recording(engine, rows)

    def kept(self) -> LiveReference | None:
        """The reference made from live rows, complete; None where there is none yet, or the model brought its own."""
        reference = self._reference or self._made_reference(self._recording.copy())
        if reference is None or self._source == "model":
            return None
        return LiveReference(reference, dict(self._scores))

    def score(self) -> FeatureDrift | None:
        """The score alone, some hundred microseconds; None while there are too few rows or there is no reference."""
        recording = self._recording
        bins, scores = self._scores.get(recording.engine), recording.scores()
        if bins is None or not bins.counts.any() or len(scores) < self._rows_min:
            return None
        return self._compare(bins, scores)

    def report(self) -> DriftReport:
        """Every feature and the score, over the rows recorded so far. A few milliseconds: not for the scoring loop."""
        recording = self._recording
        rows = recording.copy()
        reference = self._made_reference(rows)
        live = rows.live
        scored = ~np.isnan(live.scores)
        features: tuple[FeatureDrift, ...] = ()
        if reference is not None and live.rows >= self._rows_min:
            columns = [*live.features.T, live.scores[scored]]
            bins_of_score = self._scores.get(recording.engine, Bins.of(SCORE, np.zeros(0, np.float32)))
            pairs = zip((*reference.columns[:-1], bins_of_score), columns, strict=True)
            compared = [self._compare(bins, values) for bins, values in pairs if len(values) and bins.counts.any()]
            features = tuple(sorted(compared, key=_severity))
        return DriftReport(
            source=self._source,
            reference_rows=reference.rows if reference is not None else rows.first.rows if rows.first else 0,
            reference_rows_wanted=self._reference_rows_wanted,
            window_rows=live.rows,
            unscored_rows=live.rows - int(np.count_nonzero(scored)),
            features=features,
        )

    def _made_reference(self, rows: _Rows) -> Reference | None:
        if self._reference is None and rows.first is not None and not rows.first.room:
            self._reference = Reference.of(self._names, rows.first.features, rows.first.scores)
            self._scores.setdefault(rows.first_engine, self._reference.columns[-1])
        return self._reference

    def _compare(self, bins: Bins, values: Float32) -> FeatureDrift:
        counts = bins.count(values)
        verdict: Verdict = "drifted" if has_drifted(bins.counts, counts) else "steady"
        if bins.name in self._calendar:
            verdict = "calendar"
        return FeatureDrift(bins.name, psi(bins.counts, counts), ks(bins.counts, counts), len(values), verdict)


_ORDER: tuple[Verdict, ...] = ("drifted", "steady", "calendar")


def _severity(drift: FeatureDrift) -> tuple[int, float]:
    return _ORDER.index(drift.verdict), -drift.psi
