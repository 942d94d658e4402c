"""Begin many sequences of a step model, go on with some at random, and with some that a full store gave up.

    python -m benchmarks.doors.sequences [--bundle FOLDER]

Each continued step is compared with one whose state the caller sends (bit for bit), and timed beside one that needs no
sequence, in turns. Exit code 0: all steps were right, and what was evicted said so.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pydantic import Field

from benchmarks.support.machine import describe_machine, resident_megabytes
from benchmarks.support.servers import ServerProcess, given_or_untrained, serving
from bundle.manifest import Manifest
from bundle.read import read_manifest
from charstream.settings import Settings, parse
from protos import inference_pb2 as oip
from protos import inference_pb2_grpc as oip_grpc

AT_A_TIME = 64
# The store has room for this many times the sequences: so as many are evicted as are begun beyond it.
ROOM = 1.02
FLOAT_BYTES = 4


class SequencesSettings(Settings):
    """Hold many sequences of a step model."""

    bundle: Path | None = Field(None, description="the bundle to serve (default: an untrained LSTM 2x512)")
    sequences: int = Field(100_000, ge=100, description="sequences that are held")
    continued: int = Field(1000, ge=1, description="those that go on, at random")


class Steps:
    """Single steps of one model."""

    def __init__(self, stub: Any, manifest: Manifest) -> None:
        self._stub, self._model = stub, f"{manifest.name}.step"
        self._state, self._hidden = manifest.model.state_names, manifest.model.hidden

    async def step(self, token: int, state: Sequence[bytes] = (), **parameters: Any) -> list[bytes]:
        """Return the raw outputs of a step."""
        request = oip.ModelInferRequest(model_name=self._model)
        request.inputs.add(name="token", datatype="INT64", shape=[1])
        request.raw_input_contents.append(np.int64(token).tobytes())
        for name, values in zip(self._state, state, strict=False):
            request.inputs.add(name=name, datatype="FP32", shape=[1, self._hidden])
            request.raw_input_contents.append(values)
        for name, value in parameters.items():
            choice = "bool_param" if isinstance(value, bool) else "int64_param"
            request.parameters[name].CopyFrom(oip.InferParameter(**{choice: value}))
        return list((await self._stub.ModelInfer(request)).raw_output_contents)


@asynccontextmanager
async def open_steps(address: str, manifest: Manifest) -> Any:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Steps(oip_grpc.GRPCInferenceServiceStub(channel), manifest)  # type: ignore[no-untyped-call]


async def begin_all(steps: Steps, numbers: Sequence[int], vocab: int) -> float:
    """Begin the sequences; return the seconds."""
    waiting, begin = iter(numbers), time.monotonic()

    async def work() -> None:
        for number in waiting:
            await steps.step(number % vocab, sequence_id=number, sequence_start=True)

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return time.monotonic() - begin


async def go_on(steps: Steps, numbers: Sequence[int], vocab: int) -> tuple[int, list[float], list[float]]:
    """Go on with each sequence; return how many were wrong, and the seconds of these steps and of others beside."""
    wrong, held, fresh = 0, list[float](), list[float]()
    for number in numbers:
        token = random.randrange(vocab)
        _, *state = await steps.step(number % vocab)
        expected, *_ = await steps.step(token, state)
        begin = time.perf_counter()
        found = await steps.step(token, sequence_id=number)
        middle = time.perf_counter()
        await steps.step(token)
        held.append(middle - begin)
        fresh.append(time.perf_counter() - middle)
        wrong += found[0] != expected
    return wrong, held, fresh


async def ask_evicted(steps: Steps, numbers: Sequence[int]) -> int:
    """Return how many of the sequences do not say that they were evicted."""
    silent = 0
    for number in numbers:
        try:
            await steps.step(0, sequence_id=number)
        except grpc.aio.AioRpcError as error:
            says = error.code() is grpc.StatusCode.NOT_FOUND and "was evicted" in str(error.details())
            silent += not says
        else:
            silent += 1
    return silent


async def measure(server: ServerProcess, manifest: Manifest, settings: SequencesSettings, room: int) -> bool:
    vocab, count = len(manifest.symbols), settings.sequences
    async with open_steps(server.address, manifest) as steps:
        await steps.step(0)
        before = resident_megabytes(server.pid)
        seconds = await begin_all(steps, range(1, count + 1), vocab)
        after = resident_megabytes(server.pid)
        print(
            f"{count:,} sequences begun, {count / seconds:,.0f} a second; {before:.0f} MB before, {after:.0f} MB after"
        )
        chosen = random.Random(0).sample(range(1, count + 1), settings.continued)
        wrong, held, fresh = await go_on(steps, chosen, vocab)
        medians = [1000 * statistics.median(values) for values in (held, fresh)]
        print(
            f"{len(chosen):,} went on at random: {wrong} wrong; median {medians[0]:.2f} ms, fresh {medians[1]:.2f} ms"
        )
        more = room - count + count // 10
        await begin_all(steps, range(count + 1, count + 1 + more), vocab)
        gone = [number for number in range(1, count // 10 + 1) if number not in set(chosen)][: settings.continued]
        silent = await ask_evicted(steps, gone)
        print(f"{more:,} more begun: of {len(gone):,} that were evicted {silent} do not say so; ", end="")
        print(f"{resident_megabytes(server.pid):.0f} MB", flush=True)
    return not wrong and not silent


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(SequencesSettings, argv, command="python -m benchmarks.doors.sequences")
    with given_or_untrained(settings.bundle) as bundle:
        manifest, _ = read_manifest(bundle)
        row = len(manifest.model.state_names) * manifest.model.hidden * FLOAT_BYTES
        room = int(settings.sequences * ROOM)
        flags = ("--sequence-memory", f"{(room * row + row // 2) / 1e6:.6f}", "--sequence-idle", "86400")
        print(describe_machine(), flush=True)
        with serving(bundle, "--no-log-calls", *flags) as server:
            right = asyncio.run(measure(server, manifest, settings, room))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
