"""What can go wrong between a client and a server.

CharstreamError
├── InvalidRequest     the server refuses the request: `field` says where, `description` why
├── ModelNotFound      no model of that name is served
├── WrongReplica       a token, a replica or a text that was begun belongs to another model, precision or machine
├── NotAllowed         the server wants a token, or another one
├── Overloaded         too much is waiting already: try again after `retry_after` seconds
├── Unavailable        no server answers, or it is going away, or the stream broke: try again, here or elsewhere
├── DeadlineExceeded   the timeout passed
└── ServerError        a fault of the server, or an answer that this client doesn't understand

Each one keeps the `text` that came before it and, where a text had begun, the `progress` from which `Client.go_on`
goes on. An argument that can't be sent at all is a ValueError, an option that doesn't exist a TypeError.
"""

from typing import TYPE_CHECKING, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from client.progress import Progress

__all__ = [
    "CharstreamError",
    "DeadlineExceeded",
    "InvalidRequest",
    "ModelNotFound",
    "NotAllowed",
    "Overloaded",
    "ServerError",
    "Unavailable",
    "WrongReplica",
    "from_rpc_error",
]

TOO_LARGE = "larger than max"  # in gRPC's words, from the server or from this side
# In gRPC's words: a connection that was cut is UNAVAILABLE, but a stream that was reset (by a proxy, say) is INTERNAL,
# and one whose last part is missing is UNKNOWN.
CUT = ("Stream removed", "RST_STREAM")

D = TypeVar("D", bound=Message)


class CharstreamError(Exception):
    """The base of the client's errors.

    Attributes:
        text: the text that had come; empty where none had begun.
        progress: what `Client.go_on` needs to go on with it; None where no text had begun.
    """

    text = ""
    progress: "Progress | None" = None

    def __init__(self, message: str) -> None:
        """`message` is one line for people."""
        super().__init__(message)

    def after(self, text: str, progress: "Progress | None") -> Self:
        """Adds what had come before; a traceback shows what can be done with it, in a line below the message."""
        self.text, self.progress = text, progress
        if progress:
            self.add_note("The text so far is in .text of this error; client.go_on(error.progress) goes on with it.")
        return self


class InvalidRequest(CharstreamError):
    """The request is refused, and would be again: `field` ("" where the server names none) has to change."""

    def __init__(self, message: str, *, field: str = "", description: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.description = description or message


class ModelNotFound(CharstreamError):
    """No model of that name is served."""


class WrongReplica(CharstreamError):
    """The server computes with another model, precision or numerics than the request allows: another one may do.

    `other_numerics=True` accepts a text that goes on differently.
    """


class NotAllowed(CharstreamError):
    """The server wants a token that this client doesn't have."""


class Overloaded(CharstreamError):
    """The server takes no more for now; `retry_after` is in seconds, None where it doesn't say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(CharstreamError):
    """No server answers, or the one that did is going away, or what lies between cut the stream."""


class DeadlineExceeded(CharstreamError):
    """The timeout passed before the end."""


class ServerError(CharstreamError):
    """A fault that the request didn't cause."""


def from_rpc_error(error: grpc.RpcError) -> CharstreamError:
    """The one place that turns a gRPC status, blocking or asyncio, into the client's error."""
    message = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return _invalid(error, message)
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(message)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return WrongReplica(message)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return NotAllowed(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _exhausted(error, message)
        # A server that stops cancels what runs; a cancellation of our own never comes here.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(message)
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN if any(words in message for words in CUT):
            return Unavailable(message)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"the timeout passed before the end ({message})")
        case code:
            return ServerError(f"{code.name}: {message}")


def _invalid(error: grpc.RpcError, message: str) -> InvalidRequest:
    detail = _detail(error, error_details_pb2.BadRequest())
    if detail is None or not detail.field_violations:
        return InvalidRequest(message)
    first = detail.field_violations[0]
    return InvalidRequest(message, field=first.field, description=first.description)


def _exhausted(error: grpc.RpcError, message: str) -> InvalidRequest | Overloaded:
    """The status has two meanings: a busy server, and gRPC's own refusal of a message that will never be smaller."""
    retry_after = _retry_after(error)
    if retry_after is None and TOO_LARGE in message:
        return InvalidRequest(message)
    return Overloaded(message, retry_after=retry_after)


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
