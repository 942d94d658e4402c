"""Fuzz a server with outsiders' bytes: no crash, no hang, no INTERNAL, nothing leaked.

Each surface gets its inputs twice: in a process of its own, guided by coverage where atheris is installed, down to
where they are trusted; and those that go over a wire, over real connections to a real server, beside another client.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pydantic import Field

from benchmarks.fuzzing.connections import Target, flags_of, send_inputs
from benchmarks.fuzzing.surface import Fault
from benchmarks.fuzzing.surfaces import CONNECTED, NAMES, open_surface
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import serving, untrained_bundle
from charstream.settings import Settings, fail, parse

COMMAND = "python -m benchmarks.fuzzing"
END_SECONDS = 60
TAIL_CHARS = 3000  # of a log that are shown


class FuzzSettings(Settings):
    """Fuzz what outsiders' bytes reach. Exit code 1 after a fault."""

    surface: tuple[str, ...] = Field((), description=f"one of {', '.join(NAMES)}; may be repeated, default all")
    inputs: int = Field(10_000, ge=1, description="inputs in a process of its own")
    connected: int = Field(2_000, ge=0, description="inputs over real connections")
    bundle: Path | None = Field(None, description="in float32; without it a small one is made, which takes torch")
    faults: Path = Field(Path("runs/fuzz"), description="folder for inputs that led to a fault")
    replay: Path | None = Field(None, description="such an input: it is given to its one --surface again")
    seed: int = Field(0, ge=0, description="of the inputs over connections")


@dataclass
class Result:
    """The outcomes and statuses of a surface's inputs, and its faults."""

    outcomes: dict[str, int] = field(default_factory=dict)
    how: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def row(self, name: str, seconds: float) -> str:
        """Return the result as a row of the printed table."""
        sums = (f"{sum(counts.values()):,}" for counts in (self.outcomes, self.statuses))
        inputs, connected = sums
        columns = (name, inputs, self.how, _list(self.outcomes), connected, _list(self.statuses) or "-")
        return f"| {' | '.join((*columns, str(len(self.faults)), f'{seconds:.0f}'))} |"


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))


def fuzz(name: str, bundle: Path, settings: FuzzSettings) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        result = _fuzz_in_process(name, bundle, Path(folder), settings)
    if name in CONNECTED and settings.connected:
        _fuzz_over_connections(name, bundle, result, settings)
    return result


def _fuzz_in_process(name: str, bundle: Path, folder: Path, settings: FuzzSettings) -> Result:
    command = [sys.executable, "-m", "benchmarks.fuzzing.guided", name, str(settings.inputs), str(bundle), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    result, written = Result(), folder / "result.json"
    if written.exists():
        found = json.loads(written.read_text())
        result = Result(found["outcomes"], "guided by coverage" if found["guided"] else "not guided")
    for kind in ("crash", "timeout", "oom", "leak"):
        for file in folder.glob(f"{kind}-*"):
            result.faults.append(_keep(name, file.name, file.read_bytes(), settings))
    if ended.returncode or not written.exists():
        result.faults.append(f"exit code {ended.returncode}: {(ended.stdout + ended.stderr)[-TAIL_CHARS:]}")
    return result


def _fuzz_over_connections(name: str, bundle: Path, result: Result, settings: FuzzSettings) -> None:
    first = Random(settings.seed).getrandbits(32)
    with open_surface(name, bundle) as surface, _target(bundle, result) as target:
        inputs = [surface.input(first + number) for number in range(settings.connected)]
        try:
            result.statuses = dict(send_inputs(surface, target, inputs))
        except Fault as fault:
            result.faults.append(str(fault.args[0]))
            for data in fault.args[1:]:
                result.faults.append(_keep(name, f"connected-{abs(hash(data)):x}", data, settings))


@contextmanager
def _target(bundle: Path, result: Result) -> Iterator[Target]:
    """Yield a server of its own, which must end at once at the end: else it has texts that nobody reads."""
    with tempfile.TemporaryDirectory() as folder, serving(bundle, *flags_of(Path(folder) / "keys")) as server:
        yield Target(server.address, server.pid, lambda: server.log)
        code = server.stop(signal.SIGTERM, END_SECONDS)
        if code or "the grace is over" in server.log:
            result.faults.append(f"the server ended with {code}: {server.log[-TAIL_CHARS:]}")


def _keep(name: str, file: str, data: bytes, settings: FuzzSettings) -> str:
    """Write an input to the folder of faults; return the command that gives it again."""
    settings.faults.mkdir(parents=True, exist_ok=True)
    path = settings.faults / f"{name}-{file}"
    path.write_bytes(data)
    return f"{COMMAND} --surface {name} --replay {path}"


def replay(name: str, data: bytes, bundle: Path) -> int:
    """Give an input again, also over a connection if its surface has one. Raises what the surface raises."""
    result = Result()
    with open_surface(name, bundle) as surface:
        print(f"alone: {surface.take(data)}")
        if surface.method:
            with _target(bundle, result) as target:
                print(f"over a connection: {dict(send_inputs(surface, target, [data] * 2))}")
    print("\n".join(result.faults))
    return 1 if result.faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(FuzzSettings, argv, command=COMMAND)
    names = settings.surface or NAMES
    if unknown := set(names) - set(NAMES):
        fail(COMMAND, f"--surface: there is none that is called {min(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(Path(folder) / "lstm-1x8", layers=1, hidden=8)
        if settings.replay:
            return replay(names[0], settings.replay.read_bytes(), bundle)
        print(describe_machine())
        print("| surface | inputs | how | outcomes | connected | statuses | faults | seconds |", flush=True)
        print("|---|---|---|---|---|---|---|---|", flush=True)
        faults = []
        for name in names:
            begin = time.monotonic()
            result = fuzz(name, bundle, settings)
            print(result.row(name, time.monotonic() - begin), flush=True)
            faults += [f"{name}: {fault}" for fault in result.faults]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
