"""Measure how long an idle server takes for a first character, beside a bare grpc.aio handler that runs the same steps.

    python -m benchmarks.processes.first_character

A round has one text of the server, one of the bare handler (which runs the decode graph in its own process, and sends
the first four characters as the server does), and some runs of the graph in this process, of 16 steps; the order
alternates. Both texts must be the same. Calls come one after the other, over one connection each.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmarks.speed.graphs import time_graph
from benchmarks.support.bare_server import FIRST_STEPS
from benchmarks.support.load import open_stub, percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import ServerProcess, flags_of, given_or_untrained, serving
from bundle.manifest import Precision
from bundle.read import decode_file, full_file, read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from server.runtime.host_runner import Runner

WARM_UP = 10
GRAPH_SECONDS = 0.01  # in each round


class FirstCharacterSettings(Settings):
    """Measure how long an idle server takes for a first character."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    precision: Literal["fp32", "int8"] = Field("int8", description="arithmetic of the matmuls")
    engines: str = Field("auto", description="the server's --engines")
    calls: int = Field(200, ge=1, description="calls of each")
    chars: int = Field(200, ge=4, description="characters of a text")


@dataclass
class Calls:
    """All calls of one server.

    Attributes:
        first, total: milliseconds to the first message, and to the end.
        first_chars: characters of the first message.
        own: milliseconds to the first character by the server's own clock, where it says so.
    """

    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    first_chars: list[int] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


async def call(stub: pb_grpc.TextGenerationStub, request: pb.GenerateRequest, calls: Calls) -> str:
    begin, text, first = time.perf_counter(), "", 0.0
    async for message in stub.Generate(request):
        if not first and message.text:
            first = time.perf_counter() - begin
            calls.first_chars.append(len(message.text))
        text += message.text
        if message.HasField("finish"):
            calls.own.append(1e3 * message.finish.timings.first_char_seconds)
    calls.first.append(1e3 * first)
    calls.total.append(1e3 * (time.perf_counter() - begin))
    return text


async def measure(
    settings: FirstCharacterSettings, addresses: Sequence[str], time_step: Callable[[], float]
) -> tuple[list[Calls], list[float]]:
    """Return the calls of the server and of the bare handler, and the seconds of one step of the graph."""
    found, steps = [Calls(), Calls()], list[float]()
    async with open_stub(addresses[0]) as stub, open_stub(addresses[1]) as bare:
        for number in range(-WARM_UP, settings.calls):
            request = pb.GenerateRequest(seed=number + WARM_UP, max_chars=settings.chars)
            request.sampling.temperature = 0.8
            calls, texts = found if number >= 0 else [Calls(), Calls()], list[str]()
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                texts.append(await call((stub, bare)[index], request, calls[index]))
            if len(set(texts)) > 1:
                raise SystemExit(f"the texts differ: {texts}")
            if number >= 0:
                steps.append(time_step())
    return found, steps


def graph_timer(folder: Path, precision: Precision) -> Callable[[], float]:
    """Return a function that measures the seconds of one step for one text."""
    bundle = read_bundle(folder)
    files = (bundle.files[decode_file(precision)], bundle.files[full_file(precision)])
    runner = Runner(*files, bundle.manifest.model, len(bundle.manifest.symbols), threads=1)
    return lambda: time_graph(runner, bundle.manifest, 1, GRAPH_SECONDS, full=False)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(FirstCharacterSettings, argv, command="python -m benchmarks.processes.first_character")
    print(f"{describe_machine()}; {settings.precision}, --engines {settings.engines}", flush=True)
    with given_or_untrained(settings.bundle) as bundle:
        given = flags_of(precision=settings.precision, engines=settings.engines, threads=1)
        module = (sys.executable, "-m", "benchmarks.support.bare_server", str(bundle), settings.precision)
        with serving(bundle, *given) as server, ServerProcess(module) as bare:
            timer = graph_timer(bundle, settings.precision)
            found, steps = asyncio.run(measure(settings, (server.address, bare.address), timer))
    for name, calls in zip(("charstream", "bare grpc.aio"), found, strict=True):
        first, total = percentiles(calls.first), percentiles(calls.total)
        print(
            f"{name}: first message of {statistics.median(calls.first_chars):.0f} characters p50 / p99 "
            f"{first[0]:.2f} / {first[1]:.2f} ms, all {settings.chars} characters in {total[0]:.1f} ms"
        )
    step = 1e3 * statistics.median(steps)
    print(
        f"the graph: {FIRST_STEPS} steps {FIRST_STEPS * step:.2f} ms, "
        f"{settings.chars} steps {settings.chars * step:.1f} ms"
    )
    print(f"charstream's own clock: first character p50 {statistics.median(found[0].own):.2f} ms after the call came")
    ours, others = (statistics.median(calls.first) for calls in found)
    shares = (1e3 * settings.chars * each / total for each, total in zip(steps, found[0].total, strict=True))
    print(f"p50 to the first character: {ours / others:.2f} of the bare handler's")
    print(f"speed of a text of {settings.chars} characters: {statistics.median(shares):.2f} of the graph's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
