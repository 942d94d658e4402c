"""What can go wrong between a client and a server.

CharstreamError
├── InvalidRequest     the server refuses the request: `field` says where, `description` why
├── ModelNotFound      no model of that name is served
├── Overloaded         too much is waiting already: try again after `retry_after` seconds
├── Unavailable        no server answers, or it is going away: try again, here or elsewhere
├── DeadlineExceeded   the call's timeout passed
└── ServerError        a fault of the server, or an answer that this client doesn't understand

Each one keeps the `text` that came before it. An argument that can't be sent at all is a ValueError.
"""

from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

__all__ = [
    "CharstreamError",
    "DeadlineExceeded",
    "InvalidRequest",
    "ModelNotFound",
    "Overloaded",
    "ServerError",
    "Unavailable",
    "from_rpc_error",
]

TOO_LARGE = "larger than max"  # in gRPC's words, from the server or from this side

D = TypeVar("D", bound=Message)


class CharstreamError(Exception):
    """The base of the client's errors.

    Args:
        message: one line for people.
        text: the generated text that had arrived; empty where no stream had begun.
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class InvalidRequest(CharstreamError):
    """The request is refused, and would be again: `field` ("" where the server names none) has to change."""

    def __init__(self, message: str, text: str = "", *, field: str = "", description: str = "") -> None:
        super().__init__(message, text)
        self.field = field
        self.description = description or message


class ModelNotFound(CharstreamError):
    """No model of that name is served."""


class Overloaded(CharstreamError):
    """The server takes no more for now; `retry_after` is in seconds, None where it doesn't say."""

    def __init__(self, message: str, text: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message, text)
        self.retry_after = retry_after


class Unavailable(CharstreamError):
    """No server answers at the address, or the one that did is going away."""


class DeadlineExceeded(CharstreamError):
    """The call's timeout passed before the end."""


class ServerError(CharstreamError):
    """A fault that the request didn't cause."""


def from_rpc_error(error: grpc.RpcError, text: str = "") -> CharstreamError:
    """The one place that turns a gRPC status, blocking or asyncio, into the client's error."""
    message = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return _invalid(error, message, text)
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(message, text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _exhausted(error, message, text)
        # A server that stops cancels what runs; a cancellation of our own never comes here.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(message, text)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"the timeout passed before the end ({message})", text)
        case code:
            return ServerError(f"{code.name}: {message}", text)


def _invalid(error: grpc.RpcError, message: str, text: str) -> InvalidRequest:
    detail = _detail(error, error_details_pb2.BadRequest())
    if detail is None or not detail.field_violations:
        return InvalidRequest(message, text)
    first = detail.field_violations[0]
    return InvalidRequest(message, text, field=first.field, description=first.description)


def _exhausted(error: grpc.RpcError, message: str, text: str) -> InvalidRequest | Overloaded:
    """The status has two meanings: a busy server, and gRPC's own refusal of a message that will never be smaller."""
    retry_after = _retry_after(error)
    if retry_after is None and TOO_LARGE in message:
        return InvalidRequest(message, text)
    return Overloaded(message, text, retry_after=retry_after)


def _retry_after(error: grpc.RpcError) -> float | None:
    detail = _detail(error, error_details_pb2.RetryInfo())
    return None if detail is None else detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9


def _detail(error: grpc.RpcError, kind: D) -> D | None:
    """Fills `kind` from the status' details; None where they hold none of its type."""
    for detail in _status(error).details:
        if detail.Unpack(kind):
            return kind
    return None


def _status(error: grpc.RpcError) -> status_pb2.Status:
    try:
        return rpc_status.from_call(cast(grpc.Call, error)) or status_pb2.Status()
    except ValueError:  # details that contradict the status, as a proxy may leave them
        return status_pb2.Status()
