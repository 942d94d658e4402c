"""What others' bytes do to a server: no crash, no hang, no INTERNAL, nothing leaked.

Each surface gets its inputs twice: in a process of its own, guided by coverage where atheris is installed, down to
where they are trusted; and those that go over a wire, over real connections to a real server, beside another client.
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pydantic import Field

from benchmarks.fuzzing.connected import Target, connected, flags_of
from benchmarks.fuzzing.surface import Fault
from benchmarks.fuzzing.surfaces import CONNECTED, NAMES, opened
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import untrained_bundle
from charstream.settings import Settings, fail, parse

COMMAND = "python -m benchmarks.fuzzing"
START_SECONDS, END_SECONDS = 60, 60


class FuzzSettings(Settings):
    """Fuzzes what outsiders' bytes reach. Exit code 1 after a fault."""

    surface: tuple[str, ...] = Field((), description=f"one of {', '.join(NAMES)}; may be repeated, default all")
    inputs: int = Field(10_000, ge=1, description="inputs in a process of its own")
    connected: int = Field(2_000, ge=0, description="inputs over real connections")
    bundle: Path | None = Field(None, description="in float32; without it a small one is made, which takes torch")
    faults: Path = Field(Path("runs/fuzz"), description="folder for inputs that led to a fault")
    replay: Path | None = Field(None, description="such an input: it is given to its one --surface again")
    seed: int = Field(0, ge=0, description="of the inputs over connections")


@dataclass
class Found:
    """What became of a surface's inputs."""

    outcomes: dict[str, int]
    how: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def fuzzed(name: str, bundle: Path, settings: FuzzSettings) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        found = _alone(name, bundle, Path(folder), settings)
    if name in CONNECTED and settings.connected:
        _over_connections(name, bundle, found, settings)
    return found


def _alone(name: str, bundle: Path, folder: Path, settings: FuzzSettings) -> Found:
    command = [sys.executable, "-m", "benchmarks.fuzzing.guided", name, str(settings.inputs), str(bundle), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found, result = Found({}), folder / "result.json"
    if result.exists():
        written = json.loads(result.read_text())
        found = Found(written["outcomes"], "guided by coverage" if written["guided"] else "not guided")
    for kind in ("crash", "timeout", "oom", "leak"):
        for file in folder.glob(f"{kind}-*"):
            found.faults.append(_kept(name, file.name, file.read_bytes(), settings))
    if ended.returncode or not result.exists():
        found.faults.append(f"exit code {ended.returncode}: {_tail(ended.stdout + ended.stderr)}")
    return found


def _over_connections(name: str, bundle: Path, found: Found, settings: FuzzSettings) -> None:
    first = Random(settings.seed).getrandbits(32)
    with opened(name, bundle) as surface, _server(bundle, found) as target:
        inputs = [surface.input(first + number) for number in range(settings.connected)]
        try:
            found.statuses = dict(asyncio.run(connected(surface, target, inputs)))
        except Fault as fault:
            found.faults.append(str(fault.args[0]))
            for data in fault.args[1:]:
                found.faults.append(_kept(name, f"connected-{abs(hash(data)):x}", data, settings))


@contextmanager
def _server(bundle: Path, found: Found) -> Iterator[Target]:
    """A server of its own, which must end at once at the end: else it has texts that nobody reads."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "server", "--models", str(bundle), "--port", "0"]
        with log.open("wb") as file:
            process = subprocess.Popen([*command, *flags_of(Path(folder) / "keys")], stderr=file)
        try:
            yield Target(_address(process, log), process.pid, log.read_text)
            process.send_signal(signal.SIGTERM)
            code = process.wait(END_SECONDS)
        finally:
            process.kill()
            process.wait()
        if code or "the grace is over" in log.read_text():
            found.faults.append(f"the server ended with {code}: {_tail(log.read_text())}")


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        _, found, rest = log.read_text().partition("listening on ")
        if found and "\n" in rest:
            return rest.split()[0]
        time.sleep(0.05)
    raise SystemExit(f"the server does not listen: {_tail(log.read_text())}")


def _kept(name: str, file: str, data: bytes, settings: FuzzSettings) -> str:
    """Writes an input to where it stays; returns how to give it again."""
    settings.faults.mkdir(parents=True, exist_ok=True)
    path = settings.faults / f"{name}-{file}"
    path.write_bytes(data)
    return f"{COMMAND} --surface {name} --replay {path}"


def _tail(text: str) -> str:
    return text[-3000:]


def replayed(name: str, data: bytes, bundle: Path) -> int:
    """Alone, and over a connection where there is one; raises what it raises."""
    found = Found({})
    with opened(name, bundle) as surface:
        print(f"alone: {surface.take(data)}")
        if surface.method:
            with _server(bundle, found) as target:
                print(f"over a connection: {dict(asyncio.run(connected(surface, target, [data] * 2)))}")
    print("\n".join(found.faults))
    return 1 if found.faults else 0


def _row(name: str, found: Found, seconds: float) -> str:
    outcomes = ", ".join(f"{count:,} {what}" for what, count in sorted(found.outcomes.items()))
    statuses = ", ".join(f"{count:,} {what}" for what, count in sorted(found.statuses.items())) or "-"
    inputs, over = sum(found.outcomes.values()), sum(found.statuses.values())
    columns = (
        name,
        f"{inputs:,}",
        found.how,
        outcomes,
        f"{over:,}",
        statuses,
        str(len(found.faults)),
        f"{seconds:.0f}",
    )
    return f"| {' | '.join(columns)} |"


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(FuzzSettings, argv, command=COMMAND)
    names = settings.surface or NAMES
    if unknown := set(names) - set(NAMES):
        fail(COMMAND, f"--surface: there is none that is called {min(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "lstm-1x8", layers=1, hidden=8)
        if settings.replay:
            return replayed(names[0], settings.replay.read_bytes(), bundle)
        print(describe_machine())
        print("| surface | inputs | how | outcomes | connected | statuses | faults | seconds |", flush=True)
        print("|---|---|---|---|---|---|---|---|", flush=True)
        faults = []
        for name in names:
            begin = time.monotonic()
            found = fuzzed(name, bundle, settings)
            print(_row(name, found, time.monotonic() - begin), flush=True)
            faults += [f"{name}: {fault}" for fault in found.faults]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
