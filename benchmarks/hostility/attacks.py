"""Attacks on a server, each a coroutine that goes on until it is cancelled. As a program: one of them.

It says "ready", begins at a line from its standard input, says "in place", and ends with its input: then it prints what
it came to, as JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from benchmarks.hostility.hostile_bytes import (
    ABSURD,
    ENDLESS_HEADERS,
    FIELDS,
    PREFACE,
    Blocks,
    garbage,
    message,
    resets,
)
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["ATTACKS", "Attack", "Tally"]

LONG = pb.GenerateRequest(max_chars=1_000_000, seed=1)
AGAIN_SECONDS = 0.1  # before a connection that was closed is made again
INSIST_SECONDS = 0.5  # before a refused call is made again: half of what RetryInfo asks for
# What 50 connections send together: a line of 100 Mbit/s.
BYTES_A_SECOND = 12_500_000 / 50
WORKERS = 50
WORKER_SECONDS = 0.1  # between two calls of one worker


@dataclass
class Tally:
    """What an attack came to.

    Attributes:
        done: how often it did what it does, and what it was answered.
        slowest_refusal: seconds until RESOURCE_EXHAUSTED.
        in_place: it has its full size.
    """

    done: Counter[str] = field(default_factory=Counter)
    slowest_refusal: float = 0.0
    in_place: asyncio.Event = field(default_factory=asyncio.Event)


Attack = Callable[[str, Tally], Coroutine[Any, Any, None]]


async def cancels(address: str, tally: Tally) -> None:
    """Calls that are given up: at once, or with their first message; and ten at once in one packet."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(_stub(address)) for _ in range(4)]
        workers = [_cancel(stub, tally, read=n % 2) for n, stub in zip(range(WORKERS), cycle(stubs), strict=False)]
        await asyncio.gather(*workers, *(_reset(address, tally) for _ in range(WORKERS // 10)))


async def stalled(address: str, tally: Tally, readers: int = 200) -> None:
    """Readers that stop reading: half by a window of nothing, half of gRPC's own, after their first message."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(_stub(address, small_window=True)) for _ in range(4)]
        own = [_read_one(stub, tally) for _, stub in zip(range(readers // 2), cycle(stubs), strict=False)]
        raw = [_take_nothing(address, tally) for _ in range(readers - len(own))]
        await asyncio.gather(*own, *raw, _place(tally, "readers", readers))


async def garbage_bytes(address: str, tally: Tally, connections: int = 50) -> None:
    await _send_all(address, [garbage] * connections, tally)


async def absurd_frames(address: str, tally: Tally, connections: int = 50) -> None:
    await _send_all(address, [*islice(cycle(ABSURD.values()), connections)], tally)


async def endless_headers(address: str, tally: Tally, connections: int = 50) -> None:
    """Headers without end, and calls whose headers are too large."""
    blocks = [*islice(cycle(ENDLESS_HEADERS.values()), connections)]
    async with _stub(address) as stub:
        await asyncio.gather(_send_all(address, blocks, tally), _large_headers(stub, tally))


async def half_open(address: str, tally: Tally, connections: int = 1000) -> None:
    """Connections that say nothing, or half of what comes first; made again when the server closes them."""
    firsts = cycle([b"", PREFACE[:10], PREFACE, PREFACE + b"\0\0\6"])
    holding = [_hold(address, first, tally) for first in islice(firsts, connections)]
    await asyncio.gather(*holding, _place(tally, "connections", connections))


async def overload(address: str, tally: Tally, readers: int = 32) -> None:
    """Readers that want text all the time, and ask again soon after they are refused."""
    async with _stub(address) as stub:
        await asyncio.gather(*(_insist(stub, tally) for _ in range(readers)))


ATTACKS: dict[str, Attack] = {
    "cancels": cancels,
    "stalled": stalled,
    "garbage": garbage_bytes,
    "frames": absurd_frames,
    "headers": endless_headers,
    "half-open": half_open,
    "overload": overload,
}


@asynccontextmanager
async def _stub(address: str, *, small_window: bool = False) -> AsyncIterator[pb_grpc.TextGenerationStub]:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if small_window:
        options += [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield pb_grpc.TextGenerationStub(channel)


async def _cancel(stub: pb_grpc.TextGenerationStub, tally: Tally, *, read: int) -> None:
    while True:
        answers = stub.Generate(LONG)
        if read:
            await _outcome(answers.read(), tally)
        answers.cancel()
        _did(tally, "calls")
        await asyncio.sleep(WORKER_SECONDS)


async def _reset(address: str, tally: Tally) -> None:
    blocks = resets(LONG, 10)
    while True:
        async with _connection(address) as (_, writer):
            writer.write(blocks)
            await asyncio.sleep(WORKER_SECONDS)
            _did(tally, "calls", 10)


async def _read_one(stub: pb_grpc.TextGenerationStub, tally: Tally) -> None:
    while True:
        answers = stub.Generate(LONG)
        if await _outcome(answers.read(), tally):
            tally.done["readers"] += 1
            await answers.code()  # never read again, it comes when the server gives up
            tally.done["closed"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _insist(stub: pb_grpc.TextGenerationStub, tally: Tally) -> None:
    while True:
        answers = stub.Generate(LONG)
        _did(tally, "calls")
        while await _outcome(answers.read(), tally):
            pass
        await asyncio.sleep(INSIST_SECONDS)


async def _large_headers(stub: pb_grpc.TextGenerationStub, tally: Tally) -> None:
    while True:
        metadata = [(f"x-{n}", "a" * 1000) for n in range(100)]
        await _outcome(stub.Generate(LONG, metadata=metadata).read(), tally)
        await asyncio.sleep(AGAIN_SECONDS)


async def _outcome(reading: Awaitable[Any], tally: Tally) -> bool:
    """Returns whether there is a message; of an error, notes the status."""
    begin = time.monotonic()
    try:
        return bool(await reading)
    except grpc.aio.AioRpcError as error:
        tally.done[error.code().name] += 1
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            tally.slowest_refusal = max(tally.slowest_refusal, time.monotonic() - begin)
        return False


async def _send_all(address: str, blocks: list[Blocks], tally: Tally) -> None:
    await asyncio.gather(*(_send(address, each, tally) for each in blocks))


async def _send(address: str, blocks: Blocks, tally: Tally) -> None:
    """One connection after another, each as much as the server takes of it."""
    while True:
        async with _connection(address) as (reader, writer):
            _did(tally, "connections")
            closed = asyncio.create_task(_until_closed(reader))
            try:
                await _write(writer, blocks, closed, tally)
            finally:
                closed.cancel()
        await asyncio.sleep(AGAIN_SECONDS)


async def _write(writer: asyncio.StreamWriter, blocks: Blocks, closed: "asyncio.Task[None]", tally: Tally) -> None:
    begin, sent = time.monotonic(), 0
    for block in blocks():
        writer.write(block)
        await writer.drain()
        sent += len(block)
        tally.done["bytes"] += len(block)
        await asyncio.wait([closed], timeout=max(0.0, sent / BYTES_A_SECOND - (time.monotonic() - begin)))
        if closed.done():
            return
    await asyncio.wait([closed], timeout=1)


async def _hold(address: str, first: bytes, tally: Tally) -> None:
    """Says so much and then nothing."""
    while True:
        async with _connection(address) as (reader, writer):
            writer.write(first)
            tally.done["connections"] += 1
            await _until_closed(reader)
            tally.done["closed"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _take_nothing(address: str, tally: Tally) -> None:
    """A reader with a window of nothing, which answers settings and pings as it should."""
    while True:
        connection = H2Connection(H2Configuration(client_side=True))
        connection.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
        connection.initiate_connection()
        connection.send_headers(1, FIELDS)
        connection.send_data(1, message(LONG), end_stream=True)
        async with _connection(address) as (reader, writer):
            tally.done["readers"] += 1
            writer.write(connection.data_to_send())
            while data := await reader.read(1 << 16):
                connection.receive_data(data)
                writer.write(connection.data_to_send())
        tally.done["closed"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(1 << 16):
            pass


@asynccontextmanager
async def _connection(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection, until the server closes it at the latest."""
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def _place(tally: Tally, what: str, number: int) -> None:
    while tally.done[what] < number:
        await asyncio.sleep(0.02)
    tally.in_place.set()


def _did(tally: Tally, what: str, times: int = 1) -> None:
    tally.done[what] += times
    tally.in_place.set()


async def _run(attack: Attack, address: str) -> Tally:
    tally, ended = Tally(), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    attacking = asyncio.create_task(attack(address, tally))
    placed = asyncio.create_task(tally.in_place.wait())
    await asyncio.wait([attacking, placed], return_when=asyncio.FIRST_COMPLETED)
    print("in place", flush=True)
    await ended.wait()
    attacking.cancel()
    with suppress(asyncio.CancelledError):
        await attacking
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostility.attacks", description=__doc__)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("address", help="host:port")
    settings = parser.parse_args()
    print("ready", flush=True)
    sys.stdin.readline()
    tally = asyncio.run(_run(ATTACKS[settings.attack], settings.address))
    print(json.dumps({"done": tally.done, "slowest_refusal": tally.slowest_refusal}))


if __name__ == "__main__":
    main()
