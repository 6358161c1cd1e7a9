"""Replay of a batch log through the batcher: the proof that batches were composed by arrival order and stamps alone.

    logged batches -> arrival log: entries with their stamps, idle instants -> Batcher -> the same batches?

What the proof covers: within a segment, that is, consecutive batches of one run, every boundary but the two outer
ones. Where batches are missing (dropped, rotated away, another run) a new segment starts: nothing is known about the
arrivals in between, so the gap is reported and the segments are proved one by one. (Stamps do not run backwards in
service; an entry stamped before one that is lost in a gap could make the segment after it look different.)
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, get_args

from fraudgate.audit.log_file import LogFile, LoggedBatch, open_log
from fraudgate.batching.batcher import Batcher, Policy
from fraudgate.errors import SnapshotError


class Gap(NamedTuple):
    """Batches that the log lacks."""

    run: str
    first_sequence: int
    """Of the first missing batch."""
    batches: int


class Difference(NamedTuple):
    """A logged batch that the replay did not compose."""

    run: str
    sequence: int
    logged_ids: list[str]
    replayed_ids: list[str]
    """Of the replayed batch that holds the logged batch's first entry."""


@dataclass(slots=True)
class CompositionReplay:
    """What replaying a log found."""

    batches: int = 0
    rows: int = 0
    segments: int = 0
    differing: int = 0
    """Logged batches that the replay did not compose."""
    first_difference: Difference | None = None
    gaps: list[Gap] = field(default_factory=list)
    cut_files: dict[str, int] = field(default_factory=dict)
    """Files that end in an unfinished write, with its bytes."""
    unended_runs: int = 0
    """Runs that were killed or still go on: their last batches may not be in the log."""

    @property
    def same(self) -> bool:
        """Every logged batch was composed again, and there was at least one."""
        return self.batches > 0 and self.differing == 0

    @property
    def missing(self) -> int:
        """Batches in the gaps."""
        return sum(gap.batches for gap in self.gaps)


def replay_composition(path: Path | str) -> CompositionReplay:
    """Replay a log directory, or one file of it.

    SnapshotError: there is no log, it is damaged, or its metadata do not make a batcher.
    """
    found = CompositionReplay()
    for _, files in groupby(open_log(path), key=lambda file: file.run):
        run = _Run(found)
        for file in files:
            run.take(file)
        run.end()
    return found


class _Run:
    """One run of the log: follows its sequence, and starts a segment after every gap."""

    def __init__(self, found: CompositionReplay) -> None:
        self._found = found
        self._segment: _Segment | None = None
        self._expected = 0
        self._ended = False

    def take(self, file: LogFile) -> None:
        self._reach(file, file.first_sequence)
        for batch in file:
            self._reach(file, batch.sequence)
            self._segment = self._segment or _Segment(file, self._found)
            self._segment.take(batch)
            self._expected += 1
        self._ended = file.ended
        if file.cut_bytes:
            self._found.cut_files[file.path.name] = file.cut_bytes

    def end(self) -> None:
        self._end_segment()
        self._found.unended_runs += not self._ended

    def _reach(self, file: LogFile, sequence: int) -> None:
        if sequence < self._expected:
            after = f"batch {sequence} comes after batch {self._expected - 1}"
            raise SnapshotError(f"{file.path}: {after}; is a file in the directory twice?")
        if sequence > self._expected:
            self._found.gaps.append(Gap(file.run, self._expected, sequence - self._expected))
            self._end_segment()
            self._expected = sequence

    def _end_segment(self) -> None:
        if self._segment:
            self._segment.end()
            self._segment = None


def _batcher(file: LogFile) -> Batcher[str]:
    policy: Policy | None = next((name for name in get_args(Policy) if name == file.metadata["gate_policy"]), None)
    rows_max = file.whole_number("batch_rows_max")
    if policy is None:
        raise SnapshotError(
            f"{file.path}: gate_policy {file.metadata['gate_policy']!r} is none that this version knows"
        )
    try:
        return Batcher(file.whole_number("gate_ns"), rows_max, 2 * rows_max, policy)
    except ValueError as error:
        raise SnapshotError(f"{file.path}: its metadata make no batcher: {error}") from error


class _Composed(NamedTuple):
    """A batch as the range of its entries within the segment."""

    start: int
    end: int
    ids: list[str]
    sequence: int


class _Segment:
    """Replays consecutive batches of one run and compares as it goes; it holds only what is not yet compared."""

    def __init__(self, file: LogFile, found: CompositionReplay) -> None:
        self._run, self._batcher, self._found = file.run, _batcher(file), found
        self._logged: deque[_Composed] = deque()
        self._replayed: deque[_Composed] = deque()
        self._logged_rows = self._replayed_rows = 0
        found.segments += 1

    def take(self, batch: LoggedBatch) -> None:
        """Put the batch's arrivals, and the idle instant that closed it, through the batcher."""
        ids = batch.request.column("transaction_id").to_pylist()
        start, self._logged_rows = self._logged_rows, self._logged_rows + len(ids)
        self._logged.append(_Composed(start, self._logged_rows, ids, batch.sequence))
        self._found.batches += 1
        self._found.rows += len(ids)
        idle_ns = batch.idle_ns
        for entry, arrival_ns in zip(ids, batch.request.column("arrival_ns").to_pylist(), strict=True):
            if 0 < idle_ns < arrival_ns:  # a true log never says so: this entry came after the engine fell idle
                self._poll(idle_ns, idle=True)
                idle_ns = 0
            added = self._batcher.add(entry, arrival_ns)
            assert added, "the queue is polled empty before each entry"
            self._poll(arrival_ns)
        if idle_ns:
            self._poll(idle_ns, idle=True)
        self._compare()

    def end(self) -> None:
        """Nothing more of this segment is logged: whatever closed its last batch, that one ends here."""
        self._batcher.close_open(0)
        self._poll(0)
        self._compare()
        assert not self._logged, "every logged entry is in a replayed batch"

    def _poll(self, now_ns: int, idle: bool = False) -> None:
        while (batch := self._batcher.poll(now_ns, idle)) is not None:
            start, self._replayed_rows = self._replayed_rows, self._replayed_rows + len(batch.entries)
            self._replayed.append(_Composed(start, self._replayed_rows, batch.entries, -1))

    def _compare(self) -> None:
        """Both queues are in entry order; the heads are compared, and a replayed batch that lies behind is let go."""
        while self._logged and self._replayed:
            logged, replayed = self._logged[0], self._replayed[0]
            if replayed.end <= logged.start:
                self._replayed.popleft()
                continue
            self._logged.popleft()
            if (logged.start, logged.end) != (replayed.start, replayed.end):
                self._differ(logged, replayed)

    def _differ(self, logged: _Composed, replayed: _Composed) -> None:
        self._found.differing += 1
        if self._found.first_difference is None:
            self._found.first_difference = Difference(self._run, logged.sequence, logged.ids, replayed.ids)
