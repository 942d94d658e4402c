"""Turns exceptions of handlers into gRPC status: the one place that does."""

import asyncio
from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from server.errors import InvalidField, Overloaded, RequestError, WrongReplica
from server.observe.call import current_call
from server.service.calls import report_fault
from server.service.interceptors.handlers import Behaviour, Context, WrappingInterceptor, rebuild_handler

__all__ = ["ErrorInterceptor", "status_of"]

STATUS_DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"
CALL = "charstream-call"  # the trailer with the id that the log has of the call


class ErrorInterceptor(WrappingInterceptor):
    """A RequestError becomes its status; anything unexpected becomes INTERNAL with an id that the log has too.

    Handlers must be coroutines: a stream is written with `context.write`, so that its errors pass through here.
    """

    def wrap(self, handler: Any, method: str) -> Any:
        return rebuild_handler(handler, _guard, handler.request_deserializer)


def _guard(behaviour: Behaviour) -> Behaviour:
    async def handle(request: Any, context: Context) -> Any:
        context.set_trailing_metadata(((CALL, current_call().id),))
        try:
            try:
                return await behaviour(request, context)
            except grpc.aio.InternalError:
                raise
            except Exception as error:
                await _abort(context, error)
        except grpc.aio.InternalError:
            # The message could not be sent: the caller is gone, which is no error of ours.
            raise asyncio.CancelledError from None

    return handle


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, (grpc.aio.AbortError, grpc.aio.UsageError)):
        raise error
    if isinstance(error, RequestError):
        await context.abort(error.code, str(error), trailing_metadata=_trailers(error))
    await context.abort(StatusCode.INTERNAL, report_fault(error))


def _trailers(error: RequestError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the call's id; details for programs; and for stock clients, when to try again."""
    details = (STATUS_DETAILS, status_of(error).SerializeToString())
    call = (CALL, current_call().id)
    if isinstance(error, Overloaded):
        return call, details, (PUSHBACK, str(int(error.retry_seconds * 1000)))
    return call, details


def status_of(error: RequestError) -> status_pb2.Status:
    """Return the google.rpc.Status that goes to the client, with details where they help."""
    detail: Message | None = None
    match error:
        case InvalidField():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
            detail = error_details_pb2.BadRequest(field_violations=[violation])
        case WrongReplica():
            difference = error_details_pb2.PreconditionFailure.Violation(
                type="REPLICA", subject=error.what, description=str(error)
            )
            detail = error_details_pb2.PreconditionFailure(violations=[difference])
        case Overloaded():
            delay = Duration()
            delay.FromMilliseconds(int(error.retry_seconds * 1000))
            detail = error_details_pb2.RetryInfo(retry_delay=delay)
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    if detail is not None:
        status.details.add().Pack(detail)
    return status
