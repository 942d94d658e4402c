"""What attackers are aimed at for comparison: takes every call, sends one message, and never ends; or refuses."""

import argparse
import asyncio
import sys
from typing import Any

import grpc

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__: list[str] = []


class NullGeneration(pb_grpc.TextGenerationServicer):
    def __init__(self, refuse: bool) -> None:
        self._refuse = refuse

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
    ) -> None:
        if self._refuse:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "always")
        await context.write(pb.GenerateResponse(text="x"))
        await asyncio.Event().wait()


async def serve(refuse: bool) -> None:
    server: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_TextGenerationServicer_to_server(NullGeneration(refuse), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"listening on 127.0.0.1:{port}\n")
    sys.stderr.flush()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostility.null_server", description=__doc__)
    parser.add_argument("--refuse", action="store_true", help="answer RESOURCE_EXHAUSTED")
    asyncio.run(serve(parser.parse_args().refuse))


if __name__ == "__main__":
    main()
