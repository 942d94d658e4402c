"""How much of the graph's speed arrives at a client: the decode graph in-process, and the same texts over gRPC.

    python -m benchmarks.throughput [--bundle FOLDER]

Both are measured in one run, alternating, with the medians of several rounds. Without a bundle an untrained LSTM of
2 x 512 with 96 characters is exported: speed does not depend on what the weights have learnt. The load comes from one
asyncio process, this one; the server is another.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from pydantic import Field

from benchmarks.machine import describe_machine
from benchmarks.served import serving, untrained_bundle
from bundle.manifest import Manifest
from bundle.philox import uniforms
from bundle.read import decode_file, read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.runner import Runner

ROWS = (1, 16, 64)
GRAPH_STEPS = 16
TEXT_CHARS = 2000


class ThroughputSettings(Settings):
    """Measures the decode graph in-process and the server over gRPC, in one run."""

    bundle: Path | None = Field(None, description="the bundle to measure (default: an untrained LSTM 2x512)")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(4.0, gt=0, description="seconds of each measurement over gRPC")


@dataclass(frozen=True)
class Arrival:
    """A chunk at the client: when, how many characters, and seconds since the chunk before (or since the call)."""

    at: float
    chars: int
    seconds: float
    first: bool


@dataclass(frozen=True)
class Load:
    """What the readers of one measurement saw: characters a second, and times in milliseconds."""

    chars_per_second: float
    first_char: list[float]
    gaps: list[float]


def graph_chars_per_second(runner: Runner, manifest: Manifest, rows: int, seconds: float) -> float:
    """The decode graph alone, one call after the other with two alternating states."""
    steps, hidden = GRAPH_STEPS, manifest.model.hidden
    halves = [
        [np.zeros(rows, np.int64), *(np.zeros((rows, hidden), np.float32) for _ in manifest.model.state_names)]
        for _ in range(2)
    ]
    forced, tokens = np.full((steps, rows), -1, np.int64), np.empty((steps, rows), np.int64)
    uniform, row_steps = uniforms(np.arange(rows), 1, steps), np.full(rows, steps, np.int64)
    temperature = np.full(rows, 0.8, np.float32)
    runs, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        before, after = halves[runs % 2], halves[1 - runs % 2]
        runner.run(before, forced, uniform, row_steps, temperature, tokens, after)
        runs += 1
    return runs * steps * rows / (now - begin)


async def grpc_load(address: str, streams: int, seconds: float) -> Load:
    """`streams` readers, each starting a new text when its last one ends, for so many seconds."""
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        end = time.perf_counter() + seconds
        # Arrivals are spread over a tenth of the time; what is counted lies after that.
        spread = seconds / 10
        readers = [_reader(stub, seed, end, spread * seed / streams) for seed in range(streams)]
        arrivals = [arrival for reader in await asyncio.gather(*readers) for arrival in reader]
    counted = [arrival for arrival in arrivals if end - seconds + spread <= arrival.at < end]
    return Load(
        chars_per_second=sum(arrival.chars for arrival in counted) / (seconds - spread),
        first_char=[1e3 * arrival.seconds for arrival in arrivals if arrival.first],
        gaps=[1e3 * arrival.seconds for arrival in counted if not arrival.first],
    )


async def _reader(stub: pb_grpc.TextGenerationStub, seed: int, end: float, wait: float) -> list[Arrival]:
    arrivals: list[Arrival] = []
    await asyncio.sleep(wait)
    while (last := time.perf_counter()) < end:
        request = pb.GenerateRequest(seed=seed, max_chars=TEXT_CHARS, sampling=pb.Sampling(temperature=0.8))
        call, first = stub.Generate(request), True
        async for response in call:
            now = time.perf_counter()
            arrivals.append(Arrival(now, len(response.text), now - last, first))
            last, first = now, False
            if now >= end:
                call.cancel()
                break
        seed += 1000
    return arrivals


async def measure(settings: ThroughputSettings, folder: Path, address: str) -> None:
    bundle = read_bundle(folder)
    runner = Runner(bundle.files[decode_file("fp32")], bundle.manifest.model, threads=1, provider="cpu")
    graph: dict[int, list[float]] = {rows: [] for rows in ROWS}
    loads: dict[int, list[Load]] = {rows: [] for rows in ROWS}
    for number in range(settings.rounds):
        for rows in ROWS:
            print(f"round {number + 1} of {settings.rounds}: {rows} streams", file=sys.stderr)
            graph[rows].append(graph_chars_per_second(runner, bundle.manifest, rows, settings.seconds / 4))
            loads[rows].append(await grpc_load(address, rows, settings.seconds))
    _print_table(bundle.manifest, graph, loads)


def _print_table(manifest: Manifest, graph: dict[int, list[float]], loads: dict[int, list[Load]]) -> None:
    shape = manifest.model
    print(f"{describe_machine()}; {shape.cell} {shape.layers}x{shape.hidden}, V={len(manifest.symbols)}, fp32")
    print("streams  graph chars/s  gRPC chars/s  ratio  first char p50/p99 ms  gap p50/p99 ms")
    for rows in ROWS:
        alone = statistics.median(graph[rows])
        served = statistics.median(load.chars_per_second for load in loads[rows])
        ratio = statistics.median(
            load.chars_per_second / speed for load, speed in zip(loads[rows], graph[rows], strict=True)
        )
        first = _percentiles([value for load in loads[rows] for value in load.first_char])
        gaps = _percentiles([value for load in loads[rows] for value in load.gaps])
        print(f"{rows:7}  {alone:13,.0f}  {served:12,.0f}  {ratio:5.2f}  {first:>21}  {gaps:>14}")


def _percentiles(values: list[float]) -> str:
    middle, high = np.percentile(values, (50, 99))
    return f"{middle:.1f} / {high:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ThroughputSettings, argv, command="python -m benchmarks.throughput")
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "lstm-2x512")
        with serving(bundle) as address:
            asyncio.run(measure(settings, bundle, address))
    return 0


if __name__ == "__main__":
    sys.exit(main())
