"""The handlers of RPCs, which every interceptor puts something around."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

__all__ = ["Behaviour", "Context", "WrappingInterceptor", "rebuild_handler"]

Context = ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]

MAKERS = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


def rebuild_handler(handler: Any, wrap: Callable[[Behaviour], Behaviour], deserialize: Any) -> Any:
    """Return a handler of the same kind that does what `wrap` makes of the behaviour of this one."""
    kind = next(name for name in MAKERS if getattr(handler, name))
    return MAKERS[kind](wrap(getattr(handler, kind)), deserialize, handler.response_serializer)


class WrappingInterceptor(ServerInterceptor):
    """Puts something around every handler: once, since handlers are few, and each call needs one."""

    def __init__(self) -> None:
        self._wrapped: dict[Any, Any] = {}

    @abstractmethod
    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler to use instead for "/package.Service/Method"."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wrapped = self._wrapped.get(handler)
        if wrapped is None:
            wrapped = self._wrapped[handler] = self.wrap(handler, handler_call_details.method)
        return wrapped
