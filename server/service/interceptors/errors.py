"""Turns exceptions of handlers into gRPC status: the one place that does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import StatusCode
from grpc.aio import ServerInterceptor, ServicerContext

from server.errors import Overloaded, RequestError, status_of
from server.service.interceptors.calls import current_call

__all__ = ["ErrorInterceptor"]

log = logging.getLogger("charstream.service")

Context = ServicerContext[Any, Any]
STATUS_DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"


class ErrorInterceptor(ServerInterceptor):
    """A RequestError becomes its status; anything unexpected becomes INTERNAL with an id that the log has too.

    Handlers must be coroutines: a stream is written with `context.write`, so that its errors pass through here.
    """

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.unary_unary:
            return _like(handler, grpc.unary_unary_rpc_method_handler, handler.unary_unary)
        if handler.unary_stream:
            return _like(handler, grpc.unary_stream_rpc_method_handler, handler.unary_stream)
        return _like(handler, grpc.stream_stream_rpc_method_handler, handler.stream_stream)


def _like(handler: Any, make: Callable[..., Any], behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await _answered(behaviour, request, context)
        except grpc.aio.InternalError:
            # The message could not be sent: the caller is gone, which is no error of ours.
            raise asyncio.CancelledError from None

    return make(guarded, handler.request_deserializer, handler.response_serializer)


async def _answered(behaviour: Callable[[Any, Context], Awaitable[Any]], request: Any, context: Context) -> Any:
    try:
        return await behaviour(request, context)
    except grpc.aio.InternalError:
        raise
    except Exception as error:
        await _abort(context, error)


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, (grpc.aio.AbortError, grpc.aio.UsageError)):
        raise error
    if isinstance(error, RequestError):
        await context.abort(error.code, str(error), trailing_metadata=_trailers(error))
    number = current_call().id
    log.error("internal error %s", number, exc_info=error)
    await context.abort(
        StatusCode.INTERNAL, f"internal error {number}; the server's log has the cause under this number"
    )


def _trailers(error: RequestError) -> tuple[tuple[str, str | bytes], ...]:
    """Details for programs; and for stock clients, when to try again."""
    details = (STATUS_DETAILS, status_of(error).SerializeToString())
    if isinstance(error, Overloaded):
        return details, (PUSHBACK, str(int(error.retry_seconds * 1000)))
    return (details,)
