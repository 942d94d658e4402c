"""Makes the record of each RPC, and has it pass the desk of all calls."""

from collections.abc import AsyncIterable
from typing import Any

import grpc

from server.observe.call import begin_call
from server.service.calls import Calls
from server.service.interceptors.handlers import Behaviour, Context, WrappingInterceptor, rebuild_handler
from server.service.rpcs import REPLICAS

__all__ = ["CallInterceptor"]

EXEMPT = "/grpc.health.v1.Health/", f"/{REPLICAS}/"
# By 2 if requests are a stream, plus 1 if responses are one.
RPC_TYPES = "unary", "server_stream", "client_stream", "bidi_stream"


class CallInterceptor(WrappingInterceptor):
    """Health checks are open to everybody, what replicas ask has signatures of its own; nobody is told of them."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await super().intercept_service(continuation, handler_call_details)
        rpc_type = RPC_TYPES[2 * handler.request_streaming + handler.response_streaming] if handler else ""
        begin_call(handler_call_details.method.lstrip("/"), rpc_type)
        return handler

    def wrap(self, handler: Any, method: str) -> Any:
        if method.startswith(EXEMPT):
            return handler
        wrap = self._wrap_stream if handler.stream_stream else self._wrap
        return rebuild_handler(handler, wrap, handler.request_deserializer)

    def _wrap_stream(self, behaviour: Behaviour) -> Behaviour:
        """Turn a handler that yields its messages (reflection) into one that writes them, as the others do."""

        async def write(requests: Any, context: Context) -> None:
            answers = behaviour(requests, context)
            if isinstance(answers, AsyncIterable):
                async for message in answers:
                    await context.write(message)
            else:
                await answers

        return self._wrap(write)

    def _wrap(self, behaviour: Behaviour) -> Behaviour:
        async def handle(request: Any, context: Context) -> Any:
            async with self._calls.receive(context) as call:
                try:
                    return await behaviour(request, context)
                except grpc.aio.AbortError:
                    call.status = context.code()
                    raise

        return handle
