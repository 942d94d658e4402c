"""A server under attack: what its good streams keep, and what it holds afterwards.

Attackers run on one core, and hit either the server or a null server on that same core, in turns; good streams are read
from the server by this process. The ratio compares their throughput: so it counts what the attack costs the server, not
what attackers take of the machine. After each attack all rows must be free, and files, threads and memory back at the
level after warm-up. Exit code 1 where a bar is missed.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.hostility.attacked import (
    KEPT_MEGABYTES,
    Attackers,
    Level,
    Target,
    free_rows,
    null_server,
    quiet,
    server,
    settled,
)
from benchmarks.hostility.attacks import ATTACKS
from benchmarks.support.load import grpc_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.served import untrained_bundle

KEPT = 0.8
REFUSED_SECONDS = 1.0
# Attacks that stand still once they are in place, and one that needs good streams to be there.
STANDING = {"stalled", "half-open"}
LATE = {"overload"}
ROWS, OVERLOAD_ROWS, GOOD_STREAMS = 512, 32, 32
# A connection's calls bound what a flood of calls from it can do. One that has just ended may still count as open.
CONNECTION_STREAMS = ("--connection-streams", str(2 * GOOD_STREAMS))
# Good streams give up a text when a measurement ends, and never before.
CONNECTION_CANCELS = ("--connection-cancels", "5")
FLAGS = ("--threads", "1", "--max-rows", str(ROWS), "--max-waiting", "0", *CONNECTION_STREAMS, *CONNECTION_CANCELS)
OVERLOAD_FLAGS = ("--threads", "1", "--max-rows", str(OVERLOAD_ROWS), "--max-waiting", "8", "--max-wait", "0.5")


@dataclass
class Result:
    """Of one attack.

    Attributes:
        real, null: characters a second of the good streams, in each round.
        done: what the attackers did to the server.
    """

    name: str
    rows: int
    before: Level
    real: list[float] = field(default_factory=list)
    null: list[float] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    slowest_refusal: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def kept(self) -> float:
        """The median ratio."""
        ratios = [real / null if null else 0.0 for real, null in zip(self.real, self.null, strict=True)]
        return statistics.median(ratios)

    def judge(self, after: Level, free: int, errors: int) -> None:
        grown = after.megabytes - self.before.megabytes
        more = "".join(f", {number} more of {name}" for name, number in (after.names - self.before.names).items())
        bars = {
            f"{self.kept:.2f} kept": self.kept >= KEPT,
            f"{free} of {self.rows} rows free": free == self.rows,
            f"{after.files} files after {self.before.files}": after.files <= self.before.files,
            f"{after.threads} threads after {self.before.threads}{more}": after.threads <= self.before.threads,
            f"{after.megabytes:.0f} MB after {self.before.megabytes:.0f}": grown <= KEPT_MEGABYTES,
            f"refused after {self.slowest_refusal:.1f} s": self.slowest_refusal <= REFUSED_SECONDS,
            f"{errors} errors in the log": not errors,
        }
        self.faults += [bar for bar, kept in bars.items() if not kept]


class Round:
    """Good streams of a server, while attackers hit it or the null server."""

    def __init__(self, attack: str, good: Target, core: int, seconds: float) -> None:
        self._attack, self._good, self._core, self._seconds = attack, good, core, seconds

    def run(self, target: Target, result: Result) -> float:
        """Characters a second."""
        with Attackers.of(self._attack, target.address, self._core) as attackers:
            if self._attack not in LATE:
                attackers.begin()
                attackers.wait_until_in_place()
            if self._attack in STANDING and not quiet(self._good.process.pid):
                result.faults.append("the attack does not come to rest")
            chars = asyncio.run(self._measure(attackers, result))
            done, slowest = attackers.end()
        if target is self._good:
            result.done.update(done)
            result.slowest_refusal = max(result.slowest_refusal, slowest if self._attack in LATE else 0.0)
        return chars

    async def _measure(self, attackers: Attackers, result: Result) -> float:
        text_chars = 1_000_000 if self._attack in LATE else 2000
        address, pid = self._good.address, self._good.process.pid
        reading = asyncio.create_task(grpc_load(address, pid, GOOD_STREAMS, self._seconds, text_chars=text_chars))
        if self._attack in LATE:
            await asyncio.sleep(0.15 * self._seconds)  # all good streams have begun
            attackers.begin()
        try:
            return (await reading).chars_per_second
        except grpc.aio.AioRpcError as error:
            result.faults.append(f"a good stream failed: {error.code().name} {error.details()}")
            return 0.0


def attacked(name: str, bundle: Path, core: int, rounds: int, seconds: float) -> Result:
    """One server, attacked so many times."""
    late = name in LATE
    flags, rows = (OVERLOAD_FLAGS, OVERLOAD_ROWS) if late else (FLAGS, ROWS)
    with server(bundle, flags) as real, null_server(core, *(("--refuse",) if late else ())) as null:
        pid = real.process.pid
        turn = Round(name, real, core, seconds)
        asyncio.run(free_rows(real.address, rows))
        asyncio.run(grpc_load(real.address, pid, GOOD_STREAMS, min(3.0, seconds)))
        quiet(pid)
        result = Result(name, rows, Level.of(pid))
        for number in range(rounds):
            turns = [(real, result.real), (null, result.null)]
            for target, speeds in turns if number % 2 else turns[::-1]:
                speeds.append(turn.run(target, result))
                sys.stderr.write(f"{name}, {'real' if target is real else 'null'}: {speeds[-1]:,.0f} chars/s\n")
        free = asyncio.run(free_rows(real.address, rows))
        result.judge(settled(pid, result.before), free, real.faults)
    return result


def line(result: Result) -> str:
    real, null = (statistics.median(speeds) for speeds in (result.real, result.null))
    done = ", ".join(f"{number:,} {what}" for what, number in result.done.items())
    verdict = "MISSED: " + "; ".join(result.faults) if result.faults else "held"
    return f"{result.name:10} {null:10,.0f} {real:10,.0f} {result.kept:6.2f}  {verdict} ({done})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostility", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a bundle to serve (an untrained LSTM 2x256)")
    parser.add_argument("--attack", choices=ATTACKS, nargs="+", default=[*ATTACKS], help="which (all)")
    parser.add_argument("--rounds", type=int, default=3, help="each against the server and the null (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (%(default)s)")
    settings = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    print(f"{describe_machine()}; good streams: characters a second")
    print(f"{'attack':10} {'on null':>10} {'on server':>10} {'kept':>6}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "bundle", hidden=256)
        for name in settings.attack:
            results.append(attacked(name, bundle, core, settings.rounds, settings.seconds))
            print(line(results[-1]), flush=True)
    return 1 if any(result.faults for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
