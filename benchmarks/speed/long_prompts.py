"""Measure what long prompts do to others: 64 short streams, alone and with a prompt of 20,000 characters every second.

    python -m benchmarks.speed.long_prompts [--bundle FOLDER]

Both are measured in one run, alternating. The prompts are all different, so no prefix cache helps.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
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


class Measurement:
    """Short streams of one server, and the seconds that each long prompt waited for its first character."""

    def __init__(self, server: ServerProcess, symbols: str, seconds: float) -> None:
        self._server, self._symbols, self._seconds = server, symbols, seconds
        self._rng, self.waits = random.Random(0), list[float]()

    def on_idle_server(self) -> float:
        """Return the seconds to the first character of a long prompt."""

        async def call() -> float:
            async with open_stub(self._server.address) as stub:
                return await first_char_seconds(stub, self._prompt())

        return asyncio.run(call())

    def without_prompts(self) -> Load:
        return asyncio.run(self._short_streams())

    def with_prompts(self) -> Load:
        return asyncio.run(self._streams_and_prompts())

    async def _short_streams(self) -> Load:
        return await grpc_load(self._server.address, self._server.pid, STREAMS, self._seconds, text_chars=SHORT_CHARS)

    async def _streams_and_prompts(self) -> Load:
        async with open_stub(self._server.address) as stub:
            prompts: list[asyncio.Task[float]] = []

            async def send_prompts() -> None:
                while True:
                    prompts.append(asyncio.create_task(first_char_seconds(stub, self._prompt())))
                    await asyncio.sleep(PROMPT_EVERY)

            sending = asyncio.create_task(send_prompts())
            load = await self._short_streams()
            for task in (sending, *prompts):
                task.cancel()
            self.waits += await asyncio.gather(*prompts)
            return load

    def _prompt(self) -> str:
        return "".join(self._rng.choices(self._symbols, k=PROMPT_CHARS))


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
    with given_or_untrained(settings.bundle) as bundle:
        symbols = read_bundle(bundle).manifest.symbols
        with serving(bundle, "--precision", settings.precision, "--threads", "1") as server:
            measurement = Measurement(server, symbols, settings.seconds)
            print(f"{describe_machine()}; {settings.precision}")
            idle = measurement.on_idle_server()
            print(f"a prompt of {PROMPT_CHARS:,} characters on an idle server: {idle:.2f} s")
            cases = {"without": measurement.without_prompts, "with prompts": measurement.with_prompts}
            report(measure_in_turn(cases, settings.rounds), measurement.waits, settings.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
