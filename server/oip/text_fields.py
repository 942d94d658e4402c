"""The fields of GenerateRequest as tensors, or as parameters, of a request of the Open Inference Protocol."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from protos import charstream_pb2 as pb
from protos import inference_pb2 as oip
from server.errors import InvalidField, join_names, quote
from server.oip.tensors import Tensor

__all__ = ["FIELDS", "STREAMING", "Field", "TextInputs", "generate_request"]

MICROSECOND = 1e-6
INTEGERS = {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"}
# The datatypes that a field takes, by the one that it has in the model's configuration.
TAKEN = {
    "UINT32": INTEGERS,
    "UINT64": INTEGERS,
    "FP32": {"FP32", "FP64"},
    "FP64": {"FP32", "FP64"},
    "BOOL": {"BOOL"},
    "BYTES": {"BYTES"},
}
# The choice of an InferParameter that a field takes, by the datatype.
CHOICES = {
    "UINT32": ("int64_param", "uint64_param"),
    "UINT64": ("int64_param", "uint64_param"),
    "FP32": ("double_param", "int64_param", "uint64_param"),
    "FP64": ("double_param", "int64_param", "uint64_param"),
    "BOOL": ("bool_param",),
    "BYTES": ("string_param",),
}
# Parameters that mean nothing for a text, and do no harm; tritonclient's own begin with the prefix.
IGNORED = {"priority", "binary_data_output"}
RESERVED = "triton_"
SEQUENCE = {"sequence_id", "sequence_start", "sequence_end"}
UNKNOWN = {"refuse": pb.UNKNOWN_REFUSE, "skip": pb.UNKNOWN_SKIP, "replace": pb.UNKNOWN_REPLACE}
Put = Callable[[pb.GenerateRequest, str, Any], None]


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        datatype: as the model's configuration says it.
        put: puts a value into the message.
        size: number of elements; -1 for any.
        aliases: names that other servers' models have for it.
    """

    name: str
    datatype: str
    put: Put
    size: int = 1
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextInputs:
    """A request for a text.

    Attributes:
        streaming: whether it asks for a message a chunk; None if it does not say.
    """

    message: pb.GenerateRequest
    streaming: bool | None


def generate_request(
    model: str, tensors: Mapping[str, Tensor], parameters: Mapping[str, oip.InferParameter]
) -> TextInputs:
    """Return the request for a text. Raises InvalidField."""
    values = _values(tensors, parameters)
    streaming = values.pop(STREAMING.name, None)
    message = pb.GenerateRequest(model=model)
    if "text_input" not in values:
        raise InvalidField("text_input", "is missing; it is the text to continue, and may be empty")
    for name, value in values.items():
        KNOWN[name].put(message, name, value)
    timeout = parameters.get("timeout")
    if timeout and not message.HasField("time_limit"):
        _put_seconds(message.time_limit, "timeout", _whole_number("timeout", timeout) * MICROSECOND)
    return TextInputs(message, streaming)


def _values(tensors: Mapping[str, Tensor], parameters: Mapping[str, oip.InferParameter]) -> dict[str, Any]:
    """Return what the request gives, by the fields' own names. Raises InvalidField."""
    values: dict[str, Any] = {}
    for name, tensor in tensors.items():
        _add(values, name, _find(name, "input"), lambda field, tensor=tensor: _tensor_value(field, tensor))  # type: ignore[misc]
    for name, given in parameters.items():
        if name in SEQUENCE:
            raise InvalidField(name, "is for step models, NAME.step; a text goes on by `resume_token` or `received`")
        if name != "timeout" and name not in IGNORED and not name.startswith(RESERVED):
            _add(values, name, _find(name, "parameter"), lambda field, given=given: _parameter_value(field, given))  # type: ignore[misc]
    return values


def _find(name: str, what: str) -> Field:
    if name not in KNOWN:
        raise InvalidField(quote(name), f"is no {what} of a text model; docs/triton.md lists them: {NAMES}")
    return KNOWN[name]


def _add(values: dict[str, Any], name: str, field: Field, read: Callable[[Field], Any]) -> None:
    if field.name in values:
        raise InvalidField(name, f"is given twice: as input, as parameter, or as one of {[field.name, *field.aliases]}")
    values[field.name] = read(field)


def _tensor_value(field: Field, tensor: Tensor) -> Any:
    if tensor.datatype not in TAKEN[field.datatype]:
        raise InvalidField(tensor.name, f"has the datatype {tensor.datatype}, {field.datatype} is expected")
    if field.size == 1 and len(tensor.values) != 1:
        raise InvalidField(tensor.name, f"has the shape {list(tensor.shape)}, one element is expected")
    values = list(tensor.values) if field.datatype == "BYTES" else tensor.values.tolist()  # type: ignore[union-attr]
    return values[0] if field.size == 1 else values


def _parameter_value(field: Field, given: oip.InferParameter) -> Any:
    choice = given.WhichOneof("parameter_choice")
    if choice not in CHOICES[field.datatype]:
        raise InvalidField(
            field.name, f"is a {choice or 'parameter without value'}, {CHOICES[field.datatype][0]} is expected"
        )
    value = getattr(given, choice)
    if field.datatype == "BYTES":
        value = _from_base64(field.name, value) if field.name in BINARY else value.encode()
    return value if field.size == 1 else [value]


def _from_base64(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise InvalidField(name, "is bytes, so as a parameter it is base64, which this is not") from None


def _whole_number(name: str, given: oip.InferParameter) -> int:
    value = _parameter_value(Field(name, "UINT64", _ignore), given)
    return int(value)


def _ignore(message: pb.GenerateRequest, name: str, value: Any) -> None:
    """Put nothing anywhere: the value means something to who asked for it only."""


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidField(name, f"is no UTF-8: byte {error.start} is {value[error.start]:#04x}") from None


def _set(path: str) -> Put:
    """Return what puts a number, a flag or bytes into the field at `path`."""
    *above, last = path.split(".")

    def put(message: pb.GenerateRequest, name: str, value: Any) -> None:
        target: Any = message
        for part in above:
            target = getattr(target, part)
        try:
            setattr(target, last, value)
        except ValueError:
            raise InvalidField(name, f"is {value}, which is out of range") from None

    return put


def _set_text(path: str) -> Put:
    put_value = _set(path)

    def put(message: pb.GenerateRequest, name: str, value: bytes) -> None:
        put_value(message, name, _text(name, value))

    return put


def _set_seconds(path: str) -> Put:
    def put(message: pb.GenerateRequest, name: str, value: float) -> None:
        target: Any = message
        for part in path.split("."):
            target = getattr(target, part)
        _put_seconds(target, name, value)

    return put


def _put_seconds(target: Duration, name: str, value: float) -> None:
    try:
        target.FromNanoseconds(round(value * 1e9))
    except (ValueError, OverflowError):
        raise InvalidField(name, f"is {value:g} s, which is no time that can pass") from None
    target.SetInParent()


def _put_stops(message: pb.GenerateRequest, name: str, values: Sequence[bytes]) -> None:
    message.stop.extend(_text(name, value) for value in values)


def _put_bias(message: pb.GenerateRequest, name: str, value: bytes) -> None:
    """Take a JSON object of numbers by character."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(type(number) in (int, float) for number in found.values()):
        raise InvalidField(name, 'a JSON object of numbers by character is expected, as {"e": -2}')
    message.sampling.bias.SetInParent()
    for char, number in found.items():
        try:
            message.sampling.bias.of[char] = number
        except (ValueError, OverflowError):
            raise InvalidField(
                name, f"has the key or number of {quote(char)}, which is no text or out of range"
            ) from None


def _put_unknown(message: pb.GenerateRequest, name: str, value: bytes) -> None:
    choice = _text(name, value)
    if choice not in UNKNOWN:
        raise InvalidField(name, f"is {quote(choice)}, allowed are {', '.join(UNKNOWN)}")
    message.unknown = UNKNOWN[choice]


STREAMING = Field("streaming", "BOOL", _ignore, aliases=("stream",))
# In the order of docs/triton.md.
FIELDS = (
    Field("text_input", "BYTES", _set_text("prompt")),
    STREAMING,
    Field("temperature", "FP32", _set("sampling.temperature")),
    Field("top_k", "UINT32", _set("sampling.top_k")),
    Field("top_p", "FP32", _set("sampling.top_p")),
    Field("min_p", "FP32", _set("sampling.min_p")),
    Field("allowed", "BYTES", _set_text("sampling.allowed")),
    Field("banned", "BYTES", _set_text("sampling.banned")),
    Field("bias", "BYTES", _put_bias),
    Field("seed", "UINT64", _set("seed"), aliases=("random_seed",)),
    Field("max_chars", "UINT32", _set("max_chars"), aliases=("max_tokens",)),
    Field("min_chars", "UINT32", _set("min_chars"), aliases=("min_tokens",)),
    Field("stop", "BYTES", _put_stops, size=-1, aliases=("stop_words",)),
    Field("include_stop", "BOOL", _set("include_stop")),
    Field("repeat_max_period", "UINT32", _set("stop_on_repeat.max_period")),
    Field("repeat_times", "UINT32", _set("stop_on_repeat.times")),
    Field("repeat_min_period", "UINT32", _set("stop_on_repeat.min_period")),
    Field("echo", "BOOL", _set("echo")),
    Field("logprobs", "UINT32", _set("logprobs")),
    Field("n", "UINT32", _set("n")),
    Field("continuation", "UINT32", _set("continuation")),
    Field("max_chunk_chars", "UINT32", _set("chunking.max_chars")),
    Field("max_chunk_delay", "FP64", _set_seconds("chunking.max_delay")),
    Field("time_limit", "FP64", _set_seconds("time_limit")),
    Field("unknown", "BYTES", _put_unknown),
    Field("resume_token", "BYTES", _set("resume_token")),
    Field("return_token", "BOOL", _set("return_token")),
    Field("checkpoint_chars", "UINT32", _set("checkpoint_chars")),
    Field("received", "BYTES", _set_text("received")),
    Field("received_raw", "BYTES", _set("received_raw")),
    Field("replica_digest", "BYTES", _set_text("replica.digest")),
    Field("replica_precision", "BYTES", _set_text("replica.precision")),
    Field("replica_numerics", "BYTES", _set_text("replica.numerics")),
    Field("other_numerics", "BOOL", _set("other_numerics")),
)
# Bytes that need not be text.
BINARY = {"resume_token", "received_raw"}
KNOWN = {name: field for field in FIELDS for name in (field.name, *field.aliases)}
NAMES = join_names([field.name for field in FIELDS])
