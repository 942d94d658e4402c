"""The handlers of RPCs, which every interceptor puts something around."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import ServicerContext

__all__ = ["Behaviour", "Context", "rebuild_handler"]

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
