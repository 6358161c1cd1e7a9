from fraudgate.v1 import models_pb2 as _models_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetLatencyReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResetLatencyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLatencyReportResponse(_message.Message):
    __slots__ = ("budget_ns", "interval_ns", "stages", "over_budget", "drift", "fleet", "ladder")
    BUDGET_NS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_NS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    OVER_BUDGET_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    LADDER_FIELD_NUMBER: _ClassVar[int]
    budget_ns: int
    interval_ns: int
    stages: _containers.RepeatedCompositeFieldContainer[StageLatency]
    over_budget: int
    drift: DriftReport
    fleet: _models_pb2.FleetReport
    ladder: LadderReport
    def __init__(self, budget_ns: _Optional[int] = ..., interval_ns: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageLatency, _Mapping]]] = ..., over_budget: _Optional[int] = ..., drift: _Optional[_Union[DriftReport, _Mapping]] = ..., fleet: _Optional[_Union[_models_pb2.FleetReport, _Mapping]] = ..., ladder: _Optional[_Union[LadderReport, _Mapping]] = ...) -> None: ...

class LadderReport(_message.Message):
    __slots__ = ("rung", "breakers")
    RUNG_FIELD_NUMBER: _ClassVar[int]
    BREAKERS_FIELD_NUMBER: _ClassVar[int]
    rung: str
    breakers: _containers.RepeatedCompositeFieldContainer[BreakerReport]
    def __init__(self, rung: _Optional[str] = ..., breakers: _Optional[_Iterable[_Union[BreakerReport, _Mapping]]] = ...) -> None: ...

class BreakerReport(_message.Message):
    __slots__ = ("dependency", "state", "changes", "bad_runs")
    DEPENDENCY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    BAD_RUNS_FIELD_NUMBER: _ClassVar[int]
    dependency: str
    state: str
    changes: int
    bad_runs: int
    def __init__(self, dependency: _Optional[str] = ..., state: _Optional[str] = ..., changes: _Optional[int] = ..., bad_runs: _Optional[int] = ...) -> None: ...

class DriftReport(_message.Message):
    __slots__ = ("source", "reference_rows", "reference_rows_wanted", "window_rows", "unscored_rows", "features")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_WANTED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ROWS_FIELD_NUMBER: _ClassVar[int]
    UNSCORED_ROWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    source: str
    reference_rows: int
    reference_rows_wanted: int
    window_rows: int
    unscored_rows: int
    features: _containers.RepeatedCompositeFieldContainer[FeatureDrift]
    def __init__(self, source: _Optional[str] = ..., reference_rows: _Optional[int] = ..., reference_rows_wanted: _Optional[int] = ..., window_rows: _Optional[int] = ..., unscored_rows: _Optional[int] = ..., features: _Optional[_Iterable[_Union[FeatureDrift, _Mapping]]] = ...) -> None: ...

class FeatureDrift(_message.Message):
    __slots__ = ("feature", "psi", "ks", "rows", "verdict")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    feature: str
    psi: float
    ks: float
    rows: int
    verdict: str
    def __init__(self, feature: _Optional[str] = ..., psi: _Optional[float] = ..., ks: _Optional[float] = ..., rows: _Optional[int] = ..., verdict: _Optional[str] = ...) -> None: ...

class StageLatency(_message.Message):
    __slots__ = ("stage", "count", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns", "mean_ns", "over_range")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_NS_FIELD_NUMBER: _ClassVar[int]
    P90_NS_FIELD_NUMBER: _ClassVar[int]
    P99_NS_FIELD_NUMBER: _ClassVar[int]
    P999_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_NS_FIELD_NUMBER: _ClassVar[int]
    MEAN_NS_FIELD_NUMBER: _ClassVar[int]
    OVER_RANGE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    count: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int
    mean_ns: float
    over_range: int
    def __init__(self, stage: _Optional[str] = ..., count: _Optional[int] = ..., p50_ns: _Optional[int] = ..., p90_ns: _Optional[int] = ..., p99_ns: _Optional[int] = ..., p999_ns: _Optional[int] = ..., max_ns: _Optional[int] = ..., mean_ns: _Optional[float] = ..., over_range: _Optional[int] = ...) -> None: ...
