"""What long prompts do to others: 64 short streams, without and with a prompt of 20,000 characters every second.

    python -m benchmarks.speed.long_prompts [--bundle FOLDER]

Both are measured in one run, alternating. The prompts are all different, so no prefix cache helps.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
from pydantic import Field

from benchmarks.support.load import Load, grpc_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.served import Served, serving, untrained_bundle
from bundle.read import read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

STREAMS, SHORT_CHARS = 64, 400
PROMPT_CHARS, PROMPT_EVERY = 20_000, 1.0


class LongPromptsSettings(Settings):
    """Measures 64 short streams without and with long prompts among them."""

    bundle: Path | None = Field(None, description="the bundle to measure (default: an untrained LSTM 2x512)")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(10.0, gt=0, description="seconds of each measurement")
    precision: str = Field("int8", description="fp32 or int8")


async def first_char_seconds(stub: pb_grpc.TextGenerationStub, prompt: str) -> float:
    """From a call with this prompt to its first character; infinite if the measurement ends before."""
    begin = time.perf_counter()
    call = stub.Generate(pb.GenerateRequest(prompt=prompt, max_chars=16))
    try:
        await call.read()
        return time.perf_counter() - begin
    except asyncio.CancelledError:
        call.cancel()
        return float("inf")


async def with_prompts(server: Served, symbols: str, seconds: float, rng: random.Random) -> tuple[Load, list[float]]:
    """The load of the short streams, and for each prompt the seconds until its first character."""
    async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        prompts: list[asyncio.Task[float]] = []

        async def arrive() -> None:
            while True:
                prompt = "".join(rng.choices(symbols, k=PROMPT_CHARS))
                prompts.append(asyncio.create_task(first_char_seconds(stub, prompt)))
                await asyncio.sleep(PROMPT_EVERY)

        arriving = asyncio.create_task(arrive())
        load = await grpc_load(server.address, server.pid, STREAMS, seconds, text_chars=SHORT_CHARS)
        arriving.cancel()
        for task in prompts:
            task.cancel()
        return load, list(await asyncio.gather(*prompts))


def run(server: Served, symbols: str, settings: LongPromptsSettings) -> None:
    rng = random.Random(0)
    without: list[Load] = []
    among: list[Load] = []
    waits: list[float] = []
    for number in range(settings.rounds):
        print(f"round {number + 1} of {settings.rounds}", file=sys.stderr)
        without.append(
            asyncio.run(grpc_load(server.address, server.pid, STREAMS, settings.seconds, text_chars=SHORT_CHARS))
        )
        load, seconds = asyncio.run(with_prompts(server, symbols, settings.seconds, rng))
        among.append(load)
        waits += seconds
    for name, loads in (("without", without), ("with prompts", among)):
        gaps = [np.percentile(load.gaps, (50, 99)) for load in loads]
        first = [np.percentile(load.first_char, (50, 99)) for load in loads]
        speed = statistics.median(load.chars_per_second for load in loads)
        print(f"{name:>13}: {speed:8,.0f} chars/s; gap p50 / p99 {_medians(gaps)} ms; first {_medians(first)} ms")
    ratio = statistics.median(
        np.percentile(b.gaps, 99) / np.percentile(a.gaps, 99) for a, b in zip(without, among, strict=True)
    )
    print(f"gap p99 with prompts / without: {ratio:.2f}")
    done = [wait for wait in waits if wait < float("inf")]
    print(
        f"prompts of {PROMPT_CHARS:,} characters: {len(done)} of {len(waits)} had a first character before their round "
        f"of {settings.seconds:g} s was over, after {min(done, default=0):.1f} to {max(done, default=0):.1f} s"
    )


def alone(server: Served, symbols: str) -> float:
    """Seconds to the first character of a long prompt on an idle server."""

    async def call() -> float:
        async with grpc.aio.insecure_channel(server.address) as channel:
            prompt = "".join(random.Random(1).choices(symbols, k=PROMPT_CHARS))
            return await first_char_seconds(pb_grpc.TextGenerationStub(channel), prompt)

    return asyncio.run(call())


def _medians(pairs: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> str:
    return " / ".join(f"{value:.1f}" for value in np.median(pairs, axis=0))


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(LongPromptsSettings, argv, command="python -m benchmarks.speed.long_prompts")
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "lstm-2x512")
        symbols = read_bundle(bundle).manifest.symbols
        with serving(bundle, "--precision", settings.precision, "--threads", "1") as server:
            print(f"{describe_machine()}; {settings.precision}")
            print(f"a prompt of {PROMPT_CHARS:,} characters on an idle server: {alone(server, symbols):.2f} s")
            run(server, symbols, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
