"""Compare texts of the same seeds: requests alone, one after the other, and again at random among 64 other streams.

    python -m benchmarks.correctness.determinism [--bundle FOLDER]

Each precision is compared. Exit code 0: no text differs.
"""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from benchmarks.support.load import open_stub
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import given_or_untrained, serving
from bundle.read import read_bundle
from charstream.settings import Settings, parse
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["compare", "random_request"]

OTHERS, AT_A_TIME = 64, 24


class DeterminismSettings(Settings):
    """Compare the texts of requests alone and under load."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    requests: int = Field(2000, ge=1, description="requests, each made twice")


def random_request(seed: int, symbols: str) -> pb.GenerateRequest:
    """Return a request with no, some or thousands of characters of prompt, with or without limits and stop strings."""
    rng = random.Random(seed)
    length = rng.choice([0, 0, rng.randint(1, 31), rng.randint(32, 400), rng.randint(32, 400), 3000 * (seed % 25 == 0)])
    request = pb.GenerateRequest(
        prompt="".join(rng.choices(symbols, k=length)),
        max_chars=rng.choice([1, rng.randint(2, 60), rng.randint(60, 300)]),
        seed=rng.getrandbits(64),
        sampling=pb.Sampling(temperature=rng.choice([0, 0.5, 0.8, 1, 1.5])),
        stop=rng.choice([[], [], ["the", "\n\n"]]),
    )
    if rng.random() < 0.3:
        request.sampling.top_k = rng.randint(1, 40)
    if rng.random() < 0.2:
        request.sampling.top_p = rng.uniform(0.1, 1)
    if rng.random() < 0.1:
        request.sampling.min_p = rng.uniform(0, 0.3)
    if rng.random() < 0.2:
        request.chunking.max_chars = rng.randint(1, 9)
    return request


class Comparison(NamedTuple):
    """The results of the same requests alone and among others, with the seconds that each took."""

    characters: int
    alone: float
    among_others: float
    different: int

    def __str__(self) -> str:
        return (
            f"{self.characters:,} characters; alone {self.alone:.0f} s, among {OTHERS} others "
            f"{self.among_others:.0f} s; {self.different} texts differ"
        )


def compare(address: str, requests: Sequence[pb.GenerateRequest]) -> Comparison:
    """Make each request alone, and again among others."""
    begin = time.monotonic()
    expected = asyncio.run(read_alone(address, requests))
    middle = time.monotonic()
    found = asyncio.run(read_among_others(address, requests))
    different = sum(a != b for a, b in zip(expected, found, strict=True))
    return Comparison(sum(map(len, expected)), middle - begin, time.monotonic() - middle, different)


async def text_of(stub: pb_grpc.TextGenerationStub, request: pb.GenerateRequest) -> str:
    return "".join([response.text async for response in stub.Generate(request)])


async def read_alone(address: str, requests: Sequence[pb.GenerateRequest]) -> list[str]:
    async with open_stub(address) as stub:
        return [await text_of(stub, request) for request in requests]


async def read_among_others(address: str, requests: Sequence[pb.GenerateRequest]) -> list[str]:
    """Make the requests in random order, 24 at a time, while 64 other texts run."""
    order = random.Random(0).sample(range(len(requests)), len(requests))
    texts = [""] * len(requests)
    waiting = iter(order)
    async with open_stub(address) as stub:

        async def other(seed: int) -> None:
            while True:
                await text_of(stub, pb.GenerateRequest(max_chars=random.randint(50, 2000), seed=seed))

        async def work() -> None:
            for number in waiting:
                texts[number] = await text_of(stub, requests[number])

        others = [asyncio.create_task(other(seed)) for seed in range(OTHERS)]
        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        for task in others:
            task.cancel()
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(DeterminismSettings, argv, command="python -m benchmarks.correctness.determinism")
    differences = 0
    with given_or_untrained(settings.bundle) as bundle:
        manifest = read_bundle(bundle).manifest
        requests = [random_request(seed, manifest.symbols) for seed in range(settings.requests)]
        print(describe_machine())
        for precision in manifest.precisions:
            with serving(bundle, "--precision", precision) as server:
                found = compare(server.address, requests)
            differences += found.different
            print(f"{precision}: {len(requests):,} requests, {found}", flush=True)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
