"""A bare grpc.aio server, as one writes it first: each call has its own state and one `session.run` a character."""

import argparse
import asyncio
from pathlib import Path

import grpc
import numpy as np

from benchmarks.peers.servers.char_model import CharModel
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc


class TextGeneration(pb_grpc.TextGenerationServicer):
    def __init__(self, model: CharModel) -> None:
        self.model = model

    async def Generate(
        self, request: pb.GenerateRequest, context: "grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]"
    ) -> None:
        row = self.model.begin(1)
        temperature = np.array([request.sampling.temperature], np.float32)
        for sent in range(0, request.max_chars, request.chunking.max_chars):
            steps = min(request.chunking.max_chars, request.max_chars - sent)
            (text,) = self.model.texts(self.model.run(row, steps, temperature))
            await context.write(pb.GenerateResponse(text=text))
            await asyncio.sleep(0)  # the others' turn


async def serve(bundle: Path, port: int) -> None:
    server = grpc.aio.server()
    pb_grpc.add_TextGenerationServicer_to_server(TextGeneration(CharModel(bundle)), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.bundle, arguments.port))
