"""Tensors of the Open Inference Protocol: read from a request, written into a response."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos import inference_pb2 as oip
from server.errors import InvalidField, join_names, quote

__all__ = ["Tensor", "read_tensors", "write_tensors"]

BYTES = "BYTES"
# By the protocol's name of an element type: numpy's, little-endian, and the field of InferTensorContents.
ARRAYS = {
    "BOOL": ("?", "bool_contents"),
    "UINT8": ("<u1", "uint_contents"),
    "UINT16": ("<u2", "uint_contents"),
    "UINT32": ("<u4", "uint_contents"),
    "UINT64": ("<u8", "uint64_contents"),
    "INT8": ("<i1", "int_contents"),
    "INT16": ("<i2", "int_contents"),
    "INT32": ("<i4", "int_contents"),
    "INT64": ("<i8", "int64_contents"),
    "FP16": ("<f2", ""),
    "FP32": ("<f4", "fp32_contents"),
    "FP64": ("<f8", "fp64_contents"),
}
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        values: in row-major order; byte strings if the datatype is BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[bytes]


def read_tensors(request: oip.ModelInferRequest) -> dict[str, Tensor]:
    """Return the request's inputs by name. Raises InvalidField."""
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        reason = f"has {len(raw)} parts, and the request {len(inputs)} inputs: one for each is expected, in their order"
        raise InvalidField("raw_input_contents", reason)
    tensors: dict[str, Tensor] = {}
    for number, given in enumerate(inputs):
        if given.name in tensors:
            raise InvalidField(f"inputs[{number}]", f"{quote(given.name)} is there twice")
        tensors[given.name] = _read(given, raw[number] if raw else None)
    return tensors


def write_tensors(response: oip.ModelInferResponse, tensors: Sequence[Tensor], *, raw: bool) -> None:
    """Add the tensors to the response's outputs, as raw bytes or as typed contents."""
    for tensor in tensors:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(_to_bytes(tensor))
        elif tensor.datatype == BYTES:
            output.contents.bytes_contents.extend(tensor.values)
        else:
            getattr(output.contents, ARRAYS[tensor.datatype][1]).extend(np.ravel(tensor.values).tolist())


def _to_bytes(tensor: Tensor) -> bytes:
    if tensor.datatype == BYTES:
        return b"".join(part for value in tensor.values for part in (LENGTH.pack(len(value)), value))
    return np.ascontiguousarray(tensor.values, ARRAYS[tensor.datatype][0]).tobytes()


def _read(given: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    name, field = given.name, _field_of(given)
    _check_parameters(name, given.parameters)
    if given.datatype != BYTES and given.datatype not in ARRAYS:
        types = join_names([BYTES, *ARRAYS])
        raise InvalidField(name, f"has the datatype {quote(given.datatype)}, allowed are {types}")
    shape = tuple(given.shape)
    if any(size < 0 for size in shape):
        raise InvalidField(name, f"has the shape {list(shape)}, sizes from 0 are expected")
    if raw is None:
        values = _typed_values(given, field)
    elif given.HasField("contents"):
        raise InvalidField(name, "has contents, and the request raw_input_contents: give one of them")
    else:
        values = _split(name, raw) if given.datatype == BYTES else _array(name, given.datatype, raw)
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidField(name, f"has {len(values)} elements, {count} are expected by its shape {list(shape)}")
    return Tensor(name, given.datatype, shape, values)


def _field_of(given: oip.ModelInferRequest.InferInputTensor) -> str:
    return "bytes_contents" if given.datatype == BYTES else ARRAYS.get(given.datatype, ("", ""))[1]


def _check_parameters(name: str, parameters: Mapping[str, oip.InferParameter]) -> None:
    for parameter in parameters:
        if parameter.startswith("shared_memory"):
            raise InvalidField(name, f"has the parameter {parameter}: there is no shared memory here, send the values")


def _typed_values(given: oip.ModelInferRequest.InferInputTensor, field: str) -> NDArray[Any] | Sequence[bytes]:
    others = [known.name for known, _ in given.contents.ListFields() if known.name != field]
    if others or not field:
        expected = f"contents.{field} is expected" if field else "which has no typed contents: send it raw"
        came = f", {others[0]} came" if others else ""
        raise InvalidField(given.name, f"has the datatype {given.datatype}: {expected}{came}")
    values = getattr(given.contents, field)
    if given.datatype == BYTES:
        return list(values)
    found, element = np.array(values), np.dtype(ARRAYS[given.datatype][0])
    if element.itemsize < 4 and element.kind in "iu" and len(values):
        limits = np.iinfo(element)
        if found.min() < limits.min or found.max() > limits.max:
            raise InvalidField(given.name, f"has numbers that are no {given.datatype}")
    return found.astype(element)


def _array(name: str, datatype: str, raw: bytes) -> NDArray[Any]:
    element = np.dtype(ARRAYS[datatype][0])
    if len(raw) % element.itemsize:
        raise InvalidField(name, f"has {len(raw)} bytes, which is no number of elements of {element.itemsize} bytes")
    return np.frombuffer(raw, element)


def _split(name: str, raw: bytes) -> list[bytes]:
    """Return the byte strings of a raw tensor: each follows its length, 4 bytes, the lowest first."""
    values, place = [], 0
    while place < len(raw):
        begin = place + LENGTH.size
        end = begin + LENGTH.unpack_from(raw, place)[0] if begin <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise InvalidField(
                name, "ends inside an element: each is its length in 4 bytes, the lowest first, and bytes"
            )
        values.append(raw[begin:end])
        place = end
    return values
