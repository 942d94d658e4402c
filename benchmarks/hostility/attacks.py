"""The seven attacks on a server, each a coroutine that goes on until it is cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from benchmarks.hostility.frames import ABSURD, FIELDS, PREFACE, Blocks, endless_fields, garbage, message, resets
from benchmarks.support.background import Tally, Work
from benchmarks.support.load import open_stub, open_stubs
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["ATTACKS"]

LONG = pb.GenerateRequest(max_chars=1_000_000, seed=1)
NO_RETRIES = [("grpc.enable_retries", 0)]
SMALL_WINDOW = [*NO_RETRIES, ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
AGAIN_SECONDS = 0.1  # before a connection that was closed is made again
INSIST_SECONDS = 0.5  # before a refused call is made again: half of what RetryInfo asks for
# Together 50 connections send what a line of 100 Mbit/s carries.
BYTES_A_SECOND = 12_500_000 / 50
WORKERS = 50
WORKER_SECONDS = 0.1  # between two calls of one worker


async def cancels(address: str, tally: Tally) -> None:
    """Give calls up: at once, or with their first message; and ten at once in one packet."""
    async with open_stubs(address, 4, NO_RETRIES) as stubs:
        workers = [_cancel(stub, tally, read=n % 2) for n, stub in enumerate(islice(cycle(stubs), WORKERS))]
        await asyncio.gather(*workers, *(_reset(address, tally) for _ in range(WORKERS // 10)))


async def stalled_readers(address: str, tally: Tally, readers: int = 200) -> None:
    """Stop reading: half by a window of nothing, half by gRPC's own window, after their first message."""
    async with open_stubs(address, 4, SMALL_WINDOW) as stubs:
        own = [_read_one(stub, tally) for stub in islice(cycle(stubs), readers // 2)]
        raw = [_take_nothing(address, tally) for _ in range(readers - len(own))]
        await asyncio.gather(*own, *raw, _wait_for(tally, "readers", readers))


async def garbage_bytes(address: str, tally: Tally, connections: int = 50) -> None:
    """Send random bytes."""
    await _send_all(address, [garbage] * connections, tally)


async def absurd_frames(address: str, tally: Tally, connections: int = 50) -> None:
    """Send frames that HTTP/2 allows or forbids, and nobody needs."""
    await _send_all(address, [*islice(cycle(ABSURD.values()), connections)], tally)


async def endless_headers(address: str, tally: Tally, connections: int = 50) -> None:
    """Send headers without end, and calls whose headers are too large."""
    large = [(f"x-{n}", "a" * 1000) for n in range(100)]
    async with open_stub(address, options=NO_RETRIES) as stub:
        await asyncio.gather(
            _send_all(address, [endless_fields] * connections, tally), _call(stub, tally, AGAIN_SECONDS, large)
        )


async def half_open(address: str, tally: Tally, connections: int = 1000) -> None:
    """Hold connections that say nothing, or half of what comes first; make them again when the server closes them."""
    firsts = cycle([b"", PREFACE[:10], PREFACE, PREFACE + b"\0\0\6"])
    holding = [_hold(address, first, tally) for first in islice(firsts, connections)]
    await asyncio.gather(*holding, _wait_for(tally, "connections", connections))


async def overload(address: str, tally: Tally, readers: int = 32) -> None:
    """Want text all the time, and ask again soon after a refusal."""
    async with open_stub(address, options=NO_RETRIES) as stub:
        await asyncio.gather(*(_call(stub, tally, INSIST_SECONDS) for _ in range(readers)))


ATTACKS: dict[str, Work] = {
    "cancels": cancels,
    "stalled": stalled_readers,
    "garbage": garbage_bytes,
    "frames": absurd_frames,
    "headers": endless_headers,
    "half-open": half_open,
    "overload": overload,
}


async def _cancel(stub: pb_grpc.TextGenerationStub, tally: Tally, *, read: int) -> None:
    while True:
        answers = stub.Generate(LONG)
        if read:
            await _has_message(answers.read(), tally)
        answers.cancel()
        _count(tally, "calls")
        await asyncio.sleep(WORKER_SECONDS)


async def _reset(address: str, tally: Tally) -> None:
    blocks = resets(LONG, 10)
    while True:
        async with _connection(address) as (_, writer):
            writer.write(blocks)
            await asyncio.sleep(WORKER_SECONDS)
            _count(tally, "calls", 10)


async def _read_one(stub: pb_grpc.TextGenerationStub, tally: Tally) -> None:
    while True:
        answers = stub.Generate(LONG)
        if await _has_message(answers.read(), tally):
            tally.done["readers"] += 1
            await answers.code()  # never read again, it comes when the server gives up
            tally.done["closed"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _call(
    stub: pb_grpc.TextGenerationStub, tally: Tally, pause: float, metadata: Sequence[tuple[str, str]] = ()
) -> None:
    """Make calls one after the other, and read each to its end."""
    while True:
        answers = stub.Generate(LONG, metadata=metadata)
        _count(tally, "calls")
        while await _has_message(answers.read(), tally):
            pass
        await asyncio.sleep(pause)


async def _has_message(reading: Awaitable[Any], tally: Tally) -> bool:
    """Return whether a message came; count the status of an error."""
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
    """Open one connection after another, and send each as much as the server takes."""
    while True:
        async with _connection(address) as (reader, writer):
            _count(tally, "connections")
            closed = asyncio.create_task(_wait_until_closed(reader))
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


async def _hold(address: str, first: bytes, tally: Tally) -> None:
    """Send the first bytes and then nothing."""
    while True:
        async with _connection(address) as (reader, writer):
            writer.write(first)
            tally.done["connections"] += 1
            await _wait_until_closed(reader)
            tally.done["closed"] += 1
        await asyncio.sleep(AGAIN_SECONDS)


async def _take_nothing(address: str, tally: Tally) -> None:
    """Read with a window of nothing, and answer settings and pings as a client should."""
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


async def _wait_until_closed(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(1 << 16):
            pass


@asynccontextmanager
async def _connection(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection; that the server closes it is no error."""
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def _wait_for(tally: Tally, what: str, number: int) -> None:
    while tally.done[what] < number:
        await asyncio.sleep(0.02)
    tally.in_place.set()


def _count(tally: Tally, what: str, times: int = 1) -> None:
    tally.done[what] += times
    tally.in_place.set()
