"""What many streams take: an engine, and a server, with 4,096 rows before, while and after 4,096 texts run.

    python -m benchmarks.speed.memory [--bundle FOLDER]

Resident memory, read from /proc: of a process with nothing but the engine, and of the server's process, whose streams
come from one asyncio process, this one.
"""

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from pydantic import Field

from benchmarks.support.machine import describe_machine, resident_megabytes
from benchmarks.support.served import serving, untrained_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

CONNECTIONS = 16
# Enough that every stream is still open when the last one has begun.
ENDLESS_CHARS = 1_000_000
SETTLE_SECONDS = 5.0


class MemorySettings(Settings):
    """Measures the memory of a server with many open streams."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    streams: int = Field(4096, ge=1, description="rows of the server, and streams that are open at a time")
    rounds: int = Field(3, ge=1, description="how often they are opened and closed")
    seconds: float = Field(10.0, gt=0, description="seconds that all are open")


async def hold_streams(address: str, pid: int, streams: int, seconds: float) -> tuple[float, int]:
    """Opens the streams, reads all of them for so long, and cancels them; the largest memory seen, in megabytes, and
    the streams that delivered."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(min(CONNECTIONS, streams))]
    delivered: set[int] = set()

    async def read(number: int) -> None:
        stub = pb_grpc.TextGenerationStub(channels[number % len(channels)])
        call = stub.Generate(pb.GenerateRequest(max_chars=ENDLESS_CHARS, seed=number))
        try:
            async for _ in call:
                delivered.add(number)
        except grpc.aio.AioRpcError as error:
            print(f"stream {number}: {error.code()}: {error.details()}", file=sys.stderr)
        finally:
            call.cancel()

    tasks = [asyncio.create_task(read(number)) for number in range(streams)]
    largest, begin, complete = 0.0, time.monotonic(), 0.0
    while not complete or time.monotonic() - complete < seconds:
        await asyncio.sleep(0.2)
        largest = max(largest, resident_megabytes(pid))
        if len(delivered) == streams and not complete:
            complete = time.monotonic()
        if time.monotonic() - begin > 120:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return largest, len(delivered)


def measure_engine(bundle: Path, streams: int, rounds: int, seconds: float) -> None:
    """In a process of its own: this one has torch in it."""
    code = (
        "import sys; from benchmarks.memory_engine import measure; "
        "measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))"
    )
    arguments = [str(argument) for argument in (bundle, streams, rounds, seconds)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(MemorySettings, argv, command="python -m benchmarks.speed.memory")
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "lstm-2x512")
        print(describe_machine(), flush=True)
        measure_engine(bundle, settings.streams, settings.rounds, settings.seconds)
        with serving(bundle, "--max-rows", str(settings.streams)) as server:
            before = resident_megabytes(server.pid)
            print(f"server, ready: {before:.0f} MB")
            for number in range(settings.rounds):
                largest, delivered = asyncio.run(
                    hold_streams(server.address, server.pid, settings.streams, settings.seconds)
                )
                gc.collect()
                time.sleep(SETTLE_SECONDS)
                after = resident_megabytes(server.pid)
                print(
                    f"server, round {number + 1}: {delivered:,} of {settings.streams:,} streams delivered, at most "
                    f"{largest:.0f} MB; after them {after:.0f} MB ({after - before:+.0f})",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
