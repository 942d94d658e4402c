"""Measure the doors beside each other: characters a second over gRPC and as server-sent events over HTTP.

    python -m benchmarks.doors.speed [--bundle FOLDER]

One server with both ports gives the same texts through one door and the other in turn, to this process; the ratio is
that within a round. `--idle` measures instead what the open HTTP port costs gRPC while nobody uses it.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import grpc

from benchmarks.support.machine import describe_machine, thread_seconds
from benchmarks.support.rounds import measure_in_turn, print_ratios
from benchmarks.support.servers import given_or_untrained, serving
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

CHARS = 1000
HTTP_PORT = ("--http-port", "0")
WEB = r'HTTP on ([\w.:[\]-]+)["\s]'

Reading = Callable[[str, int], Awaitable[int]]


async def read_grpc(address: str, seed: int) -> int:
    """Read a text; return its characters."""
    chars = 0
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = pb.GenerateRequest(max_chars=CHARS, seed=seed)
        async for message in pb_grpc.TextGenerationStub(channel).Generate(request):
            chars += len(message.text)
    return chars


async def read_events(address: str, seed: int) -> int:
    """Read a text as server-sent events; return its characters."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"max_tokens": CHARS, "seed": seed, "stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    chars = 0
    while (line := await reader.readline()) != b"data: [DONE]\n":
        if not line:
            raise SystemExit("the stream ended before its end")
        if line.startswith(b"data: "):
            chars += len(json.loads(line[6:])["choices"][0]["text"])
    writer.close()
    return chars


class Door:
    """One door of a server, read by a number of streams at a time, each of some texts one after the other.

    Attributes:
        cpu: of each measurement, the server's CPU seconds for a million characters: less noisy than their speed.
    """

    def __init__(self, read: Reading, address: str, pid: int, streams: int, texts: int) -> None:
        self._read, self._address, self._pid, self._streams, self._texts = read, address, pid, streams, texts
        self.cpu: list[float] = []

    def measure(self) -> float:
        """Return characters a second of all streams."""
        before, began = sum(thread_seconds(self._pid).values()), time.monotonic()
        chars = asyncio.run(self._all_streams())
        seconds = time.monotonic() - began
        self.cpu.append((sum(thread_seconds(self._pid).values()) - before) / chars * 1e6)
        return chars / seconds

    async def _all_streams(self) -> int:
        return sum(await asyncio.gather(*map(self._stream, range(self._streams))))

    async def _stream(self, number: int) -> int:
        return sum([await self._read(self._address, number * self._texts + text) for text in range(self._texts)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each case (%(default)s)")
    parser.add_argument("--bundle", type=Path, help="the bundle to serve (an untrained LSTM 2x512)")
    parser.add_argument("--streams", type=int, default=64, help="texts at a time")
    parser.add_argument("--texts", type=int, default=2, help="texts of each stream, one after the other")
    parser.add_argument("--idle", action="store_true", help="gRPC with and without an open HTTP port")
    settings = parser.parse_args()
    size, one_thread = (settings.streams, settings.texts), ("--threads", "1")
    with ExitStack() as stack:
        bundle = stack.enter_context(given_or_untrained(settings.bundle))
        server = stack.enter_context(serving(bundle, *one_thread, *HTTP_PORT))
        if settings.idle:
            closed = stack.enter_context(serving(bundle, *one_thread))
            doors = {
                "no HTTP port": Door(read_grpc, closed.address, closed.pid, *size),
                "an idle one": Door(read_grpc, server.address, server.pid, *size),
            }
        else:
            doors = {
                "gRPC": Door(read_grpc, server.address, server.pid, *size),
                "events": Door(read_events, server.wait_for(WEB), server.pid, *size),
            }
        speeds = measure_in_turn({name: door.measure for name, door in doors.items()}, settings.rounds)
    print(f"{describe_machine()}; {settings.streams} streams, texts of {CHARS} characters")
    print_ratios(speeds)
    for name, door in doors.items():
        print(f"{name}: {median(door.cpu):.1f} CPU seconds of the server for a million characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
