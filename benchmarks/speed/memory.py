"""Measure the memory of many streams: an engine, and a server, with 4,096 rows before, while and after 4,096 texts run.

    python -m benchmarks.speed.memory [--bundle FOLDER]
    python -m benchmarks.speed.memory --calls 10000

The second one makes short calls of mixed kinds instead (texts with all sampling fields, checkpoints, scores, tokens of
earlier calls), 16 at a time, and shows the server's own process and its engine processes after each fifth of them.

Resident memory is read from /proc: that of a process with nothing but the engine, and that of the server and its engine
processes together (what they share counts for each), whose streams come from one asyncio process, this one.
"""

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import grpc
from pydantic import Field

from benchmarks.correctness.engines import mixed_request
from benchmarks.correctness.same_texts import answer, score_request
from benchmarks.speed.engine import MAX_BATCH, Meter, request, run_engine
from benchmarks.support.load import open_stub, open_stubs
from benchmarks.support.machine import describe_machine, process_tree, resident_megabytes
from benchmarks.support.servers import SYMBOLS, ServerProcess, flags_of, given_or_untrained, serving
from bundle.read import decode_file, full_file, read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from server.engine.messages import Cancel
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStore

CONNECTIONS = 16
CALLS_AT_A_TIME, SCORES = 16, 0.2  # of mixed calls; the share of them that score
# Enough that every stream is still open when the last one has begun.
ENDLESS_CHARS = 1_000_000
BEGIN_SECONDS, SETTLE_SECONDS, POLL_SECONDS = 120.0, 5.0, 0.2


class MemorySettings(Settings):
    """Measure the memory of an engine, and of a server, with many open streams."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    streams: int = Field(4096, ge=1, description="rows of the server, and streams that are open at a time")
    rounds: int = Field(3, ge=1, description="how often they are opened and closed")
    seconds: float = Field(10.0, gt=0, description="seconds that all are open")
    engines: str = Field("auto", description="the server's --engines")
    calls: int = Field(0, ge=0, description="short calls of mixed kinds, instead of streams that are open at a time")


def measure_engine(folder: Path, streams: int, rounds: int, seconds: float) -> None:
    """Print the memory of this process, which should have nothing but an engine in it."""
    bundle, pid = read_bundle(folder), os.getpid()
    manifest, precision = bundle.manifest, bundle.manifest.precisions[-1]
    files = (bundle.files[decode_file(precision)], bundle.files[full_file(precision)])
    runner = Runner(*files, manifest.model, len(manifest.symbols), threads=1)
    meter = Meter()
    with run_engine(HostStore(runner, manifest, streams, MAX_BATCH), manifest, meter, chunk_delay=0.02) as engine:
        before = resident_megabytes(pid)
        print(f"engine, warmed up, {precision}: {before:.0f} MB")
        for number in range(rounds):
            chars = meter.chars
            for stream in range(streams):
                engine.submit(request(stream))
            largest, end = 0.0, time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(POLL_SECONDS)
                largest = max(largest, resident_megabytes(pid))
            for stream in range(streams):
                engine.submit(Cancel(stream))
            time.sleep(1)
            counted = f"{streams:,} texts, {meter.chars - chars:,} characters"
            _print_round("engine", number, counted, before, largest, resident_megabytes(pid))


async def hold_streams(server: ServerProcess, streams: int, seconds: float) -> tuple[float, int]:
    """Open all streams, read them for some seconds and cancel them.

    Returns:
        The largest memory seen, in megabytes, and how many streams delivered.
    """
    delivered: set[int] = set()
    async with open_stubs(server.address, min(CONNECTIONS, streams)) as stubs:

        async def read(number: int) -> None:
            call = stubs[number % len(stubs)].Generate(pb.GenerateRequest(max_chars=ENDLESS_CHARS, seed=number))
            try:
                async for _ in call:
                    delivered.add(number)
            except grpc.aio.AioRpcError as error:
                print(f"stream {number}: {error.code()}: {error.details()}", file=sys.stderr)
            finally:
                call.cancel()

        tasks = [asyncio.create_task(read(number)) for number in range(streams)]
        largest, give_up, end = 0.0, time.monotonic() + BEGIN_SECONDS, float("inf")
        while time.monotonic() < min(end, give_up):
            await asyncio.sleep(POLL_SECONDS)
            largest = max(largest, resident_megabytes(server.pid))
            if len(delivered) == streams:
                end = min(end, time.monotonic() + seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return largest, len(delivered)


def measure_server(bundle: Path, streams: int, rounds: int, seconds: float, engines: str) -> None:
    with serving(bundle, *flags_of(max_rows=streams, engines=engines)) as server:
        before, processes = resident_megabytes(server.pid), process_tree(server.pid)
        own = before - sum(map(resident_megabytes, processes[1:]))
        print(f"server, ready: {before:.0f} MB in {len(processes)} processes, {own:.0f} MB in its own")
        for number in range(rounds):
            largest, delivered = asyncio.run(hold_streams(server, streams, seconds))
            gc.collect()
            time.sleep(SETTLE_SECONDS)
            counted = f"{delivered:,} of {streams:,} streams delivered"
            _print_round("server", number, counted, before, largest, resident_megabytes(server.pid))


async def make_calls(address: str, calls: range) -> None:
    """Make short calls of mixed kinds, some of them from tokens that others gave; each by its number."""
    tokens, turn = list[bytes](), asyncio.Semaphore(CALLS_AT_A_TIME)
    async with open_stub(address) as stub:

        async def call(number: int) -> None:
            rng = random.Random(number)
            async with turn:
                is_score = rng.random() < SCORES
                found = await answer(stub, (score_request if is_score else mixed_request)(rng, SYMBOLS, tokens[-99:]))
            tokens.extend(
                bytes.fromhex(text["token"]) for text in found.values() if isinstance(text, dict) and text["token"]
            )

        await asyncio.gather(*map(call, calls))


def measure_calls(bundle: Path, calls: int, engines: str) -> None:
    with serving(bundle, *flags_of(engines=engines)) as server:
        parts, done = 5, 0
        for number in range(parts + 1):
            end = calls * number // parts
            asyncio.run(make_calls(server.address, range(done, end)))
            done = end
            own, *others = process_tree(server.pid)
            each = ", ".join(f"{resident_megabytes(pid):.0f}" for pid in others) or "none"
            alone = resident_megabytes(own) - sum(map(resident_megabytes, others))
            print(f"after {done:,} calls: front {alone:.1f} MB, engines {each} MB", flush=True)
            time.sleep(1)


def _print_round(name: str, number: int, counted: str, before: float, largest: float, after: float) -> None:
    memory = f"at most {largest:.0f} MB; after them {after:.0f} MB ({after - before:+.0f})"
    print(f"{name}, round {number + 1}: {counted}, {memory}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(MemorySettings, argv, command="python -m benchmarks.speed.memory")
    with given_or_untrained(settings.bundle) as bundle:
        print(describe_machine(), flush=True)
        if settings.calls:
            measure_calls(bundle, settings.calls, settings.engines)
            return 0
        sizes = (bundle, settings.streams, settings.rounds, settings.seconds)
        # In a process of its own: this one may have torch in it.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(measure_engine, *sizes).result()
        measure_server(*sizes, settings.engines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
