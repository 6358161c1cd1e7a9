from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "events", "trial")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    events: _containers.RepeatedCompositeFieldContainer[ModelEvent]
    trial: Trial
    def __init__(self, models: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[ModelEvent, _Mapping]]] = ..., trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("age_seconds", "model", "what")
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    age_seconds: float
    model: str
    what: str
    def __init__(self, age_seconds: _Optional[float] = ..., model: _Optional[str] = ..., what: _Optional[str] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("model", "share_percent", "rows", "flips", "difference_mean", "difference_max", "run_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHARE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_MEAN_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_MAX_FIELD_NUMBER: _ClassVar[int]
    RUN_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    share_percent: int
    rows: int
    flips: int
    difference_mean: float
    difference_max: float
    run_ns: int
    def __init__(self, model: _Optional[str] = ..., share_percent: _Optional[int] = ..., rows: _Optional[int] = ..., flips: _Optional[int] = ..., difference_mean: _Optional[float] = ..., difference_max: _Optional[float] = ..., run_ns: _Optional[int] = ...) -> None: ...

class FleetReport(_message.Message):
    __slots__ = ("engines", "rollbacks", "shadow_skipped", "trial", "tier")
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[EngineState]
    rollbacks: int
    shadow_skipped: int
    trial: Trial
    tier: TierReport
    def __init__(self, engines: _Optional[_Iterable[_Union[EngineState, _Mapping]]] = ..., rollbacks: _Optional[int] = ..., shadow_skipped: _Optional[int] = ..., trial: _Optional[_Union[Trial, _Mapping]] = ..., tier: _Optional[_Union[TierReport, _Mapping]] = ...) -> None: ...

class EngineState(_message.Message):
    __slots__ = ("model", "state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    state: str
    def __init__(self, model: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class TierReport(_message.Message):
    __slots__ = ("small_rows", "large_rows", "pressed_rows", "large_share", "pressed_share", "small_run_ns", "large_run_ns", "small_decision_ns", "large_decision_ns")
    SMALL_ROWS_FIELD_NUMBER: _ClassVar[int]
    LARGE_ROWS_FIELD_NUMBER: _ClassVar[int]
    PRESSED_ROWS_FIELD_NUMBER: _ClassVar[int]
    LARGE_SHARE_FIELD_NUMBER: _ClassVar[int]
    PRESSED_SHARE_FIELD_NUMBER: _ClassVar[int]
    SMALL_RUN_NS_FIELD_NUMBER: _ClassVar[int]
    LARGE_RUN_NS_FIELD_NUMBER: _ClassVar[int]
    SMALL_DECISION_NS_FIELD_NUMBER: _ClassVar[int]
    LARGE_DECISION_NS_FIELD_NUMBER: _ClassVar[int]
    small_rows: int
    large_rows: int
    pressed_rows: int
    large_share: float
    pressed_share: float
    small_run_ns: int
    large_run_ns: int
    small_decision_ns: float
    large_decision_ns: float
    def __init__(self, small_rows: _Optional[int] = ..., large_rows: _Optional[int] = ..., pressed_rows: _Optional[int] = ..., large_share: _Optional[float] = ..., pressed_share: _Optional[float] = ..., small_run_ns: _Optional[int] = ..., large_run_ns: _Optional[int] = ..., small_decision_ns: _Optional[float] = ..., large_decision_ns: _Optional[float] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("model", "checks")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    checks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., checks: _Optional[_Iterable[str]] = ...) -> None: ...

class PromoteModelRequest(_message.Message):
    __slots__ = ("name", "version", "stages_percent", "stage_rows_min", "stage_seconds_min")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGES_PERCENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_ROWS_MIN_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_MIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    stages_percent: _containers.RepeatedScalarFieldContainer[int]
    stage_rows_min: int
    stage_seconds_min: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., stages_percent: _Optional[_Iterable[int]] = ..., stage_rows_min: _Optional[int] = ..., stage_seconds_min: _Optional[float] = ...) -> None: ...

class PromoteModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class RollbackModelResponse(_message.Message):
    __slots__ = ("live",)
    LIVE_FIELD_NUMBER: _ClassVar[int]
    live: ModelVersion
    def __init__(self, live: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class SetShadowRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class SetShadowResponse(_message.Message):
    __slots__ = ("shadow",)
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    shadow: ModelVersion
    def __init__(self, shadow: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "engine_digest", "precision", "schema_fingerprint", "live", "published_at_seconds", "problem", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    engine_digest: str
    precision: str
    schema_fingerprint: str
    live: bool
    published_at_seconds: int
    problem: str
    state: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., engine_digest: _Optional[str] = ..., precision: _Optional[str] = ..., schema_fingerprint: _Optional[str] = ..., live: _Optional[bool] = ..., published_at_seconds: _Optional[int] = ..., problem: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...
