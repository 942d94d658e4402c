"""The errors of a client: everything that can go wrong between it and a server.

CharstreamError
├── InvalidRequest     the server refuses the request: `field` says where, `description` why
├── ModelNotFound      no model of that name is served
├── WrongReplica       a token, a replica or a text that has begun belongs to another model, precision or machine
├── NotAllowed         the server wants a token, or another one
├── Overloaded         too many requests are waiting already: try again after `retry_after` seconds
├── Unavailable        no server answers, or it is shutting down, or the stream broke: try again, here or elsewhere
├── DeadlineExceeded   the timeout passed
└── ServerError        a fault of the server, or an answer that this client doesn't understand

Each error keeps the `text` that came before it and, if a text had begun, the `progress` from which `Client.go_on` goes
on. An argument that can't be sent at all raises ValueError, an option that doesn't exist TypeError.
"""

from typing import TYPE_CHECKING, Self, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from .results import Progress

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

TOO_LARGE = "larger than max"  # gRPC's words, at the server or at this side
# gRPC reports a broken connection as UNAVAILABLE, but a stream that was reset (by a proxy, say) as INTERNAL, and one
# whose trailers are missing as UNKNOWN, with these words.
CUT = ("Stream removed", "RST_STREAM")

OTHER_NAME = "does not match SSL server name"
# Of servers that drain; and Envoy's where it has no server to go to, or did not reach the one that it chose.
GOING_AWAY = ("shutting down", "no healthy upstream", "remote connection failure", "connection timeout", "overflow")
# gRPC's words where the request reached no server, and those of a server that takes no new ones.
NOT_TAKEN = (
    "failed to connect",
    "resolution failed",
    "errors resolving",
    "empty address list",
    OTHER_NAME,
    *GOING_AWAY,
)

D = TypeVar("D", bound=Message)


class CharstreamError(Exception):
    """The base of the client's errors.

    Attributes:
        text: the text that had come; empty if none had begun.
        progress: all that `Client.go_on` needs to go on with it; None if no text had begun.
    """

    text = ""
    progress: "Progress | None" = None

    def __init__(self, message: str) -> None:
        """Take the message: one line for people."""
        super().__init__(message)

    def after(self, text: str, progress: "Progress | None") -> Self:
        """Add what had come before the error, and a note on its use, which a traceback shows below the message."""
        self.text, self.progress = text, progress
        if progress:
            self.add_note("The text so far is in .text of this error; client.go_on(error.progress) goes on with it.")
        return self


class InvalidRequest(CharstreamError):
    """The request is refused, and would be again: `field` ("" if the server names none) has to change."""

    def __init__(self, message: str, *, field: str = "", description: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.description = description or message


class ModelNotFound(CharstreamError):
    """No model of that name is served."""


class WrongReplica(CharstreamError):
    """The server computes with another model, precision or numerics than the request allows; another server may fit.

    `other_numerics=True` accepts a text that goes on differently.
    """


class NotAllowed(CharstreamError):
    """The server wants a token that this client doesn't have."""


class Overloaded(CharstreamError):
    """The server takes no more requests for now; `retry_after` is in seconds, None if the server names no time."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(CharstreamError):
    """No server answers, or the one that did is shutting down, or the connection broke."""

    @property
    def is_taken(self) -> bool:
        """Whether a server may have taken the request before it was lost."""
        return not any(words in str(self) for words in NOT_TAKEN)

    @property
    def is_somebody(self) -> bool:
        """Whether a server, or a proxy before it, was there."""
        return self.is_taken or any(words in str(self) for words in GOING_AWAY)


class DeadlineExceeded(CharstreamError):
    """The timeout passed before the end."""


class ServerError(CharstreamError):
    """A fault that the request didn't cause."""


def from_rpc_error(error: grpc.RpcError) -> CharstreamError:
    """Turn a gRPC status, of a blocking or an asyncio call, into the client's error."""
    message = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return _invalid_request(error, message)
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(message)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return WrongReplica(message)
        # Said on this side: the certificate is another's, so the server is not the one that was meant.
        case grpc.StatusCode.UNAUTHENTICATED if OTHER_NAME in message:
            return Unavailable(message)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return NotAllowed(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _overload(error, message)
        # A server that stops cancels its calls; a cancellation of our own never comes here.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(message)
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN if any(words in message for words in CUT):
            return Unavailable(message)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"the timeout passed before the end ({message})")
        case code:
            return ServerError(f"{code.name}: {message}")


def _invalid_request(error: grpc.RpcError, message: str) -> InvalidRequest:
    detail = _detail(error, error_details_pb2.BadRequest())
    if detail is None or not detail.field_violations:
        return InvalidRequest(message)
    first = detail.field_violations[0]
    return InvalidRequest(message, field=first.field, description=first.description)


def _overload(error: grpc.RpcError, message: str) -> InvalidRequest | Overloaded:
    """Tell the status' two meanings apart: a busy server, and gRPC's own refusal of a message that is too large."""
    detail = _detail(error, error_details_pb2.RetryInfo())
    retry_after = None if detail is None else detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
    if retry_after is None and TOO_LARGE in message:
        return InvalidRequest(message)
    return Overloaded(message, retry_after=retry_after)


def _detail(error: grpc.RpcError, kind: D) -> D | None:
    """Fill `kind` from the details of the status; return None if they hold none of its type."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, error)) or status_pb2.Status()
    except ValueError:  # details that contradict the status, as a proxy may leave them
        return None
    return next((kind for detail in status.details if detail.Unpack(kind)), None)
