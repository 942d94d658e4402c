"""Requests' bytes -> messages: bytes that are no message are the caller's fault, and end as all such faults do."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServerInterceptor, ServicerContext

from server.errors import InvalidField

__all__ = ["DecodingInterceptor"]

Context = ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
Decode = Callable[[bytes], Any]


class DecodingInterceptor(ServerInterceptor):
    """The last interceptor. gRPC itself would decode before all others, and answer UNKNOWN with Python's words."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        decode = _decoder(handler.request_deserializer)
        if handler.unary_unary:
            make, behaviour = grpc.unary_unary_rpc_method_handler, _of_one(handler.unary_unary, decode)
        elif handler.unary_stream:
            make, behaviour = grpc.unary_stream_rpc_method_handler, _of_one(handler.unary_stream, decode)
        else:
            make, behaviour = grpc.stream_stream_rpc_method_handler, _of_many(handler.stream_stream, decode)
        return make(behaviour, None, handler.response_serializer)


def _decoder(deserialize: Decode) -> Decode:
    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            raise InvalidField("request", "is no message of this method's type, or a piece of one") from None

    return decode


def _of_one(behaviour: Behaviour, decode: Decode) -> Behaviour:
    async def decoded(data: bytes, context: Context) -> Any:
        return await behaviour(decode(data), context)

    return decoded


def _of_many(behaviour: Behaviour, decode: Decode) -> Behaviour:
    def decoded(requests: AsyncIterator[bytes], context: Context) -> Any:
        return behaviour((decode(data) async for data in requests), context)

    return decoded
