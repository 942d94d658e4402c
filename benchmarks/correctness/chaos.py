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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.servers import ServerProcess, serving, untrained_bundle
from client import AsyncClient, AsyncTextStream

PROMPT = "To be, or not to be, that is the question:\n"
TEMPERATURE = 0.8
CHECKPOINT_CHARS = 256
PATIENCE = 120.0


@dataclass
class Text:
    """One text as it came, and how it came."""

    seed: int
    checkpoints: bool
    text: str
    generated_chars: int
    seconds: float
    resumes: int
    replayed_chars: int


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


@dataclass
class Chaos:
    """The readers, each of one text."""

    client: AsyncClient
    chars: int
    texts: list[Text] = field(default_factory=list)
    running: set[AsyncTextStream] = field(default_factory=set)

    async def read(self, seed: int) -> None:
        begin, checkpoints = time.perf_counter(), seed % 2 == 0
        every = CHECKPOINT_CHARS if checkpoints else 0
        stream = self.client.stream(
            PROMPT, seed=seed, max_chars=self.chars, temperature=TEMPERATURE, checkpoint_chars=every
        )
        self.running.add(stream)
        text = await stream.read()
        self.running.remove(stream)
        assert stream.finish
        seconds = time.perf_counter() - begin
        chars = stream.finish.generated_chars
        self.texts.append(Text(seed, checkpoints, text, chars, seconds, stream.resumes, stream.replayed_chars))

    @property
    def resumes(self) -> int:
        return sum(text.resumes for text in self.texts) + sum(stream.resumes for stream in self.running)


async def disturb(replicas: Replicas, chaos: Chaos, resumes: int, every: float) -> None:
    """Kill one server after the other until `resumes` were seen, or all texts ended."""
    await asyncio.sleep(every)
    while chaos.running and chaos.resumes < resumes:
        killed = time.perf_counter()
        await replicas.kill()
        sys.stderr.write(f"kill {replicas.kills}: {chaos.resumes:,} resumes, {len(chaos.texts)} texts ended\n")
        await asyncio.sleep(max(0.0, every - (time.perf_counter() - killed)))


async def read_undisturbed(address: str, seeds: Sequence[int], chars: int, at_once: int) -> dict[int, str]:
    """Return the texts by seed, each of one call."""
    waiting, texts = iter(seeds), dict[int, str]()
    async with AsyncClient(address) as client:

        async def read() -> None:
            for seed in waiting:
                texts[seed] = await client.stream(
                    PROMPT, seed=seed, max_chars=chars, temperature=TEMPERATURE, resume=False
                ).read()

        await asyncio.gather(*(read() for _ in range(at_once)))
    return texts


async def run(replicas: Replicas, streams: int, chars: int, resumes: int, every: float) -> bool:
    """Return whether no text was harmed, after enough resumes."""
    async with AsyncClient(replicas.addresses, patience=PATIENCE) as client:
        chaos = Chaos(client, chars)
        await asyncio.gather(*map(chaos.read, range(streams)), disturb(replicas, chaos, resumes, every))
    shortest = min(text.seconds for text in chaos.texts)
    print(f"{len(chaos.texts)} texts of {chars:,} characters, the shortest took {shortest:.1f} s")
    print(f"{replicas.kills} kills, {chaos.resumes:,} resumes")
    for name, checkpoints in (("checkpoints", True), ("replay", False)):
        _report(name, [text for text in chaos.texts if text.checkpoints is checkpoints])
    expected = await read_undisturbed(replicas.addresses[0], [text.seed for text in chaos.texts], chars, streams)
    wrong = [text for text in chaos.texts if text.text != expected[text.seed] or text.generated_chars != chars]
    print(f"texts that differ from the undisturbed ones: {len(wrong)}")
    return not wrong and chaos.resumes >= resumes


def _report(name: str, texts: Sequence[Text]) -> None:
    resumes, again = sum(text.resumes for text in texts), sum(text.replayed_chars for text in texts)
    each = again / max(1, resumes)
    print(f"{name}: {resumes:,} resumes, {again:,} characters forced again, {each:,.0f} each")


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
