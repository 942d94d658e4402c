"""Simulate one machine, beside what was measured of it, and say how many serve 1,000, 100,000 and 10,000,000 streams.

    python -m benchmarks.scale [--chars 20] [--messages 4]

Nothing is run but the server's scheduler, so the figures do not depend on the machine.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from benchmarks.scale.costs import MICROSECOND, Costs, step_seconds
from benchmarks.scale.machine import Load, Machine, simulate
from benchmarks.scale.points import compare
from benchmarks.scale.sizes import Demand, Hardware, size
from charstream.settings import Settings, parse

ALLOWED = 0.1  # of a measured figure
COMMAND = "python -m benchmarks.scale"


class ScaleSettings(Settings):
    """Simulate one machine, and say how many serve many streams."""

    streams: tuple[int, ...] = Field((1_000, 100_000, 10_000_000), description="open texts at a time")
    chars: float = Field(20.0, gt=0, description="characters a second that each gets; a person reads some 20")
    messages: float = Field(4.0, gt=0, description="messages a second in which they come")
    cores: int = Field(16, ge=2, description="of a machine")
    gigabits: float = Field(10.0, gt=0, description="of its network")
    memory: float = Field(32.0, gt=0, description="gigabytes of its memory")
    envoy_us: float = Field(20.0, ge=0, description="microseconds of a core that Envoy takes for a message")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: the simulation is within 10 % of each point that is no overload; 1: it is not."""
    settings = parse(ScaleSettings, argv, command=COMMAND)
    costs = replace(Costs(), envoy_message=settings.envoy_us * MICROSECOND)
    is_close = _show_points(costs)
    demand = Demand(settings.chars, settings.messages)
    _show_server(demand, costs)
    hardware = Hardware(settings.cores, settings.gigabits, settings.memory * 1e9)
    for streams in settings.streams:
        found = size(streams, demand, costs, hardware)
        needed = ", ".join(f"{name} {found.need[name]:.3g}" for name in found.bottlenecks)
        print(
            f"{streams:,} streams: {found.servers:,} servers on {found.machines:,} machines, and {found.envoys:,} with "
            f"Envoy; alone each would take: {needed}"
        )
    return 0 if is_close else 1


def _show_points(costs: Costs) -> bool:
    is_close = True
    for point, result in compare(costs):
        ratio = result.chars / point.chars
        told = f"{point.name}: {result.chars:,.0f} chars/s, measured {point.chars:,.0f}, {ratio:.2f}"
        if point.messages:
            told += f"; {result.messages:,.0f} messages/s, measured {point.messages:,.0f}"
            told += f", {result.messages / point.messages:.2f}"
        close = abs(ratio - 1) <= ALLOWED and abs(result.messages / (point.messages or result.messages) - 1) <= ALLOWED
        told += f"; event loop {result.front:.2f}" + (" (overload: not in the model)" if point.is_overload else "")
        print(told if close or point.is_overload else f"{told} MISSED", flush=True)
        is_close &= close or point.is_overload
    return is_close


def _show_server(demand: Demand, costs: Costs) -> None:
    """Simulate one server of the plan: an event loop on one core, an engine on another; readers are elsewhere."""
    streams = int(0.7 / costs.front_message / demand.messages)
    away = replace(costs, client_message=0.0)
    machine = Machine(2, 1, step_seconds, away, chunk_delay=1 / demand.messages)
    result = simulate(machine, Load(streams, 2000), seconds=20, warm=10)
    chars, messages = result.chars / streams, result.messages / streams
    print(
        f"a server with {streams:,} streams and one engine: each gets {chars:.1f} characters and {messages:.2f} "
        f"messages a second; event loop {result.front:.2f}, engine {result.engine:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
