"""Attack the HTTP port, and measure what good streams over gRPC keep, and what the server holds afterwards.

    python -m benchmarks.hostility.web [--attack NAME ...]

As `benchmarks.hostility` does for gRPC's port: attackers run on one core and hit the server or a null server there, in
turn. After each attack all rows must be free, files, threads and memory back, and no answer a fault (5xx but 503).
"""

import asyncio
import json
import os
import random
import re
import socket
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.hostility.targets import free_rows, wait_until_quiet
from benchmarks.support.background import Tally, Work, background_load
from benchmarks.support.load import grpc_load
from benchmarks.support.machine import ProcessLevel, describe_machine, settled_level
from benchmarks.support.rounds import measure_in_turn, median_ratio, rounds_parser
from benchmarks.support.servers import ServerProcess, given_or_untrained, serving

KEPT = 0.8
SETTLE_SECONDS = 60.0
ROWS, GOOD_STREAMS = 512, 32
WEB = r'HTTP on ([\w.:[\]-]+)["\s]'
CANCELS = ("--connection-cancels", "5")
FLAGS = ("--threads", "1", "--max-rows", str(ROWS), "--max-waiting", "0", "--http-port", "0", *CANCELS)
WORKERS = 50
PAUSE_SECONDS = 0.1  # between two requests of one worker
SMALL_WINDOW = 4096  # bytes that a client's system takes for a reader who stopped
FILL_SECONDS = 5.0
NULL_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
FIELDS = ("prompt", "max_tokens", "temperature", "seed", "stop", "n", "logprobs", "logit_bias", "stream", "charstream")


def request(body: bytes, place: str = "/v1/completions") -> bytes:
    return f"POST {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


ENDLESS = request(json.dumps({"max_tokens": 1_000_000, "stream": True}).encode())


async def stalled(address: str, tally: Tally, readers: int = 200) -> None:
    """Begin streams, and read nothing beyond the first bytes."""
    opened = await asyncio.gather(*(_open(address, limit=1024, window=SMALL_WINDOW) for _ in range(readers)))
    for _, writer in opened:
        writer.write(ENDLESS)
    for reader, _ in opened:
        tally.done[(await reader.readline())[9:12].decode()] += 1
    await asyncio.sleep(FILL_SECONDS)  # until then they are readers as good as any
    tally.in_place.set()
    await asyncio.Event().wait()


async def leaving(address: str, tally: Tally) -> None:
    """Begin streams and close the connection at once, or after the first bytes."""
    await _workers(tally, lambda number: _leave(address, tally, read=number % 2))


async def _leave(address: str, tally: Tally, *, read: int) -> None:
    reader, writer = await _open(address)
    writer.write(ENDLESS)
    if read:
        await reader.readline()
    writer.close()
    tally.done["left"] += 1


async def slow(address: str, tally: Tally, connections: int = 200) -> None:
    """Hold connections whose head or body comes a byte now and then; make them again when the server closes them."""
    tally.in_place.set()
    await asyncio.gather(*(_drip(address, tally, head=number % 2) for number in range(connections)))


async def _drip(address: str, tally: Tally, *, head: int) -> None:
    while True:
        with suppress(OSError):
            reader, writer = await _open(address)
            if not head:
                writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)
            writer.close()
        tally.done["closed"] += 1
        await asyncio.sleep(PAUSE_SECONDS)


async def garbage(address: str, tally: Tally) -> None:
    """Send random bytes."""
    rng = random.Random(1)
    await _workers(tally, lambda _: _send(address, tally, rng.randbytes(rng.randrange(1, 5000))))


async def bodies(address: str, tally: Tally) -> None:
    """Send bodies that are too large, nested deeply, or of random values."""
    rng = random.Random(2)
    places = ("/v1/completions", "/v1/score")
    await _workers(tally, lambda _: _send(address, tally, request(_body(rng), rng.choice(places))))


def _body(rng: random.Random) -> bytes:
    match rng.randrange(10):
        case 0:
            return b'{"prompt": "' + b"a" * 6_000_000
        case 1:
            return b"[" * 100_000
        case 2:
            return b'{"charstream":' * 2000
        case 3:
            return rng.randbytes(rng.randrange(200))
        case _:
            return json.dumps({name: _value(rng) for name in rng.sample(FIELDS, 4)}).encode()


def _value(rng: random.Random) -> Any:
    scalar = [None, True, -1, 0, 3, 2**64, 1e308, "", "a", "\u20ac" * 50]
    return rng.choice([*scalar, rng.choices(scalar, k=3), {"a": rng.choice(scalar)}, {"return_token": True}])


async def _send(address: str, tally: Tally, data: bytes) -> None:
    reader, writer = await _open(address)
    writer.write(data)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            line = await reader.readline()
            tally.done[line[9:12].decode(errors="replace") or "closed"] += 1
    writer.close()


async def _workers(tally: Tally, one: Callable[[int], Awaitable[None]]) -> None:
    tally.in_place.set()

    async def work(number: int) -> None:
        while True:
            with suppress(OSError):
                await one(number)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*map(work, range(WORKERS)))


async def _open(
    address: str, limit: int = 65_536, window: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    connection.setblocking(False)
    if window:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    return await asyncio.open_connection(sock=connection, limit=limit)


ATTACKS: dict[str, Work] = {"stalled": stalled, "leaving": leaving, "slow": slow, "garbage": garbage, "bodies": bodies}


@contextmanager
def null_port(core: int) -> Iterator[str]:
    """Yield the address of a server that answers whatever comes, in a process of its own on one core."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_null, args=(core, theirs), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()


def _run_null(core: int, pipe: Any) -> None:
    os.sched_setaffinity(0, {core})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(NULL_ANSWER)

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def measure(attack: str, server: ServerProcess, core: int, seconds: float, done: Any, address: str) -> float:
    """Return the good streams' characters a second while an address is attacked."""
    with background_load(ATTACKS[attack], address, core) as attackers:
        attackers.begin()
        attackers.wait_for("in place")
        load = asyncio.run(grpc_load(server.address, server.pid, GOOD_STREAMS, seconds, text_chars=2000))
        counted, _ = attackers.end()
        if done is not None:
            done.update(counted)
    return load.chars_per_second


def survey(attack: str, bundle: Path, core: int, rounds: int, seconds: float) -> bool:
    """Attack one server and print a line; return whether every bar was held."""

    with serving(bundle, *FLAGS) as server, null_port(core) as null:
        done = Counter[str]()
        asyncio.run(free_rows(server.address, ROWS))
        measure(attack, server, core, min(3.0, seconds), None, server.wait_for(WEB))
        wait_until_quiet(server.pid)
        before = ProcessLevel.of(server.pid)
        one = partial(measure, attack, server, core, seconds)
        speeds = measure_in_turn(
            {"null": partial(one, None, null), "server": partial(one, done, server.wait_for(WEB))}, rounds
        )
        free = asyncio.run(free_rows(server.address, ROWS))
        kept = median_ratio(speeds["server"], speeds["null"])
        errors = len(re.findall(r"^(Traceback| *\w*Error:|.* ERROR )", server.log, re.MULTILINE))
        faults = [code for code in done if code.startswith("5") and code != "503"]
        bars = {
            f"{kept:.2f} kept": kept >= KEPT,
            f"{free} of {ROWS} rows free": free == ROWS,
            f"{errors} errors in the log": not errors,
            f"answers {faults}": not faults,
        }
        missed = [bar for bar, is_held in bars.items() if not is_held]
        missed += settled_level(server.pid, before, SETTLE_SECONDS).growth(before)
    null_speed, speed = (statistics.median(values) for values in speeds.values())
    counts = ", ".join(f"{number:,} {what}" for what, number in done.items())
    verdict = "MISSED: " + "; ".join(missed) if missed else "held"
    print(f"{attack:10} {null_speed:10,.0f} {speed:10,.0f} {kept:6.2f}  {verdict} ({counts})", flush=True)
    return not missed


def main() -> int:
    parser = rounds_parser("hostility.web", __doc__, rounds=3, seconds=10.0)
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
