"""A gRPC server in this process that does as a test says, for faults that are too rare on a real one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc

Generate = Callable[[pb.GenerateRequest, grpc.ServicerContext], Iterator[pb.GenerateResponse]]
Score = Callable[[pb.ScoreRequest, grpc.ServicerContext], Iterator[pb.ScoreResponse]]


def text(*chunks: str) -> Iterator[pb.GenerateResponse]:
    """Return the messages of a stream without its end."""
    return (pb.GenerateResponse(text=chunk) for chunk in chunks)


def finish(chars: int) -> pb.GenerateResponse:
    return pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_LENGTH, generated_chars=chars))


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str, *details: Message) -> None:
    """End the call as the real server does: a status with google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))


@dataclass
class ScriptedServer(rpc.TextGenerationServicer):
    """`begun` is set when a call comes, `ended` when one is over for the server, whoever ended it.

    `tokens` are what came with ListModels in the header "authorization".
    """

    generate: Generate
    score: Score | None = None
    address: str = ""
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    tokens: list[str] = field(default_factory=list)

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        context.add_callback(self.ended.set)
        self.begun.set()
        yield from self.generate(request, context)

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> Iterator[pb.ScoreResponse]:
        assert self.score
        yield from self.score(request, context)


class NoModels(rpc.ModelsServicer):
    """A server that answers, lists nothing, and knows a model by any name."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        self._tokens += [str(value) for name, value in context.invocation_metadata() if name == "authorization"]
        return pb.ListModelsResponse()

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.Model:
        if request.name not in ("", "scripted"):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "only the model of no name is known here")
        return pb.Model(name="scripted", vocabulary="abc")


@contextmanager
def serving(
    generate: Generate, score: Score | None = None, credentials: grpc.ServerCredentials | None = None
) -> Iterator[ScriptedServer]:
    servicer = ScriptedServer(generate, score)
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    rpc.add_TextGenerationServicer_to_server(servicer, server)
    rpc.add_ModelsServicer_to_server(NoModels(servicer.tokens), server)
    free = "127.0.0.1:0"
    port = server.add_secure_port(free, credentials) if credentials else server.add_insecure_port(free)
    servicer.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait(10)


def tell_token(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """Send the caller's authorization as the text."""
    found = dict(context.invocation_metadata()).get("authorization", "none")  # type: ignore[arg-type]
    yield from [*text(str(found)), finish(1)]


def dead_address() -> str:
    """Return an address where nobody listens."""
    with serving(endless) as server:
        return server.address


def endless(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """Yield a text that goes on as long as somebody listens, for a minute at most."""
    over = threading.Event()
    context.add_callback(over.set)
    for _ in range(6000):
        yield pb.GenerateResponse(text="ab")
        if over.wait(0.01):
            return
