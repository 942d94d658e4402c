"""Kill the servers of running texts: is every character there, once, and the right one?

Two servers share a file of keys; every few seconds one of them gets SIGKILL and is started again. Streams of the Python
client go on by themselves, half of them from checkpoints, the others by replay. At the end each text is asked for once
more from a server that nobody kills, and compared.
"""

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.support.servers import ServerProcess, serving, untrained_bundle
from client import AsyncClient, AsyncTextStream

PROMPT = "To be, or not to be, that is the question:\n"
TEMPERATURE = 0.8
CHECKPOINT_CHARS = 256
PATIENCE = 120.0


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

    async def read(self, seed: int) -> None:
        begin, every = time.perf_counter(), CHECKPOINT_CHARS if seed % 2 == 0 else 0
        stream = self._client.stream(
            PROMPT, seed=seed, max_chars=self._chars, temperature=TEMPERATURE, checkpoint_chars=every
        )
        self.streams[seed] = stream
        self.texts[seed] = await stream.read()
        self.seconds.append(time.perf_counter() - begin)

    @property
    def resumes(self) -> int:
        return sum(stream.resumes for stream in self.streams.values())


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


async def run(replicas: Replicas, streams: int, chars: int, resumes: int, every: float) -> bool:
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
    expected = await read_undisturbed(replicas.addresses[0], range(streams), chars)
    wrong = [
        seed
        for seed, stream in readers.streams.items()
        if readers.texts[seed] != expected[seed] or not stream.finish or stream.finish.generated_chars != chars
    ]
    print(f"texts that differ from the undisturbed ones: {len(wrong)}")
    return not wrong and readers.resumes >= resumes


def main() -> int:
    """Exit code 1 if a text differs, or too few resumes were seen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.correctness.chaos", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="default: an untrained LSTM 2x256")
    parser.add_argument("--streams", type=int, default=300, help="texts at a time (%(default)s)")
    parser.add_argument("--chars", type=int, default=6000, help="characters of a text (%(default)s)")
    parser.add_argument("--resumes", type=int, default=1000, help="no server is killed after that number (%(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills (%(default)s)")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.write_text(secrets.token_hex(32))
        # Far from equally probable characters: so a wrong state shows in the text.
        bundle = settings.bundle or untrained_bundle(Path(folder, "chaos"), hidden=256, sharpness=40)
        replicas = Replicas(bundle, keys)
        try:
            passed = asyncio.run(run(replicas, settings.streams, settings.chars, settings.resumes, settings.every))
        finally:
            replicas.stop()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
