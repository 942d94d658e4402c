"""Makes the record of each call, and tells observers of it."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from grpc import StatusCode
from grpc.aio import ServerInterceptor

from server.access.authentication import Authenticator
from server.access.cancel_limit import CancelLimit
from server.errors import RequestError
from server.observe.call import Call, Observer, begin_call, current_call
from server.service.interceptors.handlers import Behaviour, Context, rebuild_handler

__all__ = ["CallInterceptor"]

EXEMPT = "/grpc.health.v1.Health/"
# By 2 if requests are a stream, plus 1 if responses are one.
RPC_TYPES = "unary", "server_stream", "client_stream", "bidi_stream"


class CallInterceptor(ServerInterceptor):
    """Finds out who calls, and tells observers. Health checks are open to everybody, and nobody is told of them."""

    def __init__(self, authenticator: Authenticator, observers: Sequence[Observer], cancel_limit: CancelLimit) -> None:
        self._authenticator, self._observers, self._cancel_limit = authenticator, observers, cancel_limit

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        rpc_type = RPC_TYPES[2 * handler.request_streaming + handler.response_streaming] if handler else ""
        begin_call(method.lstrip("/"), rpc_type)
        if handler is None or method.startswith(EXEMPT):
            return handler
        wrap = self._wrap_stream if handler.stream_stream else self._wrap
        return rebuild_handler(handler, wrap, handler.request_deserializer)

    def _wrap_stream(self, behaviour: Behaviour) -> Behaviour:
        """Turn a handler that yields its messages into one that writes them."""

        async def write(requests: Any, context: Context) -> None:
            async for message in behaviour(requests, context):
                await context.write(message)

        return self._wrap(write)

    def _wrap(self, behaviour: Behaviour) -> Behaviour:
        async def handle(request: Any, context: Context) -> Any:
            call = current_call()
            call.peer, call.observers = context.peer(), self._observers
            call.traceparent = _header(context, "traceparent")
            with self._observe(call, context):
                async with self._cancel_limit.watch(call.peer, context.time_remaining()):
                    call.identity = self._authenticator.identify(context)
                    return await behaviour(request, context)

        return handle

    @contextmanager
    def _observe(self, call: Call, context: Context) -> Iterator[None]:
        for observer in self._observers:
            observer.on_begin(call)
        try:
            yield
        except BaseException as error:
            call.status = _status(error, context)
            call.limit = error.limit if isinstance(error, RequestError) else ""
            raise
        finally:
            call.seconds = time.monotonic() - call.began
            for observer in self._observers:
                observer.on_end(call)


def _status(error: BaseException, context: Context) -> StatusCode:
    """Return the status that the caller sees."""
    if isinstance(error, RequestError):
        return error.code
    if isinstance(error, (asyncio.CancelledError, grpc.aio.InternalError)):
        left = context.time_remaining()
        return StatusCode.CANCELLED if left is None or left > 0 else StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, grpc.aio.AbortError):
        code: StatusCode = context.code()
        return code
    return StatusCode.INTERNAL


def _header(context: Context, name: str) -> str:
    found = (value for key, value in context.invocation_metadata() or () if key == name)
    return str(next(found, ""))
