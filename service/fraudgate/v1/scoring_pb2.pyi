import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    APPROVE: _ClassVar[Decision]
    REVIEW: _ClassVar[Decision]
    DECLINE: _ClassVar[Decision]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSPECIFIED: _ClassVar[Fallback]
    FALLBACK_NONE: _ClassVar[Fallback]
    FALLBACK_DEFAULTED_FEATURES: _ClassVar[Fallback]
    FALLBACK_STALE_FEATURES: _ClassVar[Fallback]
    FALLBACK_SMALL_MODEL: _ClassVar[Fallback]
    FALLBACK_RULES_ONLY: _ClassVar[Fallback]
    FALLBACK_STATIC_POLICY: _ClassVar[Fallback]
DECISION_UNSPECIFIED: Decision
APPROVE: Decision
REVIEW: Decision
DECLINE: Decision
FALLBACK_UNSPECIFIED: Fallback
FALLBACK_NONE: Fallback
FALLBACK_DEFAULTED_FEATURES: Fallback
FALLBACK_STALE_FEATURES: Fallback
FALLBACK_SMALL_MODEL: Fallback
FALLBACK_RULES_ONLY: Fallback
FALLBACK_STATIC_POLICY: Fallback

class ScoreRequest(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: Transaction
    def __init__(self, transaction: _Optional[_Union[Transaction, _Mapping]] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("transaction_id", "event_time", "amount_minor", "currency", "customer_id", "terminal_id", "card_id", "merchant_id", "device_id", "ip_address", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MINOR_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_ID_FIELD_NUMBER: _ClassVar[int]
    MERCHANT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    event_time: _timestamp_pb2.Timestamp
    amount_minor: int
    currency: str
    customer_id: str
    terminal_id: str
    card_id: str
    merchant_id: str
    device_id: str
    ip_address: str
    attributes: _containers.ScalarMap[str, float]
    def __init__(self, transaction_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., amount_minor: _Optional[int] = ..., currency: _Optional[str] = ..., customer_id: _Optional[str] = ..., terminal_id: _Optional[str] = ..., card_id: _Optional[str] = ..., merchant_id: _Optional[str] = ..., device_id: _Optional[str] = ..., ip_address: _Optional[str] = ..., attributes: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("transaction_id", "decision", "score", "reasons", "rules_fired", "model", "ruleset_version", "fallback", "decision_id", "timings")
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIRED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RULESET_VERSION_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    decision: Decision
    score: float
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    rules_fired: _containers.RepeatedScalarFieldContainer[str]
    model: ModelRef
    ruleset_version: str
    fallback: Fallback
    decision_id: str
    timings: Timings
    def __init__(self, transaction_id: _Optional[str] = ..., decision: _Optional[_Union[Decision, str]] = ..., score: _Optional[float] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., rules_fired: _Optional[_Iterable[str]] = ..., model: _Optional[_Union[ModelRef, _Mapping]] = ..., ruleset_version: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., decision_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("code", "description", "contribution")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    code: str
    description: str
    contribution: float
    def __init__(self, code: _Optional[str] = ..., description: _Optional[str] = ..., contribution: _Optional[float] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("name", "version", "engine_digest", "precision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    engine_digest: str
    precision: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., engine_digest: _Optional[str] = ..., precision: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ns", "features_ns", "inference_ns", "guardrails_ns", "total_ns", "batch_rows")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_NS_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_NS_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    features_ns: int
    inference_ns: int
    guardrails_ns: int
    total_ns: int
    batch_rows: int
    def __init__(self, queue_ns: _Optional[int] = ..., features_ns: _Optional[int] = ..., inference_ns: _Optional[int] = ..., guardrails_ns: _Optional[int] = ..., total_ns: _Optional[int] = ..., batch_rows: _Optional[int] = ...) -> None: ...

class ScoreBatchRequest(_message.Message):
    __slots__ = ("transactions",)
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[Transaction]
    def __init__(self, transactions: _Optional[_Iterable[_Union[Transaction, _Mapping]]] = ...) -> None: ...

class ScoreBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("transaction_id", "response", "error")
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    response: ScoreResponse
    error: _status_pb2.Status
    def __init__(self, transaction_id: _Optional[str] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
