"""Measure what long prompts do to others: 64 short streams, alone and with a prompt of 20,000 characters every second.

    python -m benchmarks.speed.long_prompts [--bundle FOLDER]

Both are measured in one run, alternating. The prompts are all different, so no prefix cache helps.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from pydantic import Field

from benchmarks.support.load import Load, grpc_load, open_stub, percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.rounds import measure_in_turn, median_ratio
from benchmarks.support.servers import ServerProcess, given_or_untrained, serving
from bundle.read import read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

STREAMS, SHORT_CHARS = 64, 400
PROMPT_CHARS, PROMPT_EVERY = 20_000, 1.0


class LongPromptsSettings(Settings):
    """Measure 64 short streams without and with long prompts among them."""

    bundle: Path | None = Field(None, description="the bundle to measure (default: an untrained LSTM 2x512)")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(10.0, gt=0, description="duration of each measurement")
    precision: str = Field("int8", description="fp32 or int8")


async def first_char_seconds(stub: pb_grpc.TextGenerationStub, prompt: str) -> float:
    """Return the seconds from a call with this prompt to its first character; infinity if it is cancelled before."""
    begin = time.perf_counter()
    call = stub.Generate(pb.GenerateRequest(prompt=prompt, max_chars=16))
    try:
        await call.read()
        return time.perf_counter() - begin
    except asyncio.CancelledError:
        call.cancel()
        return float("inf")


async def load_with_prompts(server: ServerProcess, seconds: float, prompts: Iterator[str]) -> tuple[Load, list[float]]:
    """Return the load of the short streams, and the seconds that each long prompt waited for its first character."""
    waiting: list[asyncio.Task[float]] = []
    async with open_stub(server.address) as stub:

        async def send_prompts() -> None:
            for prompt in prompts:
                waiting.append(asyncio.create_task(first_char_seconds(stub, prompt)))
                await asyncio.sleep(PROMPT_EVERY)

        sending = asyncio.create_task(send_prompts())
        load = await short_streams(server, seconds)
        for task in (sending, *waiting):
            task.cancel()
        return load, await asyncio.gather(*waiting)


async def short_streams(server: ServerProcess, seconds: float) -> Load:
    return await grpc_load(server.address, server.pid, STREAMS, seconds, text_chars=SHORT_CHARS)


async def first_char_when_idle(server: ServerProcess, prompt: str) -> float:
    async with open_stub(server.address) as stub:
        return await first_char_seconds(stub, prompt)


def report(loads: dict[str, list[Load]], waits: Sequence[float], seconds: float) -> None:
    for name, values in loads.items():
        gaps, first = (
            " / ".join(f"{value:.1f}" for value in np.median([percentiles(times) for times in several], axis=0))
            for several in ([load.gaps for load in values], [load.first_char for load in values])
        )
        speed = statistics.median(load.chars_per_second for load in values)
        print(f"{name:>13}: {speed:8,.0f} chars/s; gap p50 / p99 {gaps} ms; first {first} ms")
    without, among = ([percentiles(load.gaps)[1] for load in values] for values in loads.values())
    print(f"gap p99 with prompts / without: {median_ratio(among, without):.2f}")
    done = [wait for wait in waits if wait < float("inf")]
    print(
        f"prompts of {PROMPT_CHARS:,} characters: {len(done)} of {len(waits)} had a first character before their round "
        f"of {seconds:g} s was over, after {min(done, default=0):.1f} to {max(done, default=0):.1f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(LongPromptsSettings, argv, command="python -m benchmarks.speed.long_prompts")
    rng, waits = random.Random(0), list[float]()
    with given_or_untrained(settings.bundle) as bundle:
        symbols = read_bundle(bundle).manifest.symbols
        prompts = ("".join(rng.choices(symbols, k=PROMPT_CHARS)) for _ in count())
        with serving(bundle, "--precision", settings.precision, "--threads", "1") as server:

            def measure_with_prompts() -> Load:
                load, more = asyncio.run(load_with_prompts(server, settings.seconds, prompts))
                waits.extend(more)
                return load

            print(f"{describe_machine()}; {settings.precision}")
            idle = asyncio.run(first_char_when_idle(server, next(prompts)))
            print(f"a prompt of {PROMPT_CHARS:,} characters on an idle server: {idle:.2f} s")
            cases = {
                "without": lambda: asyncio.run(short_streams(server, settings.seconds)),
                "with prompts": measure_with_prompts,
            }
            report(measure_in_turn(cases, settings.rounds), waits, settings.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
