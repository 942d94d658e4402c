"""Decodes requests: bytes that are no message are the caller's fault, and end as all such faults do."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from server.errors import InvalidField
from server.service.interceptors.handlers import Behaviour, Context, WrappingInterceptor, rebuild_handler

__all__ = ["DecodingInterceptor"]


class DecodingInterceptor(WrappingInterceptor):
    """The last interceptor. gRPC itself would decode before all others, and answer UNKNOWN with Python's words."""

    def wrap(self, handler: Any, method: str) -> Any:
        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                raise InvalidField("request", "is no message of this method's type, or a piece of one") from None

        def wrap_behaviour(behaviour: Behaviour) -> Behaviour:
            async def handle(data: bytes, context: Context) -> Any:
                return await behaviour(decode(data), context)

            def handle_stream(requests: AsyncIterator[bytes], context: Context) -> Any:
                return behaviour((decode(data) async for data in requests), context)

            return handle_stream if handler.request_streaming else handle

        return rebuild_handler(handler, wrap_behaviour, None)
