"""Errors of a request, and what a client sees of them.

    RequestError
    ├── InvalidField      INVALID_ARGUMENT     the caller must change a field
    ├── WrongReplica      FAILED_PRECONDITION  the caller must ask a replica that equals the first one
    ├── ModelNotFound     NOT_FOUND            the caller must name another model
    ├── ModelUnusable     FAILED_PRECONDITION  the caller must name another model, or ask another server
    ├── Overloaded        RESOURCE_EXHAUSTED   the caller may try again after a while
    ├── Unauthenticated   UNAUTHENTICATED      the caller must show a token, or another one
    ├── CallTooLong       UNAVAILABLE          the caller may go on in another call
    └── ShuttingDown      UNAVAILABLE          the caller may try another replica

Any other exception reaches the client as INTERNAL with an id; the log has the id and the traceback.
docs/errors.md lists each with its causes and remedies.
"""

from collections.abc import Sequence

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

__all__ = [
    "CallTooLong",
    "InvalidField",
    "ModelNotFound",
    "ModelUnusable",
    "Overloaded",
    "RequestError",
    "ShuttingDown",
    "Unauthenticated",
    "WrongReplica",
    "listed",
    "shown",
    "status_of",
]

RETRY_SECONDS = 1.0
MAX_SHOWN_CHARS = 64
MAX_LISTED = 8


def shown(value: str) -> str:
    """What came, for an error: clients refuse a status of more than a few kilobytes."""
    return repr(value) if len(value) <= MAX_SHOWN_CHARS else f"{value[:MAX_SHOWN_CHARS]!r}..."


def listed(names: Sequence[str]) -> str:
    """What there is, for an error: as many as a status has room for."""
    more = len(names) - MAX_LISTED
    shown_names = ", ".join(names[:MAX_LISTED]) or "none"
    return f"{shown_names} and {more} more" if more > 0 else shown_names


class RequestError(Exception):
    """A request cannot be served; the message is for the caller."""

    code = StatusCode.UNKNOWN
    limit = ""  # the setting that it went beyond, if one


class InvalidField(RequestError):
    """A field has a value that is not allowed."""

    code = StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class WrongReplica(RequestError):
    """The text began on a server that differs from this one in `what`: digest, precision or numerics."""

    code = StatusCode.FAILED_PRECONDITION

    def __init__(self, field: str, what: str, theirs: str, ours: str) -> None:
        self.what = what
        super().__init__(f"{field}: the text began with {what} {shown(theirs)}, here it is {ours!r}")


class ModelNotFound(RequestError):
    code = StatusCode.NOT_FOUND

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"model: {shown(name)} is not served; served are {listed(served)}")


class ModelUnusable(RequestError):
    """The bundle is there, and cannot be loaded; `why` tells callers nothing of the machine."""

    code = StatusCode.FAILED_PRECONDITION

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"model: {model} cannot be loaded: {why}")


class Overloaded(RequestError):
    """Beyond the setting `limit`; what is wanted may be had after `retry_seconds`."""

    code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: str, reason: str, retry_seconds: float = RETRY_SECONDS) -> None:
        self.limit, self.retry_seconds = limit, retry_seconds
        super().__init__(reason)

    @classmethod
    def too_many(cls, limit: int) -> "Overloaded":
        reason = f"the model has {limit} texts running and waiting, its limit (--max-rows + --max-waiting)"
        return cls("max_waiting", reason)

    @classmethod
    def too_long(cls, seconds: float) -> "Overloaded":
        return cls("max_wait", f"no row of the batch was free for {seconds:g} s, the limit (--max-wait)")

    @classmethod
    def not_loaded(cls, model: str, seconds: float, limited: bool) -> "Overloaded":
        if limited:
            reason = "no memory (--model-memory) was free for it"
            return cls("model_memory", f"model: {model} was not loaded in {seconds:g} s, {reason}")
        return cls("max_wait", f"model: {model} was not loaded in {seconds:g} s, the limit (--max-wait)")

    @classmethod
    def too_many_of(cls, identity: str, limit: int) -> "Overloaded":
        reason = (
            f"{identity or 'anonymous callers'}: {limit} texts are running and waiting, the limit (--identity-streams)"
        )
        return cls("identity_streams", reason)

    @classmethod
    def earned_late(cls, identity: str, rate: float, seconds: float) -> "Overloaded":
        who = identity or "anonymous callers"
        reason = f"{who}: {rate:g} characters a second are the limit (--identity-chars), and more are asked for already"
        return cls("identity_chars", reason, seconds)

    @classmethod
    def given_up(cls, rate: float, seconds: float) -> "Overloaded":
        reason = f"this connection gave up more than {rate:g} calls a second, the limit (--connection-cancels)"
        return cls("connection_cancels", reason, seconds)

    @classmethod
    def not_read(cls, seconds: float) -> "Overloaded":
        return cls("reader_timeout", f"nothing was read for {seconds:g} s, the limit (--reader-timeout)", 0.0)


class CallTooLong(RequestError):
    """The call has lasted as long as one may; its text can go on in another one."""

    code = StatusCode.UNAVAILABLE

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the call lasted {seconds:g} s, the limit (--max-seconds); go on in another one")


class Unauthenticated(RequestError):
    """No token, or one that is not known."""

    code = StatusCode.UNAUTHENTICATED


class ShuttingDown(RequestError):
    code = StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


def status_of(error: RequestError) -> status_pb2.Status:
    """The google.rpc.Status that goes to the client, with details where they help."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    match error:
        case InvalidField():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
            _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
        case WrongReplica():
            difference = error_details_pb2.PreconditionFailure.Violation(
                type="REPLICA", subject=error.what, description=str(error)
            )
            _add(status, error_details_pb2.PreconditionFailure(violations=[difference]))
        case Overloaded():
            delay = Duration()
            delay.FromMilliseconds(int(error.retry_seconds * 1000))
            _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)
