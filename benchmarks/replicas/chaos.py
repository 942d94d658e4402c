"""Replicas behind Envoy, and whatever may happen to them: is every character there, once, and the right one?

    python -m benchmarks.replicas.chaos [--streams 300] [--chars 3000]

Three servers, a real Envoy before them, and readers of the Python client, each with one text after the other. Phases:
normal; one replica killed with SIGKILL every few seconds; one stopped (SIGSTOP) for 20 s; each drained and started
again; one ten times slower; Envoy killed and started again; a second version of the model, replica by replica; the keys
of resume tokens replaced in three steps, with a kill after each; recovery. At the end each text is asked for once more
from a server to which nothing happens, by its version, and compared.

For each phase: seconds until the first character and between chunks, calls that went on elsewhere, and after how long
Envoy (its health flags) and the client (a call that failed) noticed what was done.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.replicas.replicas import Replicas, slow_down
from benchmarks.support.envoy import EnvoyProcess, local_configuration, require_envoy
from benchmarks.support.load import percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import serving, untrained_bundle
from client import AsyncClient, AsyncTextStream, Unavailable

PROMPT = "To be, or not to be, that is the question:\n"
TEMPERATURE = 0.8
PATIENCE = 120.0
CHECKPOINT_CHARS = 256
MODEL = "chaos"
COUNT = 3  # replicas
STOPPED_SECONDS, SLOW_SHARE = 20.0, 0.1
LOOK_SECONDS = 0.1  # between two looks at what Envoy knows
VERIFIED_AT_A_TIME = 100
LONG_SECONDS = 3.0


@dataclass
class Phase:
    """The figures of one phase, in seconds."""

    name: str
    began: float
    ended: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    chars: int = 0
    texts: int = 0  # that ended in it
    resumes: int = 0


@dataclass
class Event:
    """Something that was done to a replica, and after how many seconds it was noticed."""

    what: str
    address: str  # of the replica; "" of Envoy itself
    at: float
    failures: int
    envoy: float | None = None
    client: float | None = None


class Chaos:
    """The replicas, their Envoy, and all that readers see."""

    def __init__(self, replicas: Replicas, client: AsyncClient, envoy: EnvoyProcess, keys: Path) -> None:
        self.replicas, self.client, self.envoy, self.keys = replicas, client, envoy, keys
        self.phases: list[Phase] = []
        self.events: list[Event] = []
        self.is_over = False
        self.refused = 0  # asked for again by the reader, as nothing had come

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = self.resumes
        phase = Phase(name, time.perf_counter())
        self.phases.append(phase)
        sys.stderr.write(f"{name}\n")
        yield
        phase.ended, phase.resumes = time.perf_counter(), self.resumes - before

    @property
    def resumes(self) -> int:
        return sum(self.client.counts.resumes.values())

    @property
    def failures(self) -> int:
        return sum(self.client.counts.failures.values())

    def note(self, what: str, number: int | None) -> None:
        address = "" if number is None else self.replicas.addresses[number]
        self.events.append(Event(what, address, time.perf_counter(), self.failures))

    async def watch(self) -> None:
        """Note when Envoy and the client notice the last event."""
        while not self.is_over:
            await asyncio.sleep(LOOK_SECONDS / 2)
            if not self.events:
                continue
            event, now = self.events[-1], time.perf_counter()
            if event.client is None and self.failures > event.failures:
                event.client = now - event.at
            if event.envoy is None and event.address:
                flags = await asyncio.to_thread(self._flags, event.address)
                if flags:
                    event.envoy = time.perf_counter() - event.at

    def _flags(self, address: str) -> set[str]:
        try:
            return self.envoy.hosts().get(address, set())
        except ValueError:  # it is being started
            return set()


class Readers:
    """Readers of one text after the other."""

    def __init__(self, chaos: Chaos, chars: int) -> None:
        self._chaos, self._chars = chaos, chars
        self.streams: dict[int, AsyncTextStream] = {}  # by seed
        self.seconds: list[float] = []
        self.long_gaps: list[tuple[float, int]] = []  # with how often the rest was asked for in each

    async def read_one_after_another(self, seed: int, streams: int, wait: float) -> None:
        await asyncio.sleep(wait)
        while not self._chaos.is_over:
            await self._read(seed)
            seed += streams

    async def _read(self, seed: int) -> None:
        begin = time.perf_counter()
        while True:
            stream = self._chaos.client.stream(
                PROMPT,
                model=MODEL,
                seed=seed,
                max_chars=self._chars,
                temperature=TEMPERATURE,
                checkpoint_chars=CHECKPOINT_CHARS if seed % 2 else 0,
            )
            try:
                await self._take(stream)
            except Unavailable as error:
                if error.progress:
                    raise
                self._chaos.refused += 1
                await asyncio.sleep(0.1)
            else:
                break
        self.seconds.append(time.perf_counter() - begin)
        self.streams[seed] = stream
        self._chaos.phases[-1].texts += 1

    async def _take(self, stream: AsyncTextStream) -> None:
        last, is_first, resumes = time.perf_counter(), True, 0
        async for text in stream:
            now, phase = time.perf_counter(), self._chaos.phases[-1]
            (phase.first if is_first else phase.gaps).append(now - last)
            if now - last > LONG_SECONDS:
                self.long_gaps.append((now - last, stream.resumes - resumes))
            phase.chars += len(text)
            last, is_first, resumes = now, False, stream.resumes


async def disturb(chaos: Chaos, seconds: float, every: float, second_version: Path) -> None:
    """Run through the phases."""
    replicas, do = chaos.replicas, asyncio.to_thread

    async def kill(number: int) -> None:
        chaos.note("SIGKILL", number)
        await do(replicas.kill, number)
        await do(replicas.start, number)

    async def kill_every(count: int) -> None:
        for number in range(count):
            begin = time.perf_counter()
            await kill(number % COUNT)
            await asyncio.sleep(max(0.0, every - (time.perf_counter() - begin)))

    with chaos.phase("normal"):
        await asyncio.sleep(seconds)
    with chaos.phase(f"killed every {every:g} s"):
        await kill_every(max(COUNT, int(seconds / every)))
    with chaos.phase("one stopped for 20 s"):
        chaos.note("SIGSTOP", 0)
        with replicas.freeze(0):
            await asyncio.sleep(STOPPED_SECONDS)
        await asyncio.sleep(3)
    with chaos.phase("drained one by one"):
        for number in range(COUNT):
            chaos.note("SIGTERM", number)
            await do(replicas.drain, number)
            await do(replicas.start, number)
            await do(chaos.envoy.wait_for_healthy, COUNT)
    with chaos.phase("one ten times slower"):
        chaos.note("slow", 1)
        with slow_down(replicas.server(1).pid, SLOW_SHARE):
            await asyncio.sleep(seconds / 2)
    with chaos.phase("Envoy killed twice"):
        for _ in range(2):
            chaos.note("Envoy SIGKILL", None)
            await do(_replace, chaos)
            await asyncio.sleep(seconds / 4)
    with chaos.phase("a second version"):
        for models in replicas.models:
            await do(shutil.copytree, second_version, models / ".coming")
            (models / ".coming").rename(models / MODEL / "2")
            await asyncio.sleep(3)
        for number in range(COUNT):
            await kill(number)  # texts of both versions go on: both are served
            await asyncio.sleep(2)
    with chaos.phase("keys replaced"):
        old, new = chaos.keys.read_text(), "another key " * 4
        for number, lines in enumerate(([old, new], [new, old], [new])):
            write_keys(chaos.keys, "\n".join(lines))
            await asyncio.sleep(2)
            await kill(number)
    with chaos.phase("recovery"):
        await asyncio.sleep(seconds / 2)
    chaos.is_over = True


def _replace(chaos: Chaos) -> None:
    port = int(chaos.envoy.address.rpartition(":")[2])
    chaos.envoy.stop(signal.SIGKILL)
    chaos.envoy = EnvoyProcess(local_configuration(chaos.replicas.addresses, port=port))


def write_keys(keys: Path, text: str) -> None:
    coming = keys.with_suffix(".coming")
    coming.write_text(text + "\n")
    coming.rename(keys)


async def find_wrong(readers: Readers, models: Path, versions: dict[str, str], chars: int) -> list[int]:
    """Return the seeds of texts that a server to which nothing happens makes differently, or that have another end."""
    wrong, seeds = [], sorted(readers.streams)
    with serving(models, "--engines", "0", "--threads", "1") as server:
        async with AsyncClient(server.address) as client:

            async def compare(seed: int) -> None:
                stream = readers.streams[seed]
                assert stream.started
                assert stream.finish
                model = f"{MODEL}@{versions[stream.started.replica.digest]}"
                whole = client.stream(PROMPT, model=model, seed=seed, max_chars=chars, temperature=TEMPERATURE)
                if await whole.read() != stream.text or stream.finish.generated_chars != chars:
                    wrong.append(seed)

            for begin in range(0, len(seeds), VERIFIED_AT_A_TIME):
                await asyncio.gather(*map(compare, seeds[begin : begin + VERIFIED_AT_A_TIME]))
    return sorted(wrong)


def prepare_models(folder: Path, bundles: Path, hidden: int) -> tuple[list[Path], Path]:
    """Return a folder of models with version 1 for each replica, and last one with both versions; and version 2.

    The two are exported into `bundles`, unless they are there.
    """
    first, second = (bundles / f"{MODEL}-{hidden}-{version}" for version in ("1", "2"))
    for bundle, version, sharpness in ((first, "1", 40), (second, "2", 35)):
        if not bundle.exists():
            shape: dict[str, Any] = {"hidden": hidden, "sharpness": sharpness, "precisions": ["fp32"]}
            untrained_bundle(bundle, **shape, name=MODEL, version=version)
    models = [folder / f"models-{number}" for number in range(COUNT + 1)]
    for each in models:
        shutil.copytree(first, each / MODEL / "1")
    shutil.copytree(second, models[COUNT] / MODEL / "2")
    return models, second


async def run(settings: argparse.Namespace, folder: Path) -> bool:
    """Return whether no text was harmed, after enough resumes."""
    models, second = prepare_models(folder, settings.bundles or folder, settings.hidden)
    keys = folder / "keys"
    write_keys(keys, "a first key " * 4)
    life = ("--drain-delay", "3", "--grace", "2", "--watch", "1", "--chunk-delay", str(settings.chunk_delay))
    flags = ("--resume-keys", str(keys), "--engines", "0", "--threads", "1", *life)
    with Replicas(models[:COUNT], *flags) as replicas:
        envoy = EnvoyProcess(local_configuration(replicas.addresses))
        await asyncio.to_thread(envoy.wait_for_healthy, COUNT)
        async with AsyncClient(envoy.address, patience=PATIENCE) as client:
            chaos = Chaos(replicas, client, envoy, keys)
            readers = Readers(chaos, settings.chars)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(disturb(chaos, settings.seconds, settings.every, second))
                    tasks.create_task(chaos.watch())
                    for seed in range(settings.streams):
                        wait = 2.0 * seed / settings.streams
                        tasks.create_task(readers.read_one_after_another(seed, settings.streams, wait))
            finally:
                chaos.envoy.stop()
    print_phases(chaos, readers, settings)
    async with asyncio.timeout(1800):
        wrong = await find_wrong(readers, models[COUNT], await read_versions(models[COUNT]), settings.chars)
    print(f"texts that differ from the undisturbed ones: {len(wrong)} of {len(readers.streams)} {wrong[:10] or ''}")
    return not wrong and chaos.resumes >= settings.resumes


async def read_versions(models: Path) -> dict[str, str]:
    """Return the version of each digest."""
    with serving(models, "--engines", "0", "--threads", "1") as server:
        async with AsyncClient(server.address) as client:
            return {model.digest: model.version for model in await client.models()}


def print_phases(chaos: Chaos, readers: Readers, settings: argparse.Namespace) -> None:
    streams, counts = readers.streams.values(), chaos.client.counts
    print(f"{settings.streams} streams, {len(streams)} texts of {settings.chars:,} characters", end="; ")
    print(f"a text took {min(readers.seconds):.1f} s or more, {percentiles(readers.seconds)[0]:.1f} s in the middle")
    print(f"resumes: {chaos.resumes:,} {dict(counts.resumes)}; {counts.replayed_chars:,} characters sent back")
    print(
        f"calls that failed: {dict(counts.failures)}; asked again as nothing had come: {counts.retries} by the", end=""
    )
    print(f" client, {chaos.refused} by the reader")
    print(f"{'phase':24}{'s':>6}{'chars/s':>9}{'texts':>7}{'resumes':>9}  first char p50 p99    gap p50 p99 longest")
    for phase in chaos.phases:
        seconds = phase.ended - phase.began
        first, gaps = percentiles(phase.first), percentiles(phase.gaps)
        print(
            f"{phase.name:24}{seconds:6.0f}{phase.chars / seconds:9,.0f}{phase.texts:7}{phase.resumes:9,}"
            f"  {first[0]:12.2f} {first[1]:.2f}    {gaps[0]:7.2f} {gaps[1]:.2f} {max(phase.gaps, default=0):.2f}"
        )
    resumes: dict[int, list[float]] = defaultdict(list)
    for seconds, count in readers.long_gaps:
        resumes[count].append(seconds)
    for count, found in sorted(resumes.items()):
        print(f"gaps above {LONG_SECONDS:g} s with {count} resumes: {len(found)}, the longest {max(found):.1f} s")
    noticed: dict[str, list[Event]] = defaultdict(list)
    for event in chaos.events:
        noticed[event.what].append(event)
    for what, events in noticed.items():
        print(f"{what}, {len(events)} times, noticed after s: by Envoy {_join(events, 'envoy')}", end="")
        print(f"; by the client {_join(events, 'client')}")


def _join(events: list[Event], who: str) -> str:
    found = [getattr(event, who) for event in events]
    return ", ".join("-" if value is None else f"{value:.1f}" for value in found)


def scenario_parser(name: str, description: str | None, *, streams: int) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every scenario has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.replicas.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=streams, help="texts of our client at a time (%(default)s)")
    parser.add_argument("--chars", type=int, default=3000, help="characters of a text (%(default)s)")
    parser.add_argument("--bundles", type=Path, help="folder in which the two models are kept for other runs")
    parser.add_argument("--hidden", type=int, default=64, help="units of the LSTM's two layers (%(default)s)")
    return parser


def run_scenario(
    name: str,
    run: Callable[[argparse.Namespace, Path], Coroutine[Any, Any, bool]],
    settings: argparse.Namespace,
) -> int:
    """Run a scenario with a temporary folder; return the exit code: 0 if it ended as it should."""
    require_envoy(name)
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(run(settings, Path(folder))) else 1


def main() -> int:
    """Exit code 1 if a text differs, or too few resumes were seen."""
    parser = scenario_parser("chaos", __doc__, streams=300)
    parser.add_argument("--seconds", type=float, default=30, help="length of a normal phase (%(default)s)")
    parser.add_argument("--every", type=float, default=5, help="seconds between two kills (%(default)s)")
    parser.add_argument("--chunk-delay", type=float, default=100, help="--chunk-delay of the servers (%(default)s)")
    parser.add_argument("--resumes", type=int, default=1000, help="that have to be seen (%(default)s)")
    return run_scenario("chaos", run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
