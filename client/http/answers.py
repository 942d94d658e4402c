"""Answers over HTTP as the messages of charstream.v1."""

from typing import Any

import grpc
from google.protobuf.json_format import ParseDict

from charstream.protos import charstream_pb2 as pb
from client.http.errors import HttpError

__all__ = ["error_of", "to_models", "to_response"]

CODES = {
    "wrong_replica": grpc.StatusCode.FAILED_PRECONDITION,
    "model_not_found": grpc.StatusCode.NOT_FOUND,
    "invalid_api_key": grpc.StatusCode.UNAUTHENTICATED,
    **{code.name.lower(): code for code in grpc.StatusCode},
}
STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
LIMITS = "rate_limit_error"  # the type of errors whose code is the name of a limit


def error_of(body: Any, status: int | None, retry_after: str | None) -> HttpError:
    """Return an answer's error; of an event `status` is None."""
    about = body.get("error") if isinstance(body, dict) else None
    if not isinstance(about, dict):
        return HttpError(STATUS.get(status or 0, grpc.StatusCode.UNKNOWN), f"HTTP {status}: {body}"[:500])
    code = CODES.get(str(about.get("code")), STATUS.get(status or 0, grpc.StatusCode.UNKNOWN))
    if about.get("type") == LIMITS:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    message, field = str(about.get("message", "")), str(about.get("param") or "")
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return HttpError(code, message, field=field, retry_seconds=seconds)


def to_models(body: Any) -> pb.ListModelsResponse | pb.Model:
    if "data" in body:
        return pb.ListModelsResponse(models=[ParseDict(model["charstream"], pb.Model()) for model in body["data"]])
    return ParseDict(body["charstream"], pb.Model())


def to_response(event: Any, request: pb.GenerateRequest) -> pb.GenerateResponse:
    """Return the message that an event was made of."""
    (choice,) = event["choices"]
    response = ParseDict(choice.get("charstream") or {}, pb.GenerateResponse())
    response.text = choice["text"]
    response.index = choice["index"] if request.n > 1 else request.continuation
    if numbers := choice.get("logprobs"):
        response.logprobs.chosen.extend(numbers["token_logprobs"])
        if request.logprobs:
            for own, place in zip(numbers["tokens"], numbers["top_logprobs"], strict=True):
                _add_alternatives(response.logprobs, own, place, request.logprobs)
    return response


def _add_alternatives(numbers: pb.Logprobs, own: str, place: dict[str, float], most: int) -> None:
    """Add the most probable ones at a place; the character itself is there even where it is none of them."""
    best = sorted((pair for pair in place.items() if pair[0] != own or len(place) <= most), key=lambda pair: -pair[1])
    numbers.alternatives.add(chars="".join(_byte(name) for name, _ in best), logprobs=[value for _, value in best])


def _byte(name: str) -> str:
    """Return the code point of a byte from its name; other characters are their own name."""
    return chr(int(name[-2:], 16)) if len(name) > 1 else name
