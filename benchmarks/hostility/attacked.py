"""A server, its attackers and what it holds, each in a process of its own."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import grpc

from benchmarks.support.machine import resident_megabytes
from benchmarks.support.served import address_of, serve
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc

__all__ = ["KEPT_MEGABYTES", "Attackers", "Level", "Target", "free_rows", "null_server", "quiet", "server", "settled"]

# gRPC starts one thread more when all of its pool (event_engine) are busy, and ends it when it was idle for 20 s: after
# 18 attacks on a loaded machine there were 6 instead of 4, and 4 again 20 s later.
SETTLE_SECONDS = 60.0
QUIET_SECONDS = 120.0
CONNECTION_CALLS = 32
LONG = pb.GenerateRequest(max_chars=1_000_000)
# Allocators keep something of every peak, which does not add up.
KEPT_MEGABYTES = 32


@dataclass
class Target:
    """A process that listens; its log is read as it comes, lest it waits for that."""

    process: "subprocess.Popen[str]"
    address: str
    lines: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Tracebacks and errors in the log."""
        return sum(bool(re.match(r"Traceback| *\w*Error:", line) or " ERROR " in line) for line in self.lines)


@dataclass(frozen=True)
class Level:
    """What a process holds.

    Attributes:
        names: of its threads, with how many have each.
    """

    files: int
    names: Counter[str]
    megabytes: float

    @classmethod
    def of(cls, pid: int) -> "Level":
        files = len([*Path(f"/proc/{pid}/fd").iterdir()])
        return cls(files, _thread_names(pid), resident_megabytes(pid))

    @property
    def threads(self) -> int:
        return self.names.total()

    def within(self, other: "Level") -> bool:
        """Whether it is no more than the other."""
        fewer = self.files <= other.files and self.threads <= other.threads
        return fewer and self.megabytes <= other.megabytes + KEPT_MEGABYTES


def _thread_names(pid: int) -> Counter[str]:
    names = Counter[str]()
    for name in Path(f"/proc/{pid}/task").glob("*/comm"):
        with suppress(OSError):  # it has just ended
            names[name.read_text().strip()] += 1
    return names


@dataclass
class Attackers:
    """The process of an attack; what it prints is described there."""

    process: "subprocess.Popen[str]"

    @classmethod
    @contextmanager
    def of(cls, attack: str, address: str, core: int) -> "Iterator[Attackers]":
        command = [*_on(core), "benchmarks.hostility.attacks", attack, address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                attackers = cls(process)
                attackers._wait_for("ready")
                yield attackers
            finally:
                process.kill()

    def begin(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_until_in_place(self) -> None:
        self._wait_for("in place")

    def end(self) -> tuple[dict[str, int], float]:
        """What was done, and the slowest refusal in seconds."""
        out, _ = self.process.communicate()
        result = json.loads(out.splitlines()[-1])
        return result["done"], result["slowest_refusal"]

    def _wait_for(self, word: str) -> None:
        assert self.process.stdout
        if self.process.stdout.readline().strip() != word:
            raise SystemExit(f"the attackers are not {word}")


@contextmanager
def server(models: Path, flags: Sequence[str]) -> Iterator[Target]:
    with _target(serve(models, 0, *flags)) as target:
        yield target


@contextmanager
def null_server(core: int, *flags: str) -> Iterator[Target]:
    command = [*_on(core), "benchmarks.hostility.null_server", *flags]
    with _target(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as target:
        yield target


def _on(core: int) -> list[str]:
    """A Python program, all threads of which run on one processor."""
    return ["taskset", "-c", str(core), sys.executable, "-m"]


@contextmanager
def _target(process: "subprocess.Popen[str]") -> Iterator[Target]:
    with process:
        try:
            target = Target(process, address_of(process))
            assert process.stderr
            threading.Thread(target=target.lines.extend, args=(process.stderr,), daemon=True).start()
            yield target
        finally:
            process.kill()


def settled(pid: int, before: Level) -> Level:
    """The level once it is within the one before, or after a minute."""
    end = time.monotonic() + SETTLE_SECONDS
    while not (level := Level.of(pid)).within(before) and time.monotonic() < end:
        time.sleep(0.5)
    return level


def quiet(pid: int) -> bool:
    """Waits until the process does next to nothing."""
    end, used = time.monotonic() + QUIET_SECONDS, _cpu_ticks(pid)
    while time.monotonic() < end:
        time.sleep(1)
        before, used = used, _cpu_ticks(pid)
        if used - before <= 5:
            return True
    return False


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def free_rows(address: str, rows: int, seconds: float = 30.0) -> int:
    """Opens so many texts at a time; returns how many have a first character, at best within so many seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        async with AsyncExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(address, options) for _ in range(0, rows, CONNECTION_CALLS)]
            stubs = [pb_grpc.TextGenerationStub(await stack.enter_async_context(channel)) for channel in channels]
            calls = [stub.Generate(LONG, timeout=left) for stub, _ in zip(cycle(stubs), range(rows), strict=False)]
            begun = sum(await asyncio.gather(*map(_begins, calls)))
        if begun == rows:
            break
    return begun


async def _begins(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]") -> bool:
    with suppress(grpc.aio.AioRpcError):
        return bool(await call.read())
    return False
