"""The Python client of charstream: streams generated text over gRPC, blocking or with asyncio.

    from client import Client

    with Client("127.0.0.1:50051") as client, client.stream("ROMEO:", max_chars=400, seed=7) as stream:
        for text in stream:
            print(text, end="", flush=True)
    print(stream.finish)

`AsyncClient` is the same with `async with` and `async for`.
"""

from client.asynchronous import AsyncClient, AsyncTextStream
from client.blocking import Client, TextStream
from client.errors import (
    CharstreamError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServerError,
    Unavailable,
)
from client.wire import DEFAULT_ADDRESS, Finish, ModelInfo, Training

__all__ = [
    "DEFAULT_ADDRESS",
    "AsyncClient",
    "AsyncTextStream",
    "CharstreamError",
    "Client",
    "DeadlineExceeded",
    "Finish",
    "InvalidRequest",
    "ModelInfo",
    "ModelNotFound",
    "Overloaded",
    "ServerError",
    "TextStream",
    "Training",
    "Unavailable",
]
