"""Measure what the server's own process can deliver: its engine processes are played, and compute nothing.

    python -m benchmarks.processes.front [--profile FILE]

Each played engine takes a millisecond for a step of any number of rows. The readers are one asyncio client or several,
each in a process of its own, on the same cores. So the figures are those of one event loop and of who reads from it.
"""

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from benchmarks.support.load import Load, bottleneck, clients_load, percentiles
from benchmarks.support.machine import describe_machine
from benchmarks.support.servers import flags_of, given_or_untrained, serving
from charstream.settings import Settings, parse


class FrontSettings(Settings):
    """Measure what the server's own process can deliver."""

    bundle: Path | None = Field(None, description="any bundle with fp32 (default: an untrained LSTM 2x64)")
    step_us: float = Field(1000.0, gt=0, description="microseconds that an engine takes for a step")
    chunk_delay: float = Field(20.0, ge=1, description="milliseconds that a generated character may wait")
    engines: tuple[int, ...] = Field((1, 2, 4), description="engine processes")
    streams: tuple[int, ...] = Field((64, 256), description="texts at a time of each engine")
    clients: tuple[int, ...] = Field((1, 2), description="processes that read")
    rounds: int = Field(3, ge=1, description="rounds, of which the medians are printed")
    seconds: float = Field(4.0, gt=0, description="duration of each measurement")
    profile: Path | None = Field(None, description="file for a profile of the event loop, of the last case")


Case = tuple[int, int, int]  # engines, texts of each, clients


def measure(settings: FrontSettings, bundle: Path, case: Case) -> list[Load]:
    """Return the load of each client."""
    engines, streams, clients = case
    played = ("benchmarks.support.played_engine", str(settings.step_us))
    given = {"engines": engines, "threads": 1, "precision": "fp32", "chunk_delay": settings.chunk_delay}
    with serving(bundle, *flags_of(max_rows=engines * streams, **given), module=played) as server:
        return clients_load(server.address, server.pid, engines * streams, settings.seconds, clients, text_chars=20_000)


def describe(settings: FrontSettings, case: Case, rounds: Sequence[list[Load]]) -> str:
    engines, streams, clients = case
    offered = 1e6 / settings.step_us * engines * streams
    chars = statistics.median(sum(load.chars_per_second for load in loads) for loads in rounds)
    messages = statistics.median(sum(load.messages_per_second for load in loads) for loads in rounds)
    first = [time for loads in rounds for load in loads for time in load.first_char]
    gaps = [time for loads in rounds for load in loads for time in load.gaps]
    times = ", ".join(
        "{} {:.0f} / {:.0f} ms".format(name, *percentiles(t)) for name, t in (("first", first), ("gap", gaps))
    )
    return (
        f"{engines} engines x {streams} texts, {clients} clients: {chars:,.0f} chars/s ({chars / offered:.2f} of "
        f"what they make), {messages:,.0f} messages/s of {chars / messages:.0f} characters; p50 / p99: {times}\n"
        f"  {bottleneck([load.cpu for loads in rounds for load in loads])}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(FrontSettings, argv, command="python -m benchmarks.processes.front")
    print(f"{describe_machine()}; a step in {settings.step_us:g} us, {settings.chunk_delay:g} ms", flush=True)
    cases = [(e, s, c) for e in settings.engines for s in settings.streams for c in settings.clients]
    found: dict[Case, list[list[Load]]] = {case: [] for case in cases}
    with given_or_untrained(settings.bundle, hidden=64, precisions=("fp32",)) as bundle:
        for number in range(settings.rounds):
            for case in cases:
                print(f"round {number + 1} of {settings.rounds}: {case}", file=sys.stderr)
                found[case].append(measure(settings, bundle, case))
        for case, rounds in found.items():
            print(describe(settings, case, rounds))
        if settings.profile:
            os.environ["PLAYED_PROFILE"] = str(settings.profile.resolve())
            measure(settings, bundle, cases[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
