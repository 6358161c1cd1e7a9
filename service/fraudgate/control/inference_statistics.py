"""What ModelInfer has done on one model version since the start: counts and nanoseconds."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudgate.inference import grpc_service_pb2 as pb
from fraudgate.limits import MILLISECOND_NS


class Took(NamedTuple):
    """The stages of one answered request. Nanoseconds; they sum to the whole."""

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


@dataclass(slots=True)
class _Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def to_wire(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=self.ns)


@dataclass(slots=True)
class _Stages:
    """The compute stages of many requests."""

    compute_input: _Duration = field(default_factory=_Duration)
    compute_infer: _Duration = field(default_factory=_Duration)
    compute_output: _Duration = field(default_factory=_Duration)

    def add(self, took: Took) -> None:
        self.compute_input.add(took.compute_input_ns)
        self.compute_infer.add(took.compute_infer_ns)
        self.compute_output.add(took.compute_output_ns)

    def to_wire(self) -> dict[str, pb.StatisticDuration]:
        return {name: getattr(self, name).to_wire() for name in ("compute_input", "compute_infer", "compute_output")}


class Statistics:
    """Of one model version; requests that name another model are not in it."""

    def __init__(self) -> None:
        self._success, self._fail, self._queue, self._stages = _Duration(), _Duration(), _Duration(), _Stages()
        self._by_rows: dict[int, _Stages] = defaultdict(_Stages)
        self._rows = 0
        self._last_wall_ns = 0

    def succeeded(self, rows: int, took: Took, wall_ns: int) -> None:
        """One request of so many rows was answered, at this wall-clock time."""
        self._success.add(sum(took))
        self._queue.add(took.queue_ns)
        self._stages.add(took)
        self._by_rows[rows].add(took)
        self._rows += rows
        self._last_wall_ns = wall_ns

    def failed(self, ns: int) -> None:
        """One request was refused, failed, or was given up by its caller."""
        self._fail.add(ns)

    def to_wire(self, name: str, version: str) -> pb.ModelStatistics:
        """Everything since the start, as the protocol's message."""
        return pb.ModelStatistics(
            name=name,
            version=version,
            last_inference=self._last_wall_ns // MILLISECOND_NS,
            inference_count=self._rows,
            execution_count=self._success.count,
            inference_stats=pb.InferStatistics(
                success=self._success.to_wire(),
                fail=self._fail.to_wire(),
                queue=self._queue.to_wire(),
                **self._stages.to_wire(),
            ),
            batch_stats=[
                pb.InferBatchStatistics(batch_size=rows, **stages.to_wire())
                for rows, stages in sorted(self._by_rows.items())
            ],
        )
