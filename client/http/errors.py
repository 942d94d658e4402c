"""An error of an HTTP call in the shape of gRPC's."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

__all__ = ["HttpError"]

DETAILS = "grpc-status-details-bin"


class HttpError(grpc.RpcError):
    """A status of gRPC, with its details.

    Args:
        field: that is wrong.
        retry_seconds: after which the server may be asked again.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, *, field: str = "", retry_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self._code, self._message = code, message
        detail: Message | None = None
        if field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
            detail = error_details_pb2.BadRequest(field_violations=[violation])
        elif retry_seconds is not None:
            delay = Duration()
            delay.FromMilliseconds(int(retry_seconds * 1000))
            detail = error_details_pb2.RetryInfo(retry_delay=delay)
        self._status = status_pb2.Status(code=code.value[0], message=message)
        if detail is not None:
            self._status.details.add().Pack(detail)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:  # type: ignore[override]
        return ((DETAILS, self._status.SerializeToString()),)
