"""Kill what runs texts: is every character there, once, and the right one?

    python -m benchmarks.correctness.chaos [--kill engines]

`--kill servers`: two servers share a file of keys; every few seconds one of them gets SIGKILL and is started again.
Streams of the Python client go on by themselves, half of them from checkpoints, the others by replay.

`--kill engines`: one server has several engine processes; every few seconds one of them gets SIGKILL. Streams must not
notice: clients do not go on by themselves, so that an error would be seen. With `--mixed` it is one, all of them, one
that is stopped (SIGSTOP) and goes on, one that is stopped and killed, and a successor that begins, by turns.

At the end each text is asked for once more from a server of which nothing is killed, and compared.
"""

import argparse
import asyncio
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.request import urlopen

from benchmarks.support.machine import describe_machine, process_tree
from benchmarks.support.servers import ServerProcess, serving, untrained_bundle
from client import AsyncClient, AsyncTextStream

PROMPT = "To be, or not to be, that is the question:\n"
TEMPERATURE = 0.8
CHECKPOINT_CHARS = 256
YOUNG_SECONDS = 0.2  # after which a successor of a process that was killed has begun, and is not ready
PATIENCE = 120.0
# By default: texts at a time, their characters, and seconds between two kills.
SIZES = {"servers": (300, 30_000, 5.0), "engines": (100, 3000, 2.0)}


class Replicas:
    """Two server processes that keep their addresses."""

    def __init__(self, bundle: Path, keys: Path) -> None:
        self._bundle, self._keys, self.kills = bundle, keys, 0
        self._servers = [self._serve(0), self._serve(0)]
        self.addresses = [server.address for server in self._servers]

    async def kill(self) -> None:
        """Kill one after the other, and start the same again at the same address."""
        number = self.kills % len(self._servers)
        self.kills += 1
        await asyncio.to_thread(self._servers[number].stop, signal.SIGKILL)
        port = int(self.addresses[number].rpartition(":")[2])
        self._servers[number] = await asyncio.to_thread(self._serve, port)

    def stop(self) -> None:
        for server in self._servers:
            server.stop(signal.SIGKILL)

    def _serve(self, port: int) -> ServerProcess:
        return serving(self._bundle, "--resume-keys", str(self._keys), "--threads", "1", port=port)


class Readers:
    """Readers of one text each, which go on by themselves when their server is killed."""

    def __init__(self, client: AsyncClient, chars: int) -> None:
        self._client, self._chars = client, chars
        self.streams: dict[int, AsyncTextStream] = {}  # by seed
        self.texts: dict[int, str] = {}
        self.seconds: list[float] = []

    async def read(self, seed: int, *, resume: bool = True) -> None:
        begin, every = time.perf_counter(), CHECKPOINT_CHARS if seed % 2 == 0 else 0
        stream = self._client.stream(
            PROMPT, seed=seed, max_chars=self._chars, temperature=TEMPERATURE, checkpoint_chars=every, resume=resume
        )
        self.streams[seed] = stream
        self.texts[seed] = await stream.read()
        self.seconds.append(time.perf_counter() - begin)

    @property
    def resumes(self) -> int:
        return sum(stream.resumes for stream in self.streams.values())

    def differing(self, expected: dict[int, str]) -> list[int]:
        """Return the seeds of texts that are not as expected, or whose end does not say so."""
        return [
            seed
            for seed, text in expected.items()
            if self.texts.get(seed) != text or self._generated(seed) != self._chars
        ]

    def _generated(self, seed: int) -> int:
        finish = self.streams[seed].finish
        return finish.generated_chars if finish else -1


async def disturb(replicas: Replicas, readers: Readers, resumes: int, every: float) -> None:
    """Kill one server after the other until `resumes` were seen, or all texts ended."""
    await asyncio.sleep(every)
    while len(readers.texts) < len(readers.streams) and readers.resumes < resumes:
        killed = time.perf_counter()
        await replicas.kill()
        sys.stderr.write(f"kill {replicas.kills}: {readers.resumes:,} resumes, {len(readers.texts)} texts ended\n")
        await asyncio.sleep(max(0.0, every - (time.perf_counter() - killed)))


async def read_undisturbed(address: str, seeds: Iterable[int], chars: int) -> dict[int, str]:
    """Return the texts by seed, each of one call."""
    async with AsyncClient(address) as client:

        async def read(seed: int) -> str:
            stream = client.stream(PROMPT, seed=seed, max_chars=chars, temperature=TEMPERATURE, resume=False)
            return await stream.read()

        return dict(zip(seeds, await asyncio.gather(*map(read, seeds)), strict=True))


async def kill_servers(replicas: Replicas, streams: int, chars: int, resumes: int, every: float) -> bool:
    """Return whether no text was harmed, after enough resumes."""
    async with AsyncClient(replicas.addresses, patience=PATIENCE) as client:
        readers = Readers(client, chars)
        await asyncio.gather(*map(readers.read, range(streams)), disturb(replicas, readers, resumes, every))
    print(f"{streams} texts of {chars:,} characters, the shortest took {min(readers.seconds):.1f} s")
    print(f"{replicas.kills} kills, {readers.resumes:,} resumes")
    for name, first in (("checkpoints", 0), ("replay", 1)):
        chosen = [readers.streams[seed] for seed in range(first, streams, 2)]
        count, again = sum(stream.resumes for stream in chosen), sum(stream.replayed_chars for stream in chosen)
        print(f"{name}: {count:,} resumes, {again:,} characters forced again, {again / max(1, count):,.0f} each")
    wrong = readers.differing(await read_undisturbed(replicas.addresses[0], range(streams), chars))
    print(f"texts that differ from the undisturbed ones: {len(wrong)}")
    return not wrong and readers.resumes >= resumes


class Engines:
    """The engine processes of one server, of which the oldest is killed each time, or others (`mixed`)."""

    def __init__(self, server: ServerProcess, replays: int, every: float, mixed: bool) -> None:
        self.server, self._wanted, self._every, self._mixed = server, replays, every, mixed
        self.turns, self.kills, self.replays = 0, 0, 0
        self.is_over = False

    async def disturb(self) -> None:
        """Kill one process after the other until enough texts went on elsewhere."""
        try:
            while self.replays < self._wanted:
                await asyncio.sleep(self._every)
                await self._take_turn(process_tree(self.server.pid)[1:])
                self.turns += 1
                await asyncio.sleep(self._every / 4)  # the server has noticed by then
                self.replays = int(await asyncio.to_thread(self.metric, "charstream_engine_replays_total"))
                sys.stderr.write(f"kill {self.kills}: {self.replays:,} replays\n")
        finally:
            self.is_over = True

    async def _take_turn(self, pids: list[int]) -> None:
        turn = self.turns % 5 if self._mixed else 0
        if turn in (2, 3):
            self._signal(pids[:1], signal.SIGSTOP)
            await asyncio.sleep(self._every)
        self._signal(pids if turn == 1 else pids[:1], signal.SIGCONT if turn == 2 else signal.SIGKILL)
        if turn == 4:
            await asyncio.sleep(YOUNG_SECONDS)
            self._signal([pid for pid in process_tree(self.server.pid)[1:] if pid not in pids], signal.SIGKILL)
        # Five that end at their start, one after the other, would end the server.
        while self._mixed and self.server.log.count("is ready in its place") < self.server.log.count("texts go on"):
            await asyncio.sleep(YOUNG_SECONDS)

    def _signal(self, pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            os.kill(pid, number)
            self.kills += number is signal.SIGKILL

    def metric(self, name: str) -> float:
        """Return the sum of a metric's values at the server."""
        port = self.server.wait_for(r"metrics on \S*:(\d+)")
        lines = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
        return sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", lines, re.MULTILINE)))


async def kill_engines(engines: Engines, undisturbed: str, streams: int, chars: int) -> bool:
    """Return whether no text was harmed and no caller saw an error, after enough replays."""
    async with AsyncClient(engines.server.address) as client:
        readers = Readers(client, chars)

        async def read_one_after_another(seed: int) -> None:
            while not engines.is_over:
                await readers.read(seed, resume=False)
                seed += streams

        async with asyncio.TaskGroup() as tasks:
            for seed in range(streams):
                tasks.create_task(read_one_after_another(seed))
            tasks.create_task(engines.disturb())
    deaths = int(engines.metric("charstream_engine_deaths_total"))
    young = engines.server.log.count("no engine process could be started")  # killed before they had a text
    print(f"{len(readers.texts)} texts of {chars:,} characters, {streams} at a time, none failed")
    print(f"{engines.kills} kills, {deaths} deaths counted, {young} of successors at their start, ", end="")
    print(f"{engines.replays:,} replays")
    seeds, wrong = sorted(readers.texts), list[int]()
    for begin in range(0, len(seeds), streams):
        expected = await read_undisturbed(undisturbed, seeds[begin : begin + streams], chars)
        wrong += readers.differing(expected)
    print(f"texts that differ from the undisturbed ones: {len(wrong)} {wrong[:10] or ''}")
    return not wrong and deaths + young == engines.kills


def run(settings: argparse.Namespace, folder: Path) -> bool:
    default_streams, default_chars, default_every = SIZES[settings.kill]
    streams: int = settings.streams or default_streams
    chars: int = settings.chars or default_chars
    every: float = settings.every or default_every
    # Far from equally probable characters: so a wrong state shows in the text.
    bundle = settings.bundle or untrained_bundle(folder / "chaos", hidden=256, sharpness=40)
    if settings.kill == "engines":
        flags = ("--engines", settings.engines, "--metrics-port", "0", "--threads", "1")
        with serving(bundle, *flags) as server, serving(bundle, "--engines", "0", "--threads", "1") as undisturbed:
            engines = Engines(server, settings.resumes, every, settings.mixed)
            return asyncio.run(kill_engines(engines, undisturbed.address, streams, chars))
    keys = folder / "keys"
    keys.write_text(secrets.token_hex(32))
    replicas = Replicas(bundle, keys)
    try:
        return asyncio.run(kill_servers(replicas, streams, chars, settings.resumes, every))
    finally:
        replicas.stop()


def main() -> int:
    """Exit code 1 if a text differs, or too few resumes were seen."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.correctness.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kill", choices=SIZES, default="servers", help="what is killed (%(default)s)")
    parser.add_argument("--bundle", type=Path, help="default: an untrained LSTM 2x256")
    parser.add_argument("--streams", type=int, help="texts at a time (300; 100 where engines are killed)")
    parser.add_argument("--chars", type=int, help="characters of a text (30000; 3000 where engines are killed)")
    parser.add_argument(
        "--resumes", type=int, default=1000, help="nothing is killed after that number of resumes (%(default)s)"
    )
    parser.add_argument("--every", type=float, help="seconds between two kills (5; 2 where engines are killed)")
    parser.add_argument("--engines", default="2", help="engine processes, where these are killed (%(default)s)")
    parser.add_argument(
        "--mixed", action="store_true", help="engines are stopped too, killed all at once, and at their start"
    )
    settings = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        passed = run(settings, Path(folder))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
