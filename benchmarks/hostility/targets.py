"""A null server to attack for comparison, and looks at a real server: its free rows, and whether it rests."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

import grpc

from benchmarks.support.load import open_stubs
from benchmarks.support.machine import cpu_seconds
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["free_rows", "null_server", "wait_until_quiet"]

QUIET_SECONDS, QUIET_CPU_SECONDS = 120.0, 0.05
START_SECONDS = 60.0
CONNECTION_CALLS = 32
LONG = pb.GenerateRequest(max_chars=1_000_000)


class NullGeneration(pb_grpc.TextGenerationServicer):
    """Takes every call, sends one message and never ends; or refuses."""

    def __init__(self, refuse: bool) -> None:
        self._refuse = refuse

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
    ) -> None:
        if self._refuse:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "always")
        await context.write(pb.GenerateResponse(text="x"))
        await asyncio.Event().wait()


@contextmanager
def null_server(core: int, *, refuse: bool) -> Iterator[str]:
    """Yield the address of a null server in a process of its own, all threads of which run on one core."""
    context = get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=_serve, args=(core, refuse, ports), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ports.get(timeout=START_SECONDS)}"
    finally:
        process.kill()
        process.join()


def _serve(core: int, refuse: bool, ports: Any) -> None:
    os.sched_setaffinity(0, {core})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # gRPC's core writes a line for each strange thing that it meets

    async def run() -> None:
        server: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_TextGenerationServicer_to_server(NullGeneration(refuse), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ports.put(port)
        await server.wait_for_termination()

    asyncio.run(run())


def wait_until_quiet(pid: int) -> bool:
    """Wait until the process does next to nothing; return False if it does not come to rest."""
    end, used = time.monotonic() + QUIET_SECONDS, cpu_seconds(pid)
    while time.monotonic() < end:
        time.sleep(1)
        before, used = used, cpu_seconds(pid)
        if used - before <= QUIET_CPU_SECONDS:
            return True
    return False


async def free_rows(address: str, rows: int, seconds: float = 30.0) -> int:
    """Open `rows` texts at a time until all have a first character; return how many had one at the last try."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        async with open_stubs(address, -(-rows // CONNECTION_CALLS)) as stubs:
            calls = [stub.Generate(LONG, timeout=left) for stub in islice(cycle(stubs), rows)]
            begun = sum(await asyncio.gather(*map(_begins, calls)))
        if begun == rows:
            break
    return begun


async def _begins(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]") -> bool:
    with suppress(grpc.aio.AioRpcError):
        return bool(await call.read())
    return False
