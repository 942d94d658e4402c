"""Hostile clients, one kind after another: other people's texts are whole, and nothing of an attack remains.

How much is kept at which size of attack, `python -m benchmarks.hostility` says.
"""

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from benchmarks.hostility.attacks import (
    absurd_frames,
    cancels,
    endless_headers,
    garbage_bytes,
    half_open,
    overload,
    stalled_readers,
)
from benchmarks.hostility.frames import ABSURD, OPENING
from benchmarks.hostility.targets import free_rows
from benchmarks.support.background import Tally, Work
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess, ready, start_server, stop

ROWS, PATIENCE = 64, 60
HANDSHAKE = "3"  # seconds; with one of them a busy machine closed connections of honest callers: UNAVAILABLE
FLAGS = (
    *("--precision", "fp32", "--max-rows", str(ROWS), "--max-waiting", "0", "--stream-buffer", "256"),
    *("--handshake-timeout", HANDSHAKE, "--connection-streams", str(ROWS), "--max-header-bytes", "4096"),
)
ATTACKS: dict[str, Work] = {
    "cancelled calls": cancels,
    "readers that stop": partial(stalled_readers, readers=20),
    "garbage": partial(garbage_bytes, connections=20),
    "absurd frames": partial(absurd_frames, connections=len(ABSURD)),
    "endless headers": partial(endless_headers, connections=8),
    "half-open connections": partial(half_open, connections=100),
    "more readers than rows": partial(overload, readers=2 * ROWS),
}
REFUSED = {"more readers than rows", "endless headers"}
REQUEST = pb.GenerateRequest(prompt="To be, ", seed=7, max_chars=3000)


@pytest.fixture(scope="module")
def victim(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, *FLAGS)
    yield ready(process)
    stop(process)


@pytest.fixture(scope="module")
def quiet_text(victim: ServerProcess) -> str:
    """What REQUEST comes to when nobody attacks."""
    return asyncio.run(text_of(victim.address))


async def text_of(address: str) -> str:
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return await rest_of(pb_grpc.TextGenerationStub(channel).Generate(REQUEST))


async def rest_of(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]", text: str = "") -> str:
    while response := await call.read():
        text += response.text
    return text


async def texts_beside(name: str, address: str, tally: Tally) -> list[str]:
    """A text that began before the attack, and one during it unless all rows are taken."""
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = pb_grpc.TextGenerationStub(channel).Generate(REQUEST)
        first = await call.read()
        attack = asyncio.create_task(ATTACKS[name](address, tally))
        await tally.in_place.wait()
        texts = [] if name == "more readers than rows" else [await text_of(address)]
        while name in REFUSED and "RESOURCE_EXHAUSTED" not in tally.done:
            await asyncio.sleep(0.05)
        assert not attack.done()
        attack.cancel()
        await asyncio.wait([attack])
        return [await rest_of(call, first.text), *texts]


def open_files(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


async def until_files_are(server: ServerProcess, number: int) -> None:
    while open_files(server) > number:
        await asyncio.sleep(0.1)


async def until_closed(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


@pytest.mark.parametrize("name", ATTACKS)
async def test_texts_are_whole_and_nothing_remains(victim: ServerProcess, quiet_text: str, name: str) -> None:
    tally, files = Tally(), open_files(victim)
    async with asyncio.timeout(PATIENCE):
        texts = await texts_beside(name, victim.address, tally)
    gc.collect()  # an error's traceback may hold a call, and that a connection
    assert {*texts} == {quiet_text}
    assert not {"INTERNAL", "UNKNOWN", "UNAVAILABLE"} & {*tally.done}
    assert await free_rows(victim.address, ROWS, PATIENCE) == ROWS
    async with asyncio.timeout(PATIENCE):
        await until_files_are(victim, files)
    assert victim.process.poll() is None
    assert "Traceback" not in victim.log


@pytest.mark.parametrize("first", [b"", OPENING[:10], OPENING[:24], OPENING[:28]])
async def test_a_connection_that_is_never_made_is_closed(victim: ServerProcess, first: bytes) -> None:
    """After --handshake-timeout."""
    host, _, port = victim.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first)
    async with asyncio.timeout(PATIENCE):
        await until_closed(reader)
    writer.close()


async def test_beyond_max_connections_they_are_closed_until_others_are(bundles: Path) -> None:
    server = ready(start_server(bundles, "--precision", "fp32", "--max-connections", "8"))
    host, _, port = server.address.rpartition(":")
    try:
        async with asyncio.timeout(PATIENCE):
            held = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
            closed = [asyncio.create_task(until_closed(reader)) for reader, _ in held]
            while sum(task.done() for task in closed) < 12:
                await asyncio.sleep(0.05)
            assert sum(task.done() for task in closed) == 12
            for _, writer in held:
                writer.close()
            await asyncio.gather(*closed)
            assert await free_rows(server.address, 1) == 1
    finally:
        stop(server)
