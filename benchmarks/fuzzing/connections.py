"""Send a surface's inputs over real connections, beside another client: nothing breaks, stays, or is seen."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from benchmarks.fuzzing.requests import ALLOWED, KEY, LIMITS, MODELS
from benchmarks.fuzzing.surface import Fault, Surface
from benchmarks.support.machine import settled_level
from benchmarks.support.servers import flags_of as server_flags
from protos import charstream_pb2 as pb

__all__ = ["Target", "flags_of", "send_inputs"]

AT_ONCE = 16
CALLS = 25  # over one connection, then comes another
CALL_SECONDS = 60.0
WARM_UP = 300
SETTLE_SECONDS = 20.0
CANARY = "the other one says: qzx-canary-xzq"
HIDDEN = (CANARY.encode(), KEY, b"Traceback", b'File "', os.getcwd().encode())

Channel = grpc.aio.Channel


@dataclass(frozen=True)
class Target:
    """A server that was started with `flags_of`. `log` returns everything that it has written."""

    address: str
    pid: int
    log: Callable[[], str]


def flags_of(keys: Path) -> list[str]:
    """Return the flags of a server with small limits that knows the fuzzer's key; write the file of keys."""
    keys.touch(0o600)
    keys.write_bytes(KEY + b"\n")
    return server_flags(**LIMITS, resume_keys=keys, precision="fp32", threads=1)


def send_inputs(surface: Surface, target: Target, inputs: Sequence[bytes]) -> Counter[str]:
    """Send all inputs; return how often each status came.

    Raises:
        Fault: its last argument is the input, if one input led to it.
    """
    warm = min(WARM_UP, len(inputs) // 2)
    statuses = asyncio.run(_send_all(surface, target, inputs[:warm]))
    before = settled_level(target.pid, None, SETTLE_SECONDS)
    statuses += asyncio.run(_send_all(surface, target, inputs[warm:]))
    if growth := settled_level(target.pid, before, SETTLE_SECONDS).growth(before):
        raise Fault(f"the server holds more than after warm-up: {'; '.join(growth)}")
    for words in ("Traceback", "internal error"):
        if words in target.log():
            raise Fault(f"the server's log has {words!r}:\n{target.log()[-4000:]}")
    return statuses


async def _send_all(surface: Surface, target: Target, inputs: Sequence[bytes]) -> Counter[str]:
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
    """Send inputs until there are none left."""
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
    """Return the status, and everything that came: messages, details and trailers."""
    make: Any = channel.unary_unary if method.startswith(MODELS) else channel.unary_stream
    call = make(method)(request, timeout=CALL_SECONDS)
    try:
        messages = [await call] if method.startswith(MODELS) else [message async for message in call]
        return "OK", b"".join(messages)
    except grpc.aio.AioRpcError as error:
        trailers = [str(pair).encode() for pair in error.trailing_metadata()]
        return error.code().name, b"\n".join([(error.details() or "").encode(), *trailers])


async def _bystander(target: Target, over: asyncio.Event) -> None:
    """Ask for somebody else's text again and again: it must come, and always be the same."""
    request = pb.GenerateRequest(prompt=CANARY, max_chars=16, seed=7, echo=True, stop=[CANARY]).SerializeToString()
    texts = set()
    while not over.is_set():
        async with _channel(target) as channel:
            call: Any = channel.unary_stream("/charstream.v1.TextGeneration/Generate")
            messages = call(request, timeout=CALL_SECONDS)
            texts.add("".join([pb.GenerateResponse.FromString(message).text async for message in messages]))
    if len(texts) != 1:
        raise Fault(f"another client's text changed: {texts}")


def _channel(target: Target) -> Channel:
    """Open a connection that nobody else has."""
    return grpc.aio.insecure_channel(target.address, options=[("grpc.use_local_subchannel_pool", 1)])
