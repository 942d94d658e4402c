"""Attack a server and measure what its good streams keep, and what it holds afterwards.

Attackers run on one core, and hit either the server or a null server on that same core, in turn; good streams are read
from the server by this process. The ratio compares their throughput: so it counts what the attack costs the server, not
what attackers take of the machine. After each attack all rows must be free, and files, threads and memory back at the
level after warm-up. Exit code 1 where a bar is missed.
"""

import asyncio
import os
import re
import statistics
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import grpc

from benchmarks.hostility.attacks import ATTACKS
from benchmarks.hostility.targets import free_rows, null_server, wait_until_quiet
from benchmarks.support.background import BackgroundLoad, background_load
from benchmarks.support.load import grpc_load
from benchmarks.support.machine import ProcessLevel, describe_machine, settled_level
from benchmarks.support.rounds import measure_in_turn, median_ratio, rounds_parser
from benchmarks.support.servers import ServerProcess, given_or_untrained, serving

KEPT = 0.8
REFUSED_SECONDS = 1.0
# gRPC starts one thread more when all of its pool (event_engine) are busy, and ends it when it was idle for 20 s: after
# 18 attacks on a loaded machine there were 6 instead of 4, and 4 again 20 s later.
SETTLE_SECONDS = 60.0
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


class Trial:
    """One server under one attack: what its good streams read, and what went wrong."""

    def __init__(self, attack: str, server: ServerProcess, core: int, seconds: float) -> None:
        self._attack, self._server, self._core, self._seconds = attack, server, core, seconds
        self.done, self.slowest_refusal, self.faults = Counter[str](), 0.0, list[str]()

    def measure(self, address: str) -> float:
        """Return the good streams' characters a second while an address, the server's or another, is attacked."""
        is_late = self._attack in LATE
        with background_load(ATTACKS[self._attack], address, self._core) as attackers:
            if not is_late:
                attackers.begin()
                attackers.wait_for("in place")
            if self._attack in STANDING and not wait_until_quiet(self._server.pid):
                self.faults.append("the attack does not come to rest")
            chars = asyncio.run(self._read(attackers, is_late))
            done, slowest = attackers.end()
        if address == self._server.address:
            self.done.update(done)
            self.slowest_refusal = max(self.slowest_refusal, slowest if is_late else 0.0)
        return chars

    async def _read(self, attackers: BackgroundLoad, is_late: bool) -> float:
        text_chars = 1_000_000 if is_late else 2000
        loading = grpc_load(self._server.address, self._server.pid, GOOD_STREAMS, self._seconds, text_chars=text_chars)
        reading = asyncio.create_task(loading)
        if is_late:
            await asyncio.sleep(0.15 * self._seconds)  # all good streams have begun
            attackers.begin()
        try:
            return (await reading).chars_per_second
        except grpc.aio.AioRpcError as error:
            self.faults.append(f"a good stream failed: {error.code().name} {error.details()}")
            return 0.0


def survey(attack: str, bundle: Path, core: int, rounds: int, seconds: float) -> bool:
    """Attack one server and print a line; return whether every bar was held."""
    is_late = attack in LATE
    flags, rows = (OVERLOAD_FLAGS, OVERLOAD_ROWS) if is_late else (FLAGS, ROWS)
    with serving(bundle, *flags) as server, null_server(core, refuse=is_late) as null:
        trial = Trial(attack, server, core, seconds)
        asyncio.run(free_rows(server.address, rows))
        asyncio.run(grpc_load(server.address, server.pid, GOOD_STREAMS, min(3.0, seconds)))
        wait_until_quiet(server.pid)
        before = ProcessLevel.of(server.pid)
        cases = {"null": partial(trial.measure, null), "server": partial(trial.measure, server.address)}
        speeds = measure_in_turn(cases, rounds)
        free = asyncio.run(free_rows(server.address, rows))
        kept = median_ratio(speeds["server"], speeds["null"])
        errors = len(re.findall(r"^(Traceback| *\w*Error:|.* ERROR )", server.log, re.MULTILINE))
        bars = {
            f"{kept:.2f} kept": kept >= KEPT,
            f"{free} of {rows} rows free": free == rows,
            f"refused after {trial.slowest_refusal:.1f} s": trial.slowest_refusal <= REFUSED_SECONDS,
            f"{errors} errors in the log": not errors,
        }
        faults = [*trial.faults, *(bar for bar, is_held in bars.items() if not is_held)]
        faults += settled_level(server.pid, before, SETTLE_SECONDS).growth(before)
    null_speed, speed = (statistics.median(values) for values in speeds.values())
    done = ", ".join(f"{number:,} {what}" for what, number in trial.done.items())
    verdict = "MISSED: " + "; ".join(faults) if faults else "held"
    print(f"{attack:10} {null_speed:10,.0f} {speed:10,.0f} {kept:6.2f}  {verdict} ({done})", flush=True)
    return not faults


def main() -> int:
    parser = rounds_parser("hostility", __doc__, rounds=3, seconds=10.0)
    parser.add_argument("--bundle", type=Path, help="a bundle to serve (an untrained LSTM 2x256)")
    parser.add_argument("--attack", choices=ATTACKS, nargs="+", default=[*ATTACKS], help="which (all)")
    settings = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    print(f"{describe_machine()}; good streams: characters a second")
    print(f"{'attack':10} {'on null':>10} {'on server':>10} {'kept':>6}")
    with given_or_untrained(settings.bundle, hidden=256) as bundle:
        held = [survey(name, bundle, core, settings.rounds, settings.seconds) for name in settings.attack]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
