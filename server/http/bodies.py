"""Bodies: of requests, JSON of a declared form, whose faults are named; of answers, JSON and server-sent events."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from server.errors import InvalidField, quote

__all__ = ["Body", "Strings", "merge_fields", "parse", "to_event", "to_fields", "to_json"]

MAX_DEPTH = 20

B = TypeVar("B", bound="Body")
M = TypeVar("M", bound=Message)


class Body(BaseModel):
    """A request's body. Fields that it does not know are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


def _to_strings(given: Any) -> Any:
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list) and all(isinstance(part, str) for part in given):
        return tuple(given)
    if isinstance(given, list):
        raise ValueError("allowed are strings; numbers of tokens mean nothing here, as each character is one")
    raise ValueError("allowed are a string or a list of strings")


Strings = Annotated[tuple[str, ...], BeforeValidator(_to_strings)]


def parse(kind: type[B], data: bytes) -> B:
    """Return the body. Raises InvalidField."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "json_invalid":
            raise InvalidField("body", f"is no JSON that can be read: {first['ctx']['error']}") from None
        if not place:
            raise InvalidField("body", f"is {quote(str(first['input']))}, allowed is a JSON object") from None
        reason = str(first.get("ctx", {}).get("error", "")) or first["msg"].replace("Input should be", "allowed is")
        came = "is missing" if first["type"] == "missing" else f"is {quote(_shown(first['input']))}"
        raise InvalidField(place, f"{came}; {reason}") from None


def _shown(value: Any) -> str:
    return str(value)[:1000]


def merge_fields(field: str, given: Mapping[str, Any], kind: type[M]) -> M:
    """Return the message of charstream.v1 that an object describes by its JSON form. Raises InvalidField."""
    message = kind()
    try:
        ParseDict(dict(given), message, max_recursion_depth=MAX_DEPTH)
    except (ParseError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidField(field, f"is no JSON form of {kind.DESCRIPTOR.full_name}: {reason}") from None
    return message


def to_fields(message: Message) -> dict[str, Any]:
    """Return the JSON form of a message of charstream.v1: bytes in base64, 64-bit numbers as strings."""
    return MessageToDict(message, preserving_proto_field_name=True)


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def to_event(value: Any) -> bytes:
    """Return a server-sent event with a value as JSON."""
    return b"data: " + to_json(value) + b"\n\n"
