"""Measure the doors beside each other: characters a second over gRPC and as server-sent events over HTTP.

    python -m benchmarks.speed.doors [--bundle FOLDER]

One server with both ports gives the same texts through one door and the other in turn, to this process; the ratio is
that within a round. `--idle` measures instead what the open HTTP port costs gRPC while nobody uses it.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc

from benchmarks.support.machine import describe_machine
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


def speed(read: Reading, address: str, streams: int, texts: int) -> float:
    """Return characters a second of all streams, each of which reads some texts one after the other."""

    async def stream(number: int) -> int:
        return sum([await read(address, number * texts + text) for text in range(texts)])

    async def all_streams() -> int:
        return sum(await asyncio.gather(*map(stream, range(streams))))

    began = time.monotonic()
    chars = asyncio.run(all_streams())
    return chars / (time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.doors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each case (%(default)s)")
    parser.add_argument("--bundle", type=Path, help="the bundle to serve (an untrained LSTM 2x512)")
    parser.add_argument("--streams", type=int, default=64, help="texts at a time")
    parser.add_argument("--texts", type=int, default=2, help="texts of each stream, one after the other")
    parser.add_argument("--idle", action="store_true", help="gRPC with and without an open HTTP port")
    settings = parser.parse_args()
    one_thread = ("--threads", "1")
    with given_or_untrained(settings.bundle) as bundle, serving(bundle, *one_thread, *HTTP_PORT) as server:
        measure = partial(speed, streams=settings.streams, texts=settings.texts)
        if settings.idle:
            with serving(bundle, *one_thread) as closed:
                cases = {
                    "no HTTP port": partial(measure, read_grpc, closed.address),
                    "an idle one": partial(measure, read_grpc, server.address),
                }
                speeds = measure_in_turn(cases, settings.rounds)
        else:
            cases = {
                "gRPC": partial(measure, read_grpc, server.address),
                "events": partial(measure, read_events, server.wait_for(WEB)),
            }
            speeds = measure_in_turn(cases, settings.rounds)
    print(f"{describe_machine()}; {settings.streams} streams, texts of {CHARS} characters")
    print_ratios(speeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
