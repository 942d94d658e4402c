"""Ten quiet identities beside one that floods: how long do they wait for their first character?

The quiet ones ask for a short text now and then, each for itself; the other one keeps 500 long texts open, from a
process of its own. Both cases are measured in turn; the bar is that the 99th percentile at most doubles.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import grpc
import numpy as np

from benchmarks.support.load import bearer, channel_to
from benchmarks.support.machine import describe_machine
from benchmarks.support.served import logged, logging_to, untrained_bundle
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

QUIET, FLOOD_STREAMS = 10, 500
TEXT_CHARS, PAUSE_SECONDS = 40, 0.1
LONG = 100_000
BAR = 2.0


def flood(address: str, streams: int, begun: Event, end: Event) -> None:
    """Keeps so many texts open until told to end."""
    asyncio.run(_flood(address, streams, begun, end))


async def _flood(address: str, streams: int, begun: Event, end: Event) -> None:
    async with channel_to(address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        readers = [asyncio.create_task(_read_for_ever(stub, seed)) for seed in range(streams)]
        await asyncio.sleep(1.0)  # until they are all with the server
        begun.set()
        await asyncio.to_thread(end.wait)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read_for_ever(stub: pb_grpc.TextGenerationStub, seed: int) -> None:
    while True:
        try:
            async for _ in stub.Generate(pb.GenerateRequest(seed=seed, max_chars=LONG), metadata=bearer("flood")):
                pass
        except grpc.aio.AioRpcError:
            await asyncio.sleep(1.0)


async def quiet_texts(address: str, seconds: float) -> list[float]:
    """Milliseconds to the first character of each text."""
    async with channel_to(address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        end = time.perf_counter() + seconds
        times = await asyncio.gather(*(_quiet(stub, number, end) for number in range(QUIET)))
    return [1e3 * one for several in times for one in several]


async def _quiet(stub: pb_grpc.TextGenerationStub, number: int, end: float) -> list[float]:
    rng, times = np.random.default_rng(number), []
    while time.perf_counter() < end:
        await asyncio.sleep(rng.exponential(PAUSE_SECONDS))
        request = pb.GenerateRequest(seed=number, max_chars=TEXT_CHARS)
        begin = time.perf_counter()
        call = stub.Generate(request, metadata=bearer(f"quiet{number}"))
        await call.read()
        times.append(time.perf_counter() - begin)
        while await call.read() is not grpc.aio.EOF:
            pass
    return times


@contextmanager
def served(folder: Path, max_rows: int, precision: str) -> Iterator[str]:
    """The address of a server that tells eleven identities apart."""
    names = ["flood", *(f"quiet{number}" for number in range(QUIET))]
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in names))
    bundle, path = untrained_bundle(folder / "bundle"), folder / "log"
    flags = ("--tokens", str(tokens), "--max-rows", str(max_rows), "--precision", precision, "--max-wait", "3600")
    with logging_to(path, bundle, *flags) as process:
        yield logged(process, path, r"listening on ([\d.:]+)")


def measure(address: str, seconds: float, *, flooded: bool) -> list[float]:
    if not flooded:
        return asyncio.run(quiet_texts(address, seconds))
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    process = context.Process(target=flood, args=(address, FLOOD_STREAMS, begun, end))
    process.start()
    try:
        begun.wait(60)
        return asyncio.run(quiet_texts(address, seconds))
    finally:
        end.set()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.fairness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (%(default)s)")
    parser.add_argument("--max-rows", type=int, default=16, help="the server's (%(default)s)")
    parser.add_argument("--precision", default="int8", choices=("fp32", "int8"))
    settings = parser.parse_args()
    print(describe_machine())
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name, served(Path(name), settings.max_rows, settings.precision) as address:
        asyncio.run(quiet_texts(address, 1.0))
        for number in range(settings.rounds):
            cases = (False, True) if number % 2 == 0 else (True, False)
            times = {flooded: measure(address, settings.seconds, flooded=flooded) for flooded in cases}
            (alone50, alone99), (beside50, beside99) = (np.percentile(times[case], (50, 99)) for case in (False, True))
            ratios.append(beside99 / alone99)
            print(
                f"round {number + 1}: alone p50 {alone50:.1f} p99 {alone99:.1f} ms ({len(times[False])} texts), "
                f"beside the flood p50 {beside50:.1f} p99 {beside99:.1f} ms ({len(times[True])} texts)"
            )
    median = statistics.median(ratios)
    print(f"p99 beside / alone, median of {len(ratios)} rounds: {median:.2f} (at most {BAR:g})")
    return 0 if median <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
