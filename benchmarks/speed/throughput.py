"""Measure how much of the machine's speed arrives at a client: matmuls, decode graph, engine, gRPC.

    python -m benchmarks.speed.throughput [--bundle FOLDER]

All is measured in one run, alternating, with the medians of several rounds. Without a bundle an untrained LSTM of
2 x 512 with 96 characters is exported: speed does not depend on what the weights have learnt. The load comes from one
asyncio process, this one; the server is another, with its engine processes. Matmuls, graph and engine run in one
thread: where the server has several engines it may be faster than they are.
"""

import asyncio
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from benchmarks.speed.engine import MAX_BATCH, engine_chars_per_second
from benchmarks.speed.graphs import matmuls_of, time_graph, time_matmuls
from benchmarks.support.load import Load, grpc_load, percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import median_ratio
from benchmarks.support.servers import ServerProcess, flags_of, given_or_untrained, serving
from bundle.manifest import ON_DEVICE, Manifest, Precision
from bundle.read import Bundle, decode_file, full_file, read_bundle
from charstream.settings import Settings, parse
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStore

# Streams, and the chunk delay in milliseconds.
LOADS = ((1, 20), (16, 20), (64, 20), (256, 20), (256, 80))


class ThroughputSettings(Settings):
    """Measure matmuls, decode graph, engine and server in one run."""

    bundle: Path | None = Field(None, description="the bundle to measure (default: an untrained LSTM 2x512)")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(4.0, gt=0, description="duration of each measurement over gRPC")
    engines: str = Field("auto", description="the server's --engines")


@dataclass
class Rounds:
    """All rounds of one precision, streams and delay: seconds of a step, characters a second, and loads."""

    matmuls: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)


Results = dict[tuple[Precision, int, int], Rounds]


def on_cpu(manifest: Manifest) -> list[Precision]:
    """Return the precisions that `benchmarks.cuda` does not measure."""
    return [precision for precision in manifest.precisions if precision not in ON_DEVICE]


class Benchmark:
    """One bundle, with a server for each precision and chunk delay."""

    def __init__(self, bundle: Bundle, servers: dict[tuple[Precision, int], ServerProcess], seconds: float) -> None:
        self.manifest, self._seconds, self._servers = bundle.manifest, seconds, servers
        shape, vocab = self.manifest.model, len(self.manifest.symbols)
        files = {p: (bundle.files[decode_file(p)], bundle.files[full_file(p)]) for p in on_cpu(self.manifest)}
        self._runners = {p: Runner(*files[p], shape, vocab, threads=1) for p in files}
        self._matmuls = {p: matmuls_of(files[p][0]) for p in files}

    def measure(self, found: Rounds, precision: Precision, streams: int, delay: int) -> None:
        """Measure one round."""
        runner, short = self._runners[precision], self._seconds / 10
        found.matmuls.append(time_matmuls(self._matmuls[precision], streams, short))
        found.decode.append(time_graph(runner, self.manifest, streams, short, full=False))
        found.full.append(time_graph(runner, self.manifest, streams, short, full=True))
        store = HostStore(runner, self.manifest, streams, MAX_BATCH)
        found.engine.append(engine_chars_per_second(store, self.manifest, streams, delay / 1000, self._seconds / 2))
        server = self._servers[precision, delay]
        found.loads.append(asyncio.run(grpc_load(server.address, server.pid, streams, self._seconds)))


def run(settings: ThroughputSettings, folder: Path) -> Results:
    bundle = read_bundle(folder)
    results: Results = defaultdict(Rounds)
    with ExitStack() as stack:
        servers = {
            (precision, delay): stack.enter_context(
                serving(folder, *flags_of(precision=precision, chunk_delay=delay, threads=1, engines=settings.engines))
            )
            for precision in on_cpu(bundle.manifest)
            for delay in sorted({delay for _, delay in LOADS})
        }
        benchmark = Benchmark(bundle, servers, settings.seconds)
        for number in range(settings.rounds):
            for streams, delay in LOADS:
                print(f"round {number + 1} of {settings.rounds}: {streams} streams, {delay} ms", file=sys.stderr)
                for precision in on_cpu(bundle.manifest):
                    benchmark.measure(results[precision, streams, delay], precision, streams, delay)
    return results


def print_tables(results: Results) -> None:
    """Print characters a second, each with its share of the one before; then the readers' times and CPU seconds."""
    print("\nCharacters a second; in brackets the share of the column before (of full: of the graph)")
    print(f"{'':>22}{'matmuls':>10}{'graph':>16}{'full':>16}{'engine':>16}{'gRPC':>16}  int8 / fp32 graph")
    for (precision, streams, delay), found in results.items():
        row = f"{precision} B={streams:<4} {delay:>3} ms".rjust(22)
        columns = [
            [streams / step for step in found.matmuls],
            [streams / step for step in found.decode],
            [streams / step for step in found.full],
            found.engine,
            [load.chars_per_second for load in found.loads],
        ]
        row += f"{statistics.median(columns[0]):10,.0f}"
        for column, base in ((1, 0), (2, 1), (3, 1), (4, 3)):
            row += f"{statistics.median(columns[column]):9,.0f} ({median_ratio(columns[column], columns[base]):.2f})"
        fp32 = results.get(("fp32", streams, delay))
        gain = f"{median_ratio(fp32.decode, found.decode):.2f}" if fp32 and precision != "fp32" else ""
        print(f"{row}  {gain}")
    print("\nOver gRPC: milliseconds, p50 / p99 of all rounds; CPU seconds a second")
    print(f"{'':>22}{'first character':>18}{'gap':>18}{'engines':>9}{'loop':>7}{'others':>8}{'client':>8}")
    for (precision, streams, delay), found in results.items():
        row = f"{precision} B={streams:<4} {delay:>3} ms".rjust(22)
        row += f"{_milliseconds(found.loads, lambda load: load.first_char):>18}"
        row += f"{_milliseconds(found.loads, lambda load: load.gaps):>18}"
        for width, name in ((9, "engine"), (7, "loop"), (8, "others"), (8, "client")):
            row += f"{statistics.median(getattr(load.cpu, name) for load in found.loads):{width}.2f}"
        print(row)


def _milliseconds(loads: Sequence[Load], times: Callable[[Load], list[float]]) -> str:
    values = [value for load in loads for value in times(load)]
    return "{:.1f} / {:.1f}".format(*percentiles(values)) if values else "-"


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ThroughputSettings, argv, command="python -m benchmarks.speed.throughput")
    with given_or_untrained(settings.bundle) as bundle:
        manifest = read_bundle(bundle).manifest
        results = run(settings, bundle)
    shape = manifest.model
    print(f"{describe_machine()}; {shape.cell} {shape.layers}x{shape.hidden}, V={len(manifest.symbols)}")
    print_tables(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
