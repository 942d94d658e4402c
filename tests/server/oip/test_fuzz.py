"""Requests that nobody would write: each is read, or refused with a field's name, and nothing else is raised."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.manifest import Manifest
from protos import inference_pb2 as oip
from server.errors import InvalidField
from server.oip.responses import ResponseWriter
from server.oip.step_models import read_step
from server.oip.tensors import ARRAYS, read_tensors
from server.oip.text_answers import OUTPUTS
from server.oip.text_fields import FIELDS, generate_request

NAMES = [*(field.name for field in FIELDS), "token", "h0", "c0", "h1", "c1", "sequence_id", "timeout", "x"]
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**32])
JSON = ['{"a": 1e999}', '{"a": NaN}', '{"ab": 1}', "[" * 5000, '{"\\ud800": 1}', "{}"]
TEXTS = st.text(max_size=8) | st.sampled_from(JSON)
PARAMETERS = st.one_of(
    st.builds(lambda value: oip.InferParameter(bool_param=value), st.booleans()),
    st.builds(lambda value: oip.InferParameter(int64_param=value), NUMBERS),
    st.builds(lambda value: oip.InferParameter(uint64_param=abs(value)), NUMBERS),
    st.builds(lambda value: oip.InferParameter(double_param=value), st.floats(allow_subnormal=False)),
    st.builds(lambda value: oip.InferParameter(string_param=value), TEXTS),
    st.just(oip.InferParameter()),
)
VALUES = {
    "bytes_contents": st.binary(max_size=5),
    "int64_contents": NUMBERS,
    "bool_contents": st.booleans(),
    "fp32_contents": st.floats(width=32, allow_subnormal=False),
    "int_contents": st.integers(-300, 70_000),
}
CONTENTS = st.none() | st.one_of(
    st.builds(lambda values, name=name: oip.InferTensorContents(**{name: values}), st.lists(values, max_size=3))
    for name, values in VALUES.items()
)
TENSORS = st.builds(
    lambda name, datatype, shape, contents: oip.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=contents
    ),
    st.sampled_from(NAMES),
    st.sampled_from([*ARRAYS, "BYTES", "BF16"]),
    st.lists(st.sampled_from([0, 1, 2, 3, 64, -1, 2**62]), max_size=3),
    CONTENTS,
)
RAW = st.binary(max_size=12) | st.sampled_from([b"\1\0\0\0a", b"\xff\xff\xff\xff", bytes(8), bytes(256)])


@settings(max_examples=400, deadline=None)
@given(
    tensors=st.lists(TENSORS, max_size=4),
    raw=st.lists(RAW, max_size=4),
    parameters=st.dictionaries(st.sampled_from(NAMES), PARAMETERS, max_size=4),
)
def test_a_request_is_read_or_refused(
    tiny_files: tuple[Manifest, dict[str, bytes]], tensors: Any, raw: list[bytes], parameters: Any
) -> None:
    request = oip.ModelInferRequest(inputs=tensors, raw_input_contents=raw[: len(tensors)])
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(value)
    with suppress(InvalidField):
        ResponseWriter(request, OUTPUTS)
        generate_request("tiny", read_tensors(request), request.parameters)
    with suppress(InvalidField):
        read_step(request, tiny_files[0], max_rows=256)
