"""Decodes requests: bytes that are no message are the caller's fault, and end as all such faults do."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError
from grpc.aio import ServerInterceptor

from server.errors import InvalidField
from server.service.interceptors.handlers import Behaviour, Context, rebuild_handler

__all__ = ["DecodingInterceptor"]

Decode = Callable[[bytes], Any]


class DecodingInterceptor(ServerInterceptor):
    """The last interceptor. gRPC itself would decode before all others, and answer UNKNOWN with Python's words."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        decode = _decoder(handler.request_deserializer)
        wrap = _decode_stream(decode) if handler.request_streaming else _decode_one(decode)
        return rebuild_handler(handler, wrap, None)


def _decoder(deserialize: Decode) -> Decode:
    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            raise InvalidField("request", "is no message of this method's type, or a piece of one") from None

    return decode


def _decode_one(decode: Decode) -> Callable[[Behaviour], Behaviour]:
    def wrap(behaviour: Behaviour) -> Behaviour:
        async def handle(data: bytes, context: Context) -> Any:
            return await behaviour(decode(data), context)

        return handle

    return wrap


def _decode_stream(decode: Decode) -> Callable[[Behaviour], Behaviour]:
    def wrap(behaviour: Behaviour) -> Behaviour:
        def handle(requests: AsyncIterator[bytes], context: Context) -> Any:
            return behaviour((decode(data) async for data in requests), context)

        return handle

    return wrap
