"""LatencyService: the latency recorder over gRPC, with the engines and the drift beside it."""

import asyncio
from typing import Any

from fraudgate.clock import Clock, monotonic_ns
from fraudgate.drift.watch import DriftWatch
from fraudgate.engines.fleet import Fleet
from fraudgate.engines.report import FleetReport
from fraudgate.ladder import Ladder, LadderReport
from fraudgate.latency.histogram import LatencyReport
from fraudgate.latency.recorder import Recorder
from fraudgate.v1 import latency_pb2, latency_pb2_grpc, models_pb2


class LatencyServicer(latency_pb2_grpc.LatencyServiceServicer):
    """Reads and resets one recorder; a report costs the loop about 0.3 ms. Drift is reckoned on another thread."""

    def __init__(
        self,
        recorder: Recorder,
        clock: Clock = monotonic_ns,
        drift: DriftWatch | None = None,
        fleet: Fleet | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self._recorder, self._clock, self._drift, self._fleet = recorder, clock, drift, fleet
        self._ladder = ladder

    async def GetLatencyReport(  # noqa: N802 - the name is the protocol's
        self, request: latency_pb2.GetLatencyReportRequest, context: Any
    ) -> latency_pb2.GetLatencyReportResponse:
        answer = to_wire(self._recorder.report(self._clock()))
        if self._drift is not None:
            report = await asyncio.to_thread(self._drift.report)
            answer.drift.CopyFrom(latency_pb2.DriftReport(**report.as_json()))
        if self._fleet is not None:
            answer.fleet.CopyFrom(models_pb2.FleetReport(**FleetReport.of(self._fleet).as_json()))
        if self._ladder is not None:
            answer.ladder.CopyFrom(latency_pb2.LadderReport(**LadderReport.of(self._ladder).as_json()))
        return answer

    async def ResetLatency(  # noqa: N802 - the name is the protocol's
        self, request: latency_pb2.ResetLatencyRequest, context: Any
    ) -> latency_pb2.GetLatencyReportResponse:
        return to_wire(self._recorder.reset(self._clock()))


def to_wire(report: LatencyReport) -> latency_pb2.GetLatencyReportResponse:
    """The report as a message; field for field."""
    return latency_pb2.GetLatencyReportResponse(**report.as_json())
