"""Certificates, tokens and keys are replaced while a server streams."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.authority import Setup
from tests.server.service.test_generate import SMALL_WINDOWS

SECONDS = 60
STREAMS, CHANNELS, CHARS = 12, 4, 22_000
# Read while the files are replaced; what is left is more than connection and server hold.
SLOW_CHARS, PAUSE = 4_000, 0.05


class Guest:
    """A client with a connection of its own."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials, token: str) -> None:
        options = (*SMALL_WINDOWS, ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.aio.secure_channel(address, credentials, options)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._texts = rpc.TextGenerationStub(self.channel)  # type: ignore[no-untyped-call]

    def generate(self, **fields: Any) -> Any:
        return self._texts.Generate(pb.GenerateRequest(**fields), metadata=self.metadata)

    async def status(self, **fields: Any) -> tuple[grpc.StatusCode, str]:
        """How a short call ends."""
        try:
            async for _ in self.generate(max_chars=1, **fields):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""


async def paced(call: Any, hurry: asyncio.Event) -> str:
    """The text; until it shall hurry, slowly and not to its end."""
    text = ""
    while (message := await call.read()) is not grpc.aio.EOF:
        text += message.text
        if len(text) >= SLOW_CHARS:
            await hurry.wait()
        elif not hurry.is_set():
            await asyncio.sleep(PAUSE)
    return text


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not await condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.1)


def replace(old: Path, new: Path) -> None:
    """As a whole, in the way of tools that renew certificates."""
    copy = old.with_suffix(".new")
    copy.write_bytes(new.read_bytes())
    os.replace(copy, old)


async def test_files_are_replaced_under_streams(bundles: Path, tmp_path: Path) -> None:
    """Broken ones are ignored; whole ones count from the next handshake, call and resume token on."""
    old, new = Setup.create(tmp_path / "old"), Setup.create(tmp_path / "new")
    flags = ("--precision", "fp32", "--stream-buffer", "256", "--reader-timeout", "600")
    process = start_server(bundles, *flags, *old.flags)
    try:
        address = ready(process).address
        guests = [Guest(address, old.credentials, old.token) for _ in range(CHANNELS)]
        token = (await resume_token(guests[0])).resume_token
        hurry = asyncio.Event()
        calls = [guests[seed % CHANNELS].generate(max_chars=CHARS, seed=seed) for seed in range(STREAMS)]
        texts = [asyncio.create_task(paced(call, hurry)) for call in calls]

        await broken_files_are_ignored(process, old, new, token)
        await new_files_count(address, old, new, token, guests[0])

        hurry.set()
        disturbed = await asyncio.gather(*texts)
        guest = Guest(address, new.credentials, new.token)
        again = [paced(guest.generate(max_chars=CHARS, seed=seed), hurry) for seed in range(STREAMS)]
        assert disturbed == await asyncio.gather(*again)
        assert {len(text) for text in disturbed} == {CHARS}
        for one in (*guests, guest):
            await one.channel.close()
    finally:
        stop(process)


async def resume_token(guest: Guest) -> pb.Finish:
    call, finish = guest.generate(max_chars=5, seed=1, return_token=True), None
    while (message := await call.read()) is not grpc.aio.EOF:
        finish = message.finish
    assert finish
    return finish


async def broken_files_are_ignored(process: ServerProcess, old: Setup, new: Setup, token: bytes) -> None:
    """A key of another certificate, half a line, a short key: each is said once, and what was there stays."""
    good = {path: path.read_bytes() for path in (old.own.key, old.tokens, old.keys)}
    old.own.key.write_bytes(new.own.key.read_bytes())
    old.tokens.write_bytes(good[old.tokens][:20])
    old.keys.write_text("short")
    refusals = ("TLS: .*is not the key of", r"tokens: .*tokens, line 1", "keys of resume tokens: .*line 1")

    async def said() -> bool:
        guest = Guest(process.address, old.credentials, old.token)
        assert await guest.status(resume_token=token) == (grpc.StatusCode.OK, "")
        await guest.channel.close()
        return all(re.search(refusal, process.log) for refusal in refusals)

    await until(said, "a broken file is not in the log")
    for path, content in good.items():
        path.write_bytes(content)
    assert [len(re.findall(refusal, process.log)) for refusal in refusals] == [1, 1, 1]


async def new_files_count(address: str, old: Setup, new: Setup, token: bytes, before: Guest) -> None:
    """`before` has a connection from before, which stays."""
    for was, comes in (
        (old.own.cert, new.own.cert),
        (old.own.key, new.own.key),
        (old.client.ca, new.client.ca),
        (old.tokens, new.tokens),
        (old.keys, new.keys),
    ):
        replace(was, comes)

    async def status(credentials: grpc.ChannelCredentials, token: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
        guest = Guest(address, credentials, token)
        ended = await guest.status(**fields)
        await guest.channel.close()
        return ended

    async def counts() -> bool:
        code, details = await status(new.credentials, new.token, resume_token=token)
        return code is grpc.StatusCode.INVALID_ARGUMENT and "a key that this server does not know" in details

    await until(counts, "the new files do not count")
    assert (await status(new.credentials, new.token))[0] is grpc.StatusCode.OK
    assert (await status(new.credentials, old.token))[0] is grpc.StatusCode.UNAUTHENTICATED
    for credentials in (old.credentials, old.client.credentials(new.own.ca), new.client.credentials(old.own.ca)):
        assert (await status(credentials, new.token))[0] is grpc.StatusCode.UNAVAILABLE
    assert (await before.status())[0] is grpc.StatusCode.UNAUTHENTICATED
