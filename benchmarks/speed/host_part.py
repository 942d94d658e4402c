"""Measure what the host adds to the time of a device that is played: an engine, and gRPC with readers elsewhere.

    python -m benchmarks.speed.host_part [--step-us 200] [--rows 1024]

The device takes the same time for a step whatever its rows, and computes nothing: the rest is what a real device of
that speed would have to wait for. Engine and gRPC take turns.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.speed.engine import engine_chars_per_second
from benchmarks.support.load import bottleneck, clients_load
from benchmarks.support.machine import describe_machine
from benchmarks.support.played_device import play_device
from benchmarks.support.rounds import measure_in_turn
from benchmarks.support.servers import flags_of, given_or_untrained, serving
from bundle.read import read_bundle
from charstream.settings import Settings, parse
from server.runtime.load import load
from server.settings import ServerSettings


class HostPartSettings(Settings):
    """Measure what the host adds to a device's time."""

    step_us: float = Field(200.0, gt=0, description="microseconds that the device takes for a step")
    rows: tuple[int, ...] = Field((1, 64, 1024), description="texts at a time")
    text_chars: int = Field(2000, ge=1, description="characters of a text over gRPC; the next one follows it")
    rounds: int = Field(5, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(4.0, gt=0, description="duration of each measurement")
    clients: int = Field(2, ge=1, description="processes that read what the server sends")
    bundle: Path | None = Field(None, description="a bundle with fp32-cuda (default: an untrained LSTM 2x64)")


class Measurement:
    """The engine and the server of one bundle with a device that is played."""

    def __init__(self, settings: HostPartSettings, bundle: Path, rows: int) -> None:
        self._settings, self._bundle, self._rows = settings, bundle, rows
        self._given: dict[str, Any] = {"provider": "cpu", "precision": "fp32-cuda", "max_rows": rows, "threads": 1}
        self.messages, self.bottleneck = list[float](), ""

    def engine(self) -> float:
        """Return characters a second."""
        bundle, given = read_bundle(self._bundle), ServerSettings(models=self._bundle, **self._given)
        with play_device(1e-6 * self._settings.step_us):
            store = load(bundle, given).store
        return engine_chars_per_second(store, bundle.manifest, self._rows, given.chunk_seconds, self._settings.seconds)

    def grpc(self) -> float:
        """Return characters a second, and note messages a second and who was busy."""
        settings, played = self._settings, ("benchmarks.support.played_device", str(self._settings.step_us))
        with serving(self._bundle, *flags_of(**self._given), module=played) as server:
            sizes = (self._rows, settings.seconds, settings.clients, settings.text_chars)
            loads = clients_load(server.address, server.pid, *sizes)
        self.messages.append(sum(load.messages_per_second for load in loads))
        self.bottleneck = bottleneck([load.cpu for load in loads])
        return sum(load.chars_per_second for load in loads)


def report(settings: HostPartSettings, bundle: Path, rows: int) -> None:
    measurement, device = Measurement(settings, bundle, rows), 1e6 / settings.step_us * rows
    speeds = measure_in_turn({"engine": measurement.engine, "gRPC": measurement.grpc}, settings.rounds)
    shares = (
        f"{name} {statistics.median(values):,.0f} ({statistics.median(values) / device:.2f} of it, "
        f"{min(values) / device:.2f} to {max(values) / device:.2f})"
        for name, values in speeds.items()
    )
    messages = statistics.median(measurement.messages)
    print(
        f"{rows} texts, a step in {settings.step_us:g} us: device {device:,.0f} chars/s, {', '.join(shares)}, "
        f"{messages:,.0f} messages/s of {statistics.median(speeds['gRPC']) / messages:.0f} characters\n"
        f"  {measurement.bottleneck}",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(HostPartSettings, argv, command="python -m benchmarks.speed.host_part")
    print(describe_machine())
    with given_or_untrained(settings.bundle, hidden=64, precisions=("fp32", "fp32-cuda")) as bundle:
        for rows in settings.rows:
            report(settings, bundle, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
