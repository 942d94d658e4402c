"""The one client of all peers: asyncio readers, each of which begins a new text when its last one has ended.

It runs in an environment of its own that has every protocol's client library:

    python -m benchmarks.peers.readers load --protocol http --address 127.0.0.1:8000 ...

`check` waits until the server answers, and prints a greedy text for each message size; `load` prints what arrived. Both
print one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["TEMPERATURE", "Found", "Wanted"]

TEMPERATURE = 0.8
KEPT_TEXTS = 16
Read = Callable[["Wanted", int], AsyncGenerator[str, None]]


@dataclass(frozen=True)
class Wanted:
    """A text: its length, the characters of a message, and how it is drawn."""

    chars: int
    chunk: int
    temperature: float = TEMPERATURE


@dataclass
class Found:
    """The outcome of one measurement.

    Attributes:
        chars, messages: that arrived in the time that counts.
        first_ms: until the first character, of every text; gaps_ms: between messages, in the time that counts.
        wrong: texts of another length than was asked for, or with characters that the model does not have.
        failed: texts that ended with an error, with the error.
        client: CPU seconds of this process per second.
    """

    chars: int = 0
    messages: int = 0
    texts: int = 0
    wrong: int = 0
    first_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    client: float = 0.0


@asynccontextmanager
async def http(address: str, symbols: str) -> AsyncIterator[Read]:
    """A POST whose answer is the text, in parts."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read(wanted: Wanted, seed: int) -> AsyncGenerator[str, None]:
            body = {"chars": wanted.chars, "chunk": wanted.chunk, "temperature": wanted.temperature}
            async with session.post(f"http://{address}", json=body) as response:
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:200]}")
                async for data in response.content.iter_any():
                    yield data.decode()

        yield read


@asynccontextmanager
async def charstream(address: str, symbols: str) -> AsyncIterator[Read]:
    """Our own call; the bare gRPC server has it, too."""
    import grpc

    from protos import charstream_pb2 as pb
    from protos import charstream_pb2_grpc as pb_grpc

    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]

        async def read(wanted: Wanted, seed: int) -> AsyncGenerator[str, None]:
            request = pb.GenerateRequest(seed=seed, max_chars=wanted.chars)
            request.sampling.temperature = wanted.temperature
            if wanted.chunk:
                request.chunking.max_chars = wanted.chunk
            if wanted.chunk > 1:  # a message is to have all of them, though the server would rather send what it has
                request.chunking.max_delay.FromSeconds(1)
            async for response in stub.Generate(request):
                if response.text:
                    yield response.text

        yield read


@asynccontextmanager
async def triton_stateless(address: str, symbols: str) -> AsyncIterator[Read]:
    """A request for each message, with the state that the one before gave."""
    import numpy as np
    from tritonclient.grpc import InferInput
    from tritonclient.grpc.aio import InferenceServerClient

    def tensor(name: str, array: Any) -> InferInput:
        made = InferInput(name, array.shape, "FP32" if array.dtype == np.float32 else "INT64")
        made.set_data_from_numpy(array)
        return made

    async with InferenceServerClient(address) as client:

        async def read(wanted: Wanted, seed: int) -> AsyncGenerator[str, None]:
            settings = (await client.get_model_config("text")).config
            (dims,) = (each.dims for each in settings.input if each.name == "state")
            state, last = np.zeros((1, *dims), np.float32), START
            warmth = tensor("temperature", np.full((1, 1), wanted.temperature, np.float32))
            for _ in range(0, wanted.chars, wanted.chunk):
                numbers = tensor("numbers", np.array([[last, wanted.chunk]], np.int64))
                result = await client.infer("text", [numbers, warmth, tensor("state", state)])
                tokens, state = result.as_numpy("tokens")[0], result.as_numpy("state_next")
                last = int(tokens[-1])
                yield "".join(symbols[token] for token in tokens)

        yield read


@asynccontextmanager
async def triton_decoupled(address: str, symbols: str) -> AsyncIterator[Read]:
    """One request for a text, on a stream of its own; a response for each message."""
    import numpy as np
    from tritonclient.grpc import InferInput
    from tritonclient.grpc.aio import InferenceServerClient

    async with InferenceServerClient(address) as client:

        async def read(wanted: Wanted, seed: int) -> AsyncGenerator[str, None]:
            inputs = [InferInput("numbers", [1, 2], "INT64"), InferInput("temperature", [1, 1], "FP32")]
            inputs[0].set_data_from_numpy(np.array([[wanted.chars, wanted.chunk]], np.int64))
            inputs[1].set_data_from_numpy(np.full((1, 1), wanted.temperature, np.float32))
            left = wanted.chars

            async def requests() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": "text", "inputs": inputs}

            async for result, error in client.stream_infer(requests()):
                if error:
                    raise error
                tokens = result.as_numpy("tokens")
                if tokens is not None and tokens.size:
                    left -= tokens.size
                    yield "".join(symbols[token] for token in tokens[0])
                if left <= 0:
                    break

        yield read


START = 0
PROTOCOLS: dict[str, Callable[[str, str], AbstractAsyncContextManager[Read]]] = {
    "http": http,
    "charstream": charstream,
    "triton-stateless": triton_stateless,
    "triton-decoupled": triton_decoupled,
}


async def check(read: Read, chars: int, chunks: list[int], patience: float, server: int) -> dict[str, str]:
    """Return a greedy text for each message size; wait for the server until then, while its process is there."""
    end, texts = time.monotonic() + patience, {}
    for chunk in chunks:
        while str(chunk) not in texts:
            try:
                async with asyncio.timeout(max(1.0, min(20.0, end - time.monotonic()))):
                    texts[str(chunk)] = "".join([part async for part in read(Wanted(chars, chunk, 0.0), 0)])
            except Exception as error:
                if not is_running(server):
                    raise SystemExit("the server's process has ended") from error
                if time.monotonic() > end:
                    raise SystemExit(f"no answer within {patience:.0f} s: {type(error).__name__}: {error}") from error
                await asyncio.sleep(0.2)
    return texts


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def load(read: Read, wanted: Wanted, streams: int, settle: float, seconds: float, symbols: str) -> Found:
    """Read with `streams` readers; count for `seconds` after `settle`, in which the readers begin one after another."""
    found, allowed = Found(), set(symbols)
    begin = time.perf_counter()
    start, end = begin + settle, begin + settle + seconds

    async def reader(number: int) -> None:
        await asyncio.sleep(settle * number / streams)
        seed = number
        while time.perf_counter() < end:
            try:
                await one_text(seed)
            except Exception as error:
                found.failed.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.5)
            seed += 1000

    async def one_text(seed: int) -> None:
        last, parts = time.perf_counter(), list[str]()
        async with aclosing(read(wanted, seed)) as stream:
            async for part in stream:
                now = time.perf_counter()
                if not parts:
                    found.first_ms.append(1e3 * (now - last))
                elif start <= now < end:
                    found.gaps_ms.append(1e3 * (now - last))
                if start <= now < end:
                    found.chars += len(part)
                    found.messages += 1
                last = now
                parts.append(part)
        text = "".join(parts)
        found.texts += 1
        found.wrong += len(text) != wanted.chars or not allowed.issuperset(text)
        if len(found.samples) < KEPT_TEXTS and len(text) == wanted.chars:
            found.samples.append(text)

    async def clock() -> float:
        await asyncio.sleep(settle)
        before = time.process_time()
        await asyncio.sleep(end - time.perf_counter())
        return (time.process_time() - before) / seconds

    # Texts that have begun may end, so that nothing of them burdens the next measurement; but not for ever.
    readers = [asyncio.create_task(reader(number)) for number in range(streams)]
    found.client = await clock()
    _, late = await asyncio.wait(readers, timeout=max(15.0, 3 * seconds))
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return found


async def run(arguments: argparse.Namespace) -> Any:
    manifest = json.loads((arguments.bundle / "manifest.json").read_text("utf-8"))
    symbols = manifest["symbols"]
    global START
    START = symbols.index(manifest["start_text"])
    async with PROTOCOLS[arguments.protocol](arguments.address, symbols) as read:
        if arguments.what == "check":
            return await check(read, arguments.chars, arguments.chunks, arguments.patience, arguments.server)
        wanted = Wanted(arguments.chars, arguments.chunks[0])
        return asdict(await load(read, wanted, arguments.streams, arguments.settle, arguments.seconds, symbols))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("check", "load"))
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--chars", type=int, required=True)
    parser.add_argument("--chunks", type=int, nargs="+", required=True)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--settle", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--server", type=int, required=True, help="its process")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
