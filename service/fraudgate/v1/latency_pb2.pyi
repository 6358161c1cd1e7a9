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
    __slots__ = ("budget_ns", "interval_ns", "stages", "over_budget")
    BUDGET_NS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_NS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    OVER_BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget_ns: int
    interval_ns: int
    stages: _containers.RepeatedCompositeFieldContainer[StageLatency]
    over_budget: int
    def __init__(self, budget_ns: _Optional[int] = ..., interval_ns: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageLatency, _Mapping]]] = ..., over_budget: _Optional[int] = ...) -> None: ...

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
