"""Measure how long ten quiet identities wait for a first character, alone and beside one that floods.

The quiet ones ask for a short text now and then, each for itself; the other one keeps 500 long texts open, from a
process of its own. Both cases are measured in turn; the bar is that the 99th percentile at most doubles.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks.support.background import Tally, background_load
from benchmarks.support.load import bearer, open_stub, percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, median_ratio, rounds_parser
from benchmarks.support.servers import serving, untrained_bundle, write_tokens
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

QUIET, FLOOD_STREAMS = 10, 500
TEXT_CHARS, PAUSE_SECONDS = 40, 0.1
LONG = 100_000
BAR = 2.0


async def flood(address: str, tally: Tally) -> None:
    """Keep long texts open."""
    async with open_stub(address) as stub:
        readers = [asyncio.create_task(_read_for_ever(stub, seed)) for seed in range(FLOOD_STREAMS)]
        await asyncio.sleep(1.0)  # until they are all with the server
        tally.in_place.set()
        await asyncio.gather(*readers)


async def _read_for_ever(stub: pb_grpc.TextGenerationStub, seed: int) -> None:
    while True:
        try:
            async for _ in stub.Generate(pb.GenerateRequest(seed=seed, max_chars=LONG), metadata=bearer("flood")):
                pass
        except grpc.aio.AioRpcError:
            await asyncio.sleep(1.0)


async def read_quietly(address: str, seconds: float) -> list[float]:
    """Return the milliseconds to the first character of each text."""
    async with open_stub(address) as stub:
        end = time.perf_counter() + seconds
        times = await asyncio.gather(*(_read_short_texts(stub, number, end) for number in range(QUIET)))
    return [1e3 * one for several in times for one in several]


async def _read_short_texts(stub: pb_grpc.TextGenerationStub, number: int, end: float) -> list[float]:
    rng, times = np.random.default_rng(number), []
    while time.perf_counter() < end:
        await asyncio.sleep(rng.exponential(PAUSE_SECONDS))
        begin = time.perf_counter()
        request = pb.GenerateRequest(seed=number, max_chars=TEXT_CHARS)
        call = stub.Generate(request, metadata=bearer(f"quiet{number}"))
        await call.read()
        times.append(time.perf_counter() - begin)
        while await call.read() is not grpc.aio.EOF:
            pass
    return times


def measure_beside_flood(address: str, seconds: float) -> list[float]:
    with background_load(flood, address) as load:
        load.begin()
        load.wait_for("in place")
        return asyncio.run(read_quietly(address, seconds))


def main() -> int:
    parser = rounds_parser("speed.fairness", __doc__, rounds=5, seconds=10.0)
    parser.add_argument("--max-rows", type=int, default=16, help="the server's (%(default)s)")
    parser.add_argument("--precision", default="int8", choices=("fp32", "int8"))
    settings = parser.parse_args()
    print(describe_machine())
    names = ["flood", *(f"quiet{number}" for number in range(QUIET))]
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder, "tokens")
        write_tokens(tokens, **{name: name for name in names})
        flags = ("--tokens", str(tokens), "--max-rows", str(settings.max_rows), "--precision", settings.precision)
        with serving(untrained_bundle(Path(folder, "bundle")), *flags, "--max-wait", "3600") as server:
            asyncio.run(read_quietly(server.address, 1.0))
            cases = {
                "alone": lambda: asyncio.run(read_quietly(server.address, settings.seconds)),
                "beside the flood": lambda: measure_beside_flood(server.address, settings.seconds),
            }
            times = measure_in_turn(cases, settings.rounds)
    for name, values in times.items():
        for number, one in enumerate(values):
            middle, high = percentiles(one)
            print(f"{name}, round {number + 1}: p50 {middle:.1f} p99 {high:.1f} ms ({len(one)} texts)")
    alone, beside = ([percentiles(one)[1] for one in values] for values in times.values())
    ratio = median_ratio(beside, alone)
    print(f"p99 beside / alone, median of {settings.rounds} rounds: {ratio:.2f} (at most {BAR:g})")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
