"""Requests as users of tritonclient write them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from server.oip.text_fields import FIELDS

__all__ = ["InferInput", "count_final", "inputs", "result_text", "tensor"]

InferInput = triton.InferInput
TYPES = {field.name: field.datatype for field in FIELDS}
NUMPY = {"BYTES": np.object_, "BOOL": np.bool_, "UINT32": np.uint32, "UINT64": np.uint64, "FP32": np.float32}


def tensor(name: str, values: Any, datatype: str) -> InferInput:
    array = np.array(values, NUMPY.get(datatype, np.float64))
    given = InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def inputs(text: str = "", **fields: Any) -> list[InferInput]:
    """The inputs of a text, each field as a tensor of the type that the model's configuration has for it."""
    values = {"text_input": text, **fields}
    return [tensor(name, _list(name, value), TYPES[name]) for name, value in values.items()]


def _list(name: str, value: Any) -> Sequence[Any]:
    values = value if isinstance(value, list) else [value]
    return [one.encode() if isinstance(one, str) else one for one in values]


def result_text(result: Any, name: str = "text_output") -> str:
    found = result.as_numpy(name)
    return "" if found is None else b"".join(found.tolist()).decode()


def count_final(results: Sequence[Any]) -> list[bool]:
    return [result.get_response().parameters["triton_final_response"].bool_param for result in results]
