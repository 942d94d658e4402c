"""What the host adds to a device's time, with a device that is played: an engine, and gRPC with readers elsewhere.

    python -m benchmarks.speed.host_part [--step-us 200] [--rows 1024]

The device takes the same time for a step whatever its rows, and computes nothing; so no processor is needed for it, and
what is measured is what a real device of that speed would have to wait for. Engine and gRPC take turns.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.speed.engine import engine_chars_per_second
from benchmarks.support.load import bottleneck, clients_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.played import playing
from benchmarks.support.served import flags_of, serving, untrained_bundle
from bundle.read import read_bundle
from charstream.settings import Settings, parse
from server.runtime.load import load
from server.settings import ServerSettings


class HostPartSettings(Settings):
    """Measures what the host adds to a device's time."""

    step_us: float = Field(200.0, gt=0, description="microseconds that the device takes for a step")
    rows: tuple[int, ...] = Field((1, 64, 1024), description="texts at a time")
    text_chars: int = Field(2000, ge=1, description="characters of a text over gRPC; the next one follows it")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(4.0, gt=0, description="of each measurement")
    clients: int = Field(2, ge=1, description="processes that read what the server sends")
    bundle: Path | None = Field(None, description="a bundle with fp32-cuda (default: an untrained LSTM 2x64)")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(HostPartSettings, argv, command="python -m benchmarks.speed.host_part")
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        bundle = settings.bundle or untrained_bundle(
            Path(folder) / "lstm-2x64", hidden=64, precisions=("fp32", "fp32-cuda")
        )
        for rows in settings.rows:
            _measure(settings, bundle, rows)
    return 0


def _measure(settings: HostPartSettings, bundle: Path, rows: int) -> None:
    device = 1e6 / settings.step_us * rows
    alone, served = list[float](), list[tuple[float, float]]()
    for _ in range(settings.rounds):
        alone.append(_engine(settings, bundle, rows))
        chars, messages, told = _grpc(settings, bundle, rows)
        served.append((chars, messages))
    chars, messages = (statistics.median(column) for column in zip(*served, strict=True))
    engine = statistics.median(alone)
    print(
        f"{rows} texts, a step in {settings.step_us:g} us: device {device:,.0f} chars/s, engine {engine:,.0f} "
        f"({_share(alone, device)}), gRPC {chars:,.0f} ({_share([one for one, _ in served], device)}), "
        f"{messages:,.0f} messages/s of {chars / messages:.0f} characters\n  {told}",
        flush=True,
    )


def _share(speeds: Sequence[float], device: float) -> str:
    return f"{statistics.median(speeds) / device:.2f} of it, {min(speeds) / device:.2f} to {max(speeds) / device:.2f}"


def _given(rows: int) -> dict[str, Any]:
    return {"provider": "cpu", "precision": "fp32-cuda", "max_rows": rows, "threads": 1}


def _engine(settings: HostPartSettings, folder: Path, rows: int) -> float:
    bundle = read_bundle(folder)
    given = ServerSettings(models=folder, **_given(rows))
    with playing(1e-6 * settings.step_us):
        store = load(bundle, given).store
    return engine_chars_per_second(store, bundle.manifest, rows, given.chunk_seconds, settings.seconds)


def _grpc(settings: HostPartSettings, folder: Path, rows: int) -> tuple[float, float, str]:
    """Characters and messages a second, and who was busy."""
    played = ("benchmarks.support.played", str(settings.step_us))
    with serving(folder, *flags_of(**_given(rows)), module=played) as server:
        loads = clients_load(server.address, server.pid, rows, settings.seconds, settings.clients, settings.text_chars)
    chars = sum(load.chars_per_second for load in loads)
    return chars, sum(load.messages_per_second for load in loads), bottleneck([load.cpu for load in loads])


if __name__ == "__main__":
    sys.exit(main())
