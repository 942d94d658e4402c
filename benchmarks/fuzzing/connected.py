"""A surface's inputs over real connections, beside another client: nothing breaks, stays, or is seen."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from benchmarks.fuzzing.requests import ALLOWED, KEY, LIMITS, MODELS
from benchmarks.fuzzing.surface import Fault, Surface
from benchmarks.support.machine import resident_megabytes
from protos import charstream_pb2 as pb

__all__ = ["Level", "Target", "connected", "flags_of"]

AT_ONCE = 16
# So many calls over one connection, then another.
CALLS = 25
CALL_SECONDS = 60.0
WARM_UP = 300
SETTLE_SECONDS, LOOK_SECONDS = 20.0, 0.5
# What malloc keeps of what was given back.
MEGABYTES = 32
CANARY = "the other one says: qzx-canary-xzq"
HIDDEN = (CANARY.encode(), KEY, b"Traceback", b'File "', os.getcwd().encode())

Channel = grpc.aio.Channel


@dataclass(frozen=True)
class Target:
    """A server that was started with `flags_of`. `log`: all that it has written."""

    address: str
    pid: int
    log: Callable[[], str]


@dataclass(frozen=True)
class Level:
    """What a process holds (Linux)."""

    megabytes: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Level":
        count = {what: sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir()) for what in ("fd", "task")}
        return cls(resident_megabytes(pid), count["fd"], count["task"])

    def within(self, other: "Level") -> bool:
        """Whether it is no more than the other, but for what malloc keeps."""
        more = self.megabytes - other.megabytes
        return self.files <= other.files and self.threads <= other.threads and more <= MEGABYTES


def flags_of(keys: Path) -> list[str]:
    """Of a server with small limits that knows the fuzzer's key; writes the file of keys."""
    keys.touch(0o600)
    keys.write_bytes(KEY + b"\n")
    limits = [text for name, value in LIMITS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*limits, "--resume-keys", str(keys), "--precision", "fp32", "--threads", "1"]


async def connected(surface: Surface, target: Target, inputs: Sequence[bytes]) -> Counter[str]:
    """How often each status came. Raises Fault, whose last argument is the input, if it is one input's."""
    warm = min(WARM_UP, len(inputs) // 2)
    statuses = await _sent(surface, target, inputs[:warm])
    level = await _settled(target, None)
    statuses += await _sent(surface, target, inputs[warm:])
    await _settled(target, level)
    for words in ("Traceback", "internal error"):
        if words in target.log():
            raise Fault(f"the server's log has {words!r}:\n{target.log()[-4000:]}")
    return statuses


async def _settled(target: Target, before: Level | None) -> Level:
    """What the server holds some time after its connections are gone: what it held before, if that is known."""
    end, level = time.monotonic() + SETTLE_SECONDS, Level.of(target.pid)
    while time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
        last, level = level, Level.of(target.pid)
        if level.within(before or last):
            return level
    raise Fault(f"the server held {before} after warm-up, and in the end {level}")


async def _sent(surface: Surface, target: Target, inputs: Sequence[bytes]) -> Counter[str]:
    statuses: Counter[str] = Counter()
    left, over = iter(inputs), asyncio.Event()
    bystander = asyncio.create_task(_bystander(target, over))
    try:
        async with asyncio.TaskGroup() as senders:
            for _ in range(AT_ONCE):
                senders.create_task(_send(surface, target, left, statuses))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        over.set()
        await bystander
    return statuses


async def _send(surface: Surface, target: Target, left: Iterator[bytes], statuses: "Counter[str]") -> None:
    """Takes inputs until there are none left."""
    while batch := list(islice(left, CALLS)):
        async with _channel(target) as channel:
            for data in batch:
                status, came = await _answer(channel, surface.method, surface.request(data))
                _check(status, came, data)
                statuses[status] += 1


def _check(status: str, came: bytes, data: bytes) -> None:
    if status not in ALLOWED or b"metadata size" in came:
        raise Fault(f"{status}: {came[:500]!r}", data)
    for hidden in HIDDEN:
        if hidden in came and hidden not in data:
            raise Fault(f"an answer has {hidden!r}: {came[:500]!r}", data)


async def _answer(channel: Channel, method: str, request: bytes) -> tuple[str, bytes]:
    """The status, and all that came: messages, details and trailers."""
    make: Any = channel.unary_unary if method.startswith(MODELS) else channel.unary_stream
    call = make(method)(request, timeout=CALL_SECONDS)
    try:
        messages = [await call] if method.startswith(MODELS) else [message async for message in call]
        return "OK", b"".join(messages)
    except grpc.aio.AioRpcError as error:
        trailers = [str(pair).encode() for pair in error.trailing_metadata()]
        return error.code().name, b"\n".join([(error.details() or "").encode(), *trailers])


async def _bystander(target: Target, over: asyncio.Event) -> None:
    """Somebody else's text, again and again: it must come, and always be the same."""
    request = pb.GenerateRequest(prompt=CANARY, max_chars=16, seed=7, echo=True, stop=[CANARY]).SerializeToString()
    texts = set()
    while not over.is_set():
        async with _channel(target) as channel:
            call = channel.unary_stream("/charstream.v1.TextGeneration/Generate")(request, timeout=CALL_SECONDS)
            texts.add("".join([pb.GenerateResponse.FromString(message).text async for message in call]))
    if len(texts) != 1:
        raise Fault(f"another client's text changed: {texts}")


def _channel(target: Target) -> Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target.address, options=[("grpc.use_local_subchannel_pool", 1)])
