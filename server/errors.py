"""Errors of a request, and what a client sees of them.

    RequestError
    ├── InvalidField      INVALID_ARGUMENT     the caller must change a field
    ├── ModelNotFound     NOT_FOUND            the caller must name another model
    ├── Overloaded        RESOURCE_EXHAUSTED   the caller may try again after a while
    └── ShuttingDown      UNAVAILABLE          the caller may try another replica

Any other exception reaches the client as INTERNAL with an id; the log has the id and the traceback.
"""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

__all__ = ["InvalidField", "ModelNotFound", "Overloaded", "RequestError", "ShuttingDown", "status_of"]

RETRY_SECONDS = 1.0


class RequestError(Exception):
    """A request cannot be served; the message is for the caller."""

    code = StatusCode.UNKNOWN


class InvalidField(RequestError):
    """A field has a value that is not allowed."""

    code = StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class ModelNotFound(RequestError):
    code = StatusCode.NOT_FOUND

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"model: {name!r} is not served; served are {', '.join(served)}")


class Overloaded(RequestError):
    code = StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: int) -> None:
        super().__init__(f"the model has {limit} texts running and waiting, its limit (max_rows + max_waiting)")


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
        case Overloaded():
            delay = Duration()
            delay.FromMilliseconds(int(RETRY_SECONDS * 1000))
            _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _add(status: status_pb2.Status, detail: error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)
