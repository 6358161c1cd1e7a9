import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutFeaturesRequest(_message.Message):
    __slots__ = ("entity", "id", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    entity: str
    id: str
    values: _containers.ScalarMap[str, float]
    def __init__(self, entity: _Optional[str] = ..., id: _Optional[str] = ..., values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PutFeaturesResponse(_message.Message):
    __slots__ = ("entities", "values")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    entities: int
    values: int
    def __init__(self, entities: _Optional[int] = ..., values: _Optional[int] = ...) -> None: ...

class GetFeaturesRequest(_message.Message):
    __slots__ = ("entity", "id", "at")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    entity: str
    id: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, entity: _Optional[str] = ..., id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetFeaturesResponse(_message.Message):
    __slots__ = ("values", "defaulted", "latest_event_time", "buckets")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DEFAULTED_FIELD_NUMBER: _ClassVar[int]
    LATEST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    defaulted: _containers.RepeatedScalarFieldContainer[str]
    latest_event_time: _timestamp_pb2.Timestamp
    buckets: int
    def __init__(self, values: _Optional[_Mapping[str, float]] = ..., defaulted: _Optional[_Iterable[str]] = ..., latest_event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., buckets: _Optional[int] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("directory", "size_bytes", "stored_decisions", "duration_ns")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    directory: str
    size_bytes: int
    stored_decisions: int
    duration_ns: int
    def __init__(self, directory: _Optional[str] = ..., size_bytes: _Optional[int] = ..., stored_decisions: _Optional[int] = ..., duration_ns: _Optional[int] = ...) -> None: ...
