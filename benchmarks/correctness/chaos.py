"""Texts whose servers are killed: is every character there, once, and the right one?

Two servers share a file of keys; every few seconds one of them gets SIGKILL and is started again. Streams of the Python
client go on by themselves, half of them from checkpoints, the others by replay. At the end each text is asked for once
more from a server that nobody kills, and compared.
"""

import argparse
import asyncio
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.served import address_of, serve, untrained_bundle
from client import AsyncClient, AsyncTextStream

PROMPT = "To be, or not to be, that is the question:\n"
TEMPERATURE = 0.8
CHECKPOINT_CHARS = 256
PATIENCE = 120.0


@dataclass
class Text:
    """One text as it came, and how."""

    seed: int
    checkpoints: bool
    text: str
    generated_chars: int
    seconds: float
    resumes: int
    replayed_chars: int


@dataclass
class Replicas:
    """Server processes that keep their addresses."""

    bundle: Path
    keys: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    kills: int = 0

    def start(self) -> None:
        self.processes.append(self._serve(0))
        self.addresses.append(address_of(self.processes[-1]))

    async def kill(self, number: int) -> None:
        """SIGKILL, and the same again at the same address."""
        self.processes[number].send_signal(signal.SIGKILL)
        self.kills += 1
        await asyncio.to_thread(self.processes[number].communicate)
        self.processes[number] = self._serve(int(self.addresses[number].rpartition(":")[2]))
        await asyncio.to_thread(address_of, self.processes[number])

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def _serve(self, port: int) -> "subprocess.Popen[str]":
        return serve(self.bundle, port, "--resume-keys", str(self.keys), "--threads", "1")


@dataclass
class Chaos:
    """Readers of one text each."""

    client: AsyncClient
    chars: int
    texts: list[Text] = field(default_factory=list)
    running: set[AsyncTextStream] = field(default_factory=set)

    async def read(self, seed: int) -> None:
        begin, checkpoints = time.perf_counter(), seed % 2 == 0
        stream = ask(self.client, seed, self.chars, CHECKPOINT_CHARS if checkpoints else 0)
        self.running.add(stream)
        text = await stream.read()
        self.running.remove(stream)
        assert stream.finish
        seconds = time.perf_counter() - begin
        chars = stream.finish.generated_chars
        self.texts.append(Text(seed, checkpoints, text, chars, seconds, stream.resumes, stream.replayed_chars))

    @property
    def seen(self) -> int:
        return sum(text.resumes for text in (*self.texts, *self.running))


def ask(client: AsyncClient, seed: int, chars: int, checkpoint_chars: int) -> AsyncTextStream:
    return client.stream(PROMPT, seed=seed, max_chars=chars, temperature=TEMPERATURE, checkpoint_chars=checkpoint_chars)


async def disturb(replicas: Replicas, chaos: Chaos, resumes: int, every: float) -> None:
    """Kills one server after the other until so many resumes were seen, or all texts ended."""
    await asyncio.sleep(every)
    while chaos.running and chaos.seen < resumes:
        killed = time.perf_counter()
        await replicas.kill(replicas.kills % 2)
        sys.stderr.write(f"kill {replicas.kills}: {chaos.seen:,} resumes, {len(chaos.texts)} texts ended\n")
        await asyncio.sleep(max(0.0, every - (time.perf_counter() - killed)))


async def undisturbed(address: str, seeds: Sequence[int], chars: int, at_once: int) -> dict[int, str]:
    """The texts of one call each."""
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
    """Whether no text was harmed, by enough resumes."""
    async with AsyncClient(replicas.addresses, patience=PATIENCE) as client:
        chaos = Chaos(client, chars)
        await asyncio.gather(*map(chaos.read, range(streams)), disturb(replicas, chaos, resumes, every))
    shortest = min(text.seconds for text in chaos.texts)
    print(f"{len(chaos.texts)} texts of {chars:,} characters, the shortest took {shortest:.1f} s")
    print(f"{replicas.kills} kills, {chaos.seen:,} resumes")
    for name, checkpoints in (("checkpoints", True), ("replay", False)):
        _report(name, [text for text in chaos.texts if text.checkpoints is checkpoints])
    expected = await undisturbed(replicas.addresses[0], [text.seed for text in chaos.texts], chars, streams)
    wrong = [text for text in chaos.texts if text.text != expected[text.seed] or text.generated_chars != chars]
    print(f"texts that differ from the undisturbed ones: {len(wrong)}")
    return not wrong and chaos.seen >= resumes


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
    parser.add_argument("--resumes", type=int, default=1000, help="until so many were seen (%(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills (%(default)s)")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.write_text(secrets.token_hex(32))
        # Far from equally probable characters: so a wrong state shows in the text.
        bundle = settings.bundle or untrained_bundle(Path(folder, "chaos"), hidden=256, sharpness=40)
        replicas = Replicas(bundle, keys)
        try:
            replicas.start()
            replicas.start()
            passed = asyncio.run(run(replicas, settings.streams, settings.chars, settings.resumes, settings.every))
        finally:
            replicas.stop()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
