"""`charstream loadtest null-server`: a server without a model, whose answers cost as little as they can. The load that
it takes is the most that a load test's own machine can make."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from pydantic import Field

from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb

__all__ = ["main", "serve"]

COMMAND = "charstream loadtest null-server"
DEFAULT_CHARS = 256
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))


class NullServerSettings(Settings):
    """Serves texts of one letter in chunks of equal length, as fast as they are taken. Its address is the line on
    stdout."""

    port: int = Field(0, ge=0, le=65535, description="TCP port of 127.0.0.1; 0 takes any free one")
    chunk: int = Field(8, ge=1, description="characters of a message")


def _answers(chunk: int) -> Any:
    """Return the handler of Generate: messages are encoded once, but for those that depend on the request."""
    middle = pb.GenerateResponse(text="a" * chunk).SerializeToString()

    async def generate(request: pb.GenerateRequest, context: Any) -> AsyncIterator[bytes]:
        chars = request.max_chars or DEFAULT_CHARS
        started = pb.Started(seed=request.seed, max_chars=chars)
        first = min(chunk, chars)
        yield pb.GenerateResponse(text="a" * first, started=started).SerializeToString()
        for _ in range((chars - first) // chunk):
            yield middle
        rest = (chars - first) % chunk
        finish = pb.Finish(reason=pb.FINISH_REASON_LENGTH, generated_chars=chars, seed=request.seed)
        yield pb.GenerateResponse(text="a" * rest, finish=finish).SerializeToString()

    return generate


async def _models(request: Any, context: Any) -> pb.ListModelsResponse:
    return pb.ListModelsResponse(models=[await _model(request, context)])


async def _model(request: Any, context: Any) -> pb.Model:
    return pb.Model(name="null", version="1", vocabulary=VOCABULARY, prompts=["a"])


async def serve(port: int, chunk: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    generate: Any = grpc.unary_stream_rpc_method_handler(_answers(chunk), pb.GenerateRequest.FromString)
    text = grpc.method_handlers_generic_handler("charstream.v1.TextGeneration", {"Generate": generate})
    models = grpc.method_handlers_generic_handler(
        "charstream.v1.Models",
        {
            "GetModel": _unary(_model, pb.GetModelRequest),
            "ListModels": _unary(_models, pb.ListModelsRequest),
        },
    )
    server.add_generic_rpc_handlers((text, models))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"127.0.0.1:{bound}", flush=True)
    await server.wait_for_termination()


def _unary(handler: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=request.FromString, response_serializer=lambda answer: answer.SerializeToString()
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(NullServerSettings, argv, command=COMMAND)
    asyncio.run(serve(settings.port, settings.chunk))
    return 0


if __name__ == "__main__":
    sys.exit(main())
