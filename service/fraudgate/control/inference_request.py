"""A ModelInfer request as rows for the engine. Everything wrong is refused with what to send instead."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from google.rpc import code_pb2

from fraudgate.control.requests import refuse
from fraudgate.engines.repository import Tensor
from fraudgate.frontend import refusals
from fraudgate.frontend.refusals import Refusal
from fraudgate.inference import grpc_service_pb2 as pb
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float32

FP32 = "FP32"
_LITTLE_ENDIAN = np.dtype("<f4")
_HARMLESS = {"triton_enable_empty_final_response"}
"""Parameters of a request that change nothing here, and that perf_analyzer sends: an answer is always the final one."""
_SHOWN_MAX = 64
"""Characters of a caller's text that a status message repeats."""


class Rows(NamedTuple):
    """The rows of a request, float32[n, features]; ``raw`` when they came as bytes."""

    values: Float32
    raw: bool


def rows_of(request: pb.ModelInferRequest, input: Tensor, output: Tensor) -> Rows:
    """The rows, for an engine with these two tensors. Raises Refused. What is not finite goes through."""
    _refuse_parameters("parameters", set(request.parameters) - _HARMLESS)
    _check_outputs(request, output)
    if len(request.inputs) != 1:
        refuse(refusals.invalid("inputs", f"needs one tensor, {input.name!r}"))
    (tensor,) = request.inputs
    _check_input(tensor, input)
    rows, features = tensor.shape
    if request.raw_input_contents:
        return Rows(_raw(request).reshape(rows, features), raw=True)
    return Rows(_numbers(tensor).reshape(rows, features), raw=False)


def shown(text: str) -> str:
    """A caller's text, quoted and cut, as a message repeats it."""
    return repr(text[:_SHOWN_MAX])


def _refuse_parameters(path: str, names: Iterable[str]) -> None:
    for name in names:
        instead = "send the rows with the request" if name.startswith("shared_memory_") else "send none"
        refuse(Refusal(code_pb2.UNIMPLEMENTED, f"{path}[{shown(name)}] is not served: {instead}"))


def _check_outputs(request: pb.ModelInferRequest, output: Tensor) -> None:
    if len(request.outputs) > 1:
        refuse(refusals.invalid("outputs", f"needs one tensor, {output.name!r}, or none, which asks for all"))
    for asked in request.outputs:
        if asked.name != output.name:
            refuse(refusals.invalid("outputs[0].name", f"{shown(asked.name)} is no output: send {output.name!r}"))
        _refuse_parameters("outputs[0].parameters", asked.parameters)


def _check_input(tensor: pb.InferInputTensor, input: Tensor) -> None:
    features = input.shape[1]
    if tensor.name != input.name:
        refuse(refusals.invalid("inputs[0].name", f"{shown(tensor.name)} is no input: send {input.name!r}"))
    _refuse_parameters("inputs[0].parameters", tensor.parameters)
    if tensor.datatype != FP32:
        refuse(refusals.invalid("inputs[0].datatype", f"{shown(tensor.datatype)} is not served: send {FP32!r}"))
    if len(tensor.shape) != 2 or not 1 <= tensor.shape[0] <= BATCH_ROWS_MAX or tensor.shape[1] != features:
        refuse(refusals.invalid("inputs[0].shape", f"needs [rows, {features}] with 1 to {BATCH_ROWS_MAX} rows"))


def _raw(request: pb.ModelInferRequest) -> Float32:
    (tensor,) = request.inputs
    if tensor.contents.ListFields():
        refuse(refusals.invalid("inputs[0].contents", "came with raw_input_contents: send one of the two"))
    wanted = _elements(tensor) * _LITTLE_ENDIAN.itemsize
    sizes = [len(raw) for raw in request.raw_input_contents]
    if sizes != [wanted]:
        refuse(refusals.invalid("raw_input_contents", f"needs one entry of {wanted} bytes, as the shape says"))
    return np.frombuffer(request.raw_input_contents[0], _LITTLE_ENDIAN).astype(np.float32)


def _numbers(tensor: pb.InferInputTensor) -> Float32:
    for field, _ in tensor.contents.ListFields():
        if field.name != "fp32_contents":
            refuse(refusals.invalid(f"inputs[0].contents.{field.name}", "is of another type: send fp32_contents"))
    wanted, sent = _elements(tensor), len(tensor.contents.fp32_contents)
    if sent != wanted:
        instead = f"needs {wanted} numbers, as the shape says, and has {sent}; or send raw_input_contents"
        refuse(refusals.invalid("inputs[0].contents.fp32_contents", instead))
    return np.array(tensor.contents.fp32_contents, np.float32)


def _elements(tensor: pb.InferInputTensor) -> int:
    rows, features = tensor.shape
    return int(rows * features)
