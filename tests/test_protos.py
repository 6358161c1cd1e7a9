"""The contract: stubs are up to date, numbers keep the published order, everything public is commented."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from protos.generate import SERVICE, compile_protos, write_stubs

OWN, STANDARD = "fraudgate.v1", "inference"
"""The packages: our contract, and the part of the Open Inference Protocol that is served."""
STUBS = ("fraudgate/v1", "fraudgate/inference")

FIELDS = """
ScoreRequest          transaction
Transaction           transaction_id event_time amount_minor currency customer_id terminal_id card_id merchant_id device_id ip_address attributes
ScoreResponse         transaction_id decision score reasons rules_fired model ruleset_version fallback decision_id timings
Reason                code description contribution
ModelRef              name version engine_digest precision
Timings               queue_ns features_ns inference_ns guardrails_ns total_ns batch_rows
ScoreBatchRequest     transactions
ScoreBatchResponse    results
ScoreResult           transaction_id response error
ReportOutcomeRequest  transaction_id is_fraud reported_at event_time customer_id terminal_id card_id merchant_id device_id
"""  # noqa: E501
"""The published messages: field i of a line has number i + 1, for good. Lines grow at their ends only."""

VALUES = """
Decision  DECISION_UNSPECIFIED APPROVE REVIEW DECLINE
Fallback  FALLBACK_UNSPECIFIED FALLBACK_NONE FALLBACK_DEFAULTED_FEATURES FALLBACK_STALE_FEATURES FALLBACK_SMALL_MODEL FALLBACK_RULES_ONLY FALLBACK_STATIC_POLICY
"""  # noqa: E501
"""The published enums: value i of a line has number i."""

CALLS = """
ScoringService  Score ScoreBatch ScoreStream
FeatureService  PutFeatures GetFeatures DeleteEntity Snapshot
OutcomeService  ReportOutcome ReportOutcomes
ModelService    ListModels LoadModel PromoteModel RollbackModel SetShadow
LatencyService  GetLatencyReport ResetLatency
"""
"""The published calls; one that is not built yet is absent."""

STANDARD_FIELDS = """
ServerLiveResponse          live=1
ServerReadyResponse         ready=1
ModelReadyRequest           name=1 version=2
ModelReadyResponse          ready=1
ServerMetadataResponse      name=1 version=2 extensions=3
ModelMetadataRequest        name=1 version=2
ModelMetadataResponse       name=1 versions=2 platform=3 inputs=4 outputs=5
TensorMetadata              name=1 datatype=2 shape=3
ModelConfigRequest          name=1 version=2
ModelConfigResponse         config=1
ModelConfig                 name=1 platform=2 max_batch_size=4 input=5 output=6 default_model_filename=8 parameters=14 backend=17
ModelInput                  name=1 data_type=2 dims=4
ModelOutput                 name=1 data_type=2 dims=3
ModelParameter              string_value=1
InferParameter              bool_param=1 int64_param=2 string_param=3 double_param=4 uint64_param=5
InferTensorContents         bool_contents=1 int_contents=2 int64_contents=3 uint_contents=4 uint64_contents=5 fp32_contents=6 fp64_contents=7 bytes_contents=8
ModelInferRequest           model_name=1 model_version=2 id=3 parameters=4 inputs=5 outputs=6 raw_input_contents=7
InferInputTensor            name=1 datatype=2 shape=3 parameters=4 contents=5
InferRequestedOutputTensor  name=1 parameters=2
ModelInferResponse          model_name=1 model_version=2 id=3 parameters=4 outputs=5 raw_output_contents=6
InferOutputTensor           name=1 datatype=2 shape=3 parameters=4 contents=5
ModelStatisticsRequest      name=1 version=2
ModelStatisticsResponse     model_stats=1
ModelStatistics             name=1 version=2 last_inference=3 inference_count=4 execution_count=5 inference_stats=6 batch_stats=7
InferStatistics             success=1 fail=2 queue=3 compute_input=4 compute_infer=5 compute_output=6
InferBatchStatistics        batch_size=1 compute_input=2 compute_infer=3 compute_output=4
StatisticDuration           count=1 ns=2
"""  # noqa: E501
"""The messages of package ``inference`` that have fields, with the standard's numbers."""

Field = descriptor_pb2.FieldDescriptorProto
ASKED = {
    Field.TYPE_BOOL: (r"\bTrue\b", "what True means"),
    Field.TYPE_STRING: (r"\d|\"|: ", "its length in bytes, its format, or the values it may have"),
    Field.TYPE_BYTES: (r"\d", "its length in bytes"),
    Field.TYPE_MESSAGE: (r"\w", "a sentence"),
    Field.TYPE_ENUM: (r"\w", "a sentence"),
}
NUMBER_ASKED = (r"\d|[Ss]econds", "its unit or range")


@dataclass(frozen=True)
class Proto:
    """One compiled file, with its source comments by descriptor path."""

    file: descriptor_pb2.FileDescriptorProto

    @cached_property
    def comments(self) -> dict[tuple[int, ...], str]:
        return {tuple(place.path): place.leading_comments.strip() for place in self.file.source_code_info.location}

    def named(self) -> Iterator[tuple[str, str]]:
        """(name, comment) of every message, enum, value, service and call."""
        kinds: Any = (
            (4, self.file.message_type, ()),
            (5, self.file.enum_type, "value"),
            (6, self.file.service, "method"),
        )
        for kind, things, parts in kinds:
            for i, thing in enumerate(things):
                yield thing.name, self.comments.get((kind, i), "")
                for j, part in enumerate(getattr(thing, parts) if parts else ()):
                    yield f"{thing.name}.{part.name}", self.comments.get((kind, i, 2, j), "")

    def fields(self) -> Iterator[tuple[str, Field, str]]:
        """(message.field, field, comment) of every field."""
        for i, message in enumerate(self.file.message_type):
            for j, field in enumerate(message.field):
                yield f"{message.name}.{field.name}", field, self.comments.get((4, i, 2, j), "")


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> list[Proto]:
    out = tmp_path_factory.mktemp("protos") / "set.bin"
    compile_protos(f"--descriptor_set_out={out}", "--include_source_info")
    return [Proto(file) for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file]


def of(package: str, protos: list[Proto]) -> list[Proto]:
    return [proto for proto in protos if proto.file.package == package]


def stubs(root: Path) -> dict[str, bytes]:
    """The stubs under a source root, by their path from there."""
    found = [path for folder in STUBS for path in (root / folder).glob("*_pb2*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def rows(table: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for line in table.strip().splitlines() if (words := line.split())}


def in_number_order(parts: Iterable[Any]) -> list[str]:
    return [part.name for part in sorted(parts, key=lambda part: part.number)]


def test_stubs_are_up_to_date(tmp_path: Path) -> None:
    write_stubs(tmp_path)
    fresh, kept = stubs(tmp_path), stubs(SERVICE)
    stale = [name for name in sorted(fresh | kept) if fresh.get(name) != kept.get(name)]
    assert not stale, f"stubs differ from protos/: {stale}; run make protos"


def test_field_numbers_follow_the_published_order(protos: list[Proto]) -> None:
    messages = {message.name: message for proto in of(OWN, protos) for message in proto.file.message_type}
    for name, fields in rows(FIELDS).items():
        assert in_number_order(messages[name].field)[: len(fields)] == fields, name
    for name, message in messages.items():
        numbers = sorted(field.number for field in message.field)
        assert numbers == list(range(1, len(numbers) + 1)), f"{name} skips or repeats a field number: {numbers}"


def test_enum_numbers_follow_the_published_order(protos: list[Proto]) -> None:
    enums = {enum.name: enum for proto in of(OWN, protos) for enum in proto.file.enum_type}
    assert enums.keys() == rows(VALUES).keys()
    for name, values in rows(VALUES).items():
        assert in_number_order(enums[name].value) == values
        assert [value.number for value in enums[name].value] == list(range(len(values)))


def test_services_have_only_published_calls(protos: list[Proto]) -> None:
    services = {service.name: service for proto in of(OWN, protos) for service in proto.file.service}
    published = rows(CALLS)
    assert services.keys() <= published.keys()
    for name, service in services.items():
        assert {call.name for call in service.method} <= set(published[name]), name
    assert [call.name for call in services["ScoringService"].method] == published["ScoringService"]


def test_field_numbers_are_the_standards(protos: list[Proto]) -> None:
    messages = {message.name: message for proto in of(STANDARD, protos) for message in proto.file.message_type}
    numbers = {name: [f"{field.name}={field.number}" for field in m.field] for name, m in messages.items()}
    assert {name: fields for name, fields in numbers.items() if fields} == rows(STANDARD_FIELDS)


def test_messages_are_flat(protos: list[Proto]) -> None:
    nested = [m.name for p in protos for m in p.file.message_type for n in m.nested_type if not n.options.map_entry]
    assert not nested, "the comment checks below look at top-level messages only"


def test_everything_public_is_commented(protos: list[Proto]) -> None:
    bare = [f"{p.file.name}: {name} has no comment above it" for p in protos for name, text in p.named() if not text]
    assert not bare, "\n".join(bare)


def test_every_field_says_its_unit_or_range(protos: list[Proto]) -> None:
    problems = []
    for proto in protos:
        for name, field, comment in proto.fields():
            pattern, wanted = ASKED.get(field.type, NUMBER_ASKED)
            if not re.search(pattern, comment):
                problems.append(f"{proto.file.name}: {name}: the comment above it must say {wanted}")
    assert not problems, "\n".join(problems)
