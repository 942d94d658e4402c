"""Readers that load a server, from one asyncio client or several."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import fmean

import grpc
import numpy as np

from benchmarks.support.machine import process_tree, thread_seconds
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["Load", "bearer", "bottleneck", "clients_load", "grpc_load", "open_stub", "open_stubs", "percentiles"]

TEXT_CHARS = 2000
CLIENT_SECONDS = 4.0  # until a process of readers has begun
BUSY = 0.85  # share of a core from which on the others wait


@dataclass(frozen=True)
class Arrival:
    """A message at the client: when, how many characters, and seconds since the message before (or since the call)."""

    at: float
    chars: int
    seconds: float
    first: bool


@dataclass(frozen=True)
class CpuSeconds:
    """CPU seconds per second of a measurement.

    Attributes:
        engine: of the threads of all engines; `engines` counts them.
        loop: of the event loop's thread; `others`: of all other threads of the server.
        client: of this process.
    """

    engine: float = 0.0
    engines: int = 1
    loop: float = 0.0
    others: float = 0.0
    client: float = 0.0


@dataclass(frozen=True)
class Load:
    """The readers' figures of one measurement: characters and messages a second, and times in milliseconds."""

    chars_per_second: float
    messages_per_second: float
    first_char: list[float]
    gaps: list[float]
    cpu: CpuSeconds = field(default_factory=CpuSeconds)


async def grpc_load(
    address: str,
    pid: int,
    streams: int,
    seconds: float,
    *,
    text_chars: int = TEXT_CHARS,
    credentials: grpc.ChannelCredentials | None = None,
    token: str = "",
) -> Load:
    """Read with `streams` readers for some seconds; each begins a new text when its last one ends."""
    async with open_stub(address, credentials) as stub:
        before, own, begin = _seconds_by_process(pid), time.process_time(), time.perf_counter()
        end = begin + seconds
        # Arrivals are spread over a tenth of the time; what is counted lies after that.
        spread = seconds / 10
        metadata = bearer(token)
        readers = [_reader(stub, seed, text_chars, end, spread * seed / streams, metadata) for seed in range(streams)]
        arrivals = [arrival for reader in await asyncio.gather(*readers) for arrival in reader]
        cpu = _cpu(pid, before, time.process_time() - own, time.perf_counter() - begin)
    counted = [arrival for arrival in arrivals if end - seconds + spread <= arrival.at < end]
    return Load(
        chars_per_second=sum(arrival.chars for arrival in counted) / (seconds - spread),
        messages_per_second=len(counted) / (seconds - spread),
        first_char=[1e3 * arrival.seconds for arrival in arrivals if arrival.first],
        gaps=[1e3 * arrival.seconds for arrival in counted if not arrival.first],
        cpu=cpu,
    )


def clients_load(
    address: str, pid: int, streams: int, seconds: float, clients: int, text_chars: int = TEXT_CHARS
) -> list[Load]:
    """Run `grpc_load` in several processes at the same time, among which the readers are divided."""
    begin = time.time() + CLIENT_SECONDS
    shares = [streams * (number + 1) // clients - streams * number // clients for number in range(clients)]
    with ProcessPoolExecutor(clients, get_context("spawn")) as pool:
        found = [pool.submit(_client_load, begin, address, pid, each, seconds, text_chars) for each in shares if each]
        return [future.result() for future in found]


def _client_load(begin: float, address: str, pid: int, streams: int, seconds: float, text_chars: int) -> Load:
    time.sleep(max(0.0, begin - time.time()))
    return asyncio.run(grpc_load(address, pid, streams, seconds, text_chars=text_chars))


def bottleneck(cpus: Sequence[CpuSeconds]) -> str:
    """Describe who was busy, as one measurement's clients saw it, and for whom the others waited."""
    engine, loop, others = (fmean(getattr(cpu, name) for cpu in cpus) for name in ("engine", "loop", "others"))
    engine /= cpus[0].engines
    shares = {"engine's thread": engine, "event loop": loop, "busiest client": max(cpu.client for cpu in cpus)}
    name = max(shares, key=lambda name: shares[name])
    listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    verdict = f"the bottleneck is the {name}" if shares[name] > BUSY else "nobody is busy all the time"
    return f"CPU seconds a second: {listed}, others {others:.2f}; {verdict}"


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile; nan where there is no value."""
    middle, high = np.percentile(values, (50, 99)) if values else (np.nan, np.nan)
    return float(middle), float(high)


@asynccontextmanager
async def open_stub(
    address: str, credentials: grpc.ChannelCredentials | None = None, options: Sequence[tuple[str, int]] = ()
) -> AsyncIterator[pb_grpc.TextGenerationStub]:
    """Open a connection that nobody else has."""
    options = [("grpc.use_local_subchannel_pool", 1), *options]
    if credentials:
        channel = grpc.aio.secure_channel(address, credentials, options)
    else:
        channel = grpc.aio.insecure_channel(address, options)
    async with channel:
        yield pb_grpc.TextGenerationStub(channel)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def open_stubs(
    address: str, connections: int, options: Sequence[tuple[str, int]] = ()
) -> AsyncIterator[list[pb_grpc.TextGenerationStub]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_stub(address, options=options)) for _ in range(connections)]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


async def _reader(
    stub: pb_grpc.TextGenerationStub,
    seed: int,
    text_chars: int,
    end: float,
    wait: float,
    metadata: tuple[tuple[str, str], ...],
) -> list[Arrival]:
    arrivals: list[Arrival] = []
    await asyncio.sleep(wait)
    while (last := time.perf_counter()) < end:
        request = pb.GenerateRequest(seed=seed, max_chars=text_chars, sampling=pb.Sampling(temperature=0.8))
        call, first = stub.Generate(request, metadata=metadata), True
        async for response in call:
            now = time.perf_counter()
            arrivals.append(Arrival(now, len(response.text), now - last, first))
            last, first = now, False
            if now >= end:
                call.cancel()
                break
        seed += 1000
    return arrivals


def _seconds_by_process(pid: int) -> dict[int, dict[int, float]]:
    """Return the CPU seconds of each thread of a server and of its engine processes."""
    return {each: thread_seconds(each) for each in process_tree(pid)}


def _cpu(pid: int, before: dict[int, dict[int, float]], client: float, seconds: float) -> CpuSeconds:
    used = {
        process: {thread: total - before.get(process, {}).get(thread, 0.0) for thread, total in threads.items()}
        for process, threads in _seconds_by_process(pid).items()
    }
    everything = sum(sum(threads.values()) for threads in used.values())
    loop = used[pid].pop(pid, 0.0)
    # An engine is the busiest thread of its process; without engine processes it is one of the server's.
    engines = [threads for process, threads in used.items() if process != pid] or [used[pid]]
    engine = sum(max(threads.values(), default=0.0) for threads in engines)
    others = max(0.0, everything - loop - engine)
    return CpuSeconds(engine / seconds, len(engines), loop / seconds, others / seconds, client / seconds)
