"""Machines for many streams, from what things cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.scale.costs import Costs, step_seconds

__all__ = ["Demand", "Hardware", "Size", "size"]

ROWS = 256  # of a run: the largest batch


@dataclass(frozen=True)
class Demand:
    """What each of the streams gets: characters and messages a second."""

    chars: float = 20.0
    messages: float = 4.0


@dataclass(frozen=True)
class Hardware:
    """A machine, and how much of it may be used.

    Attributes:
        gigabits: of its network, in each direction.
        memory: bytes.
        share: that is planned with, of everything.
    """

    cores: int = 16
    gigabits: float = 10.0
    memory: float = 32e9
    share: float = 0.7


@dataclass(frozen=True)
class Size:
    """What some streams need.

    Attributes:
        servers: processes with an event loop each. One has as many engines as its event loop can feed.
        machines: for the servers; `envoys`: for Envoy, beside them. One more of each, for one that fails.
        need: by resource, the machines that it alone would take: the largest is the first bottleneck.
    """

    streams: int
    servers: int
    machines: int
    envoys: int
    need: Mapping[str, float]

    @property
    def bottlenecks(self) -> list[str]:
        return sorted(self.need, key=lambda name: -self.need[name])


def size(streams: int, demand: Demand, costs: Costs, hardware: Hardware) -> Size:
    messages, chars = streams * demand.messages, streams * demand.chars
    front = messages * costs.front_message
    # A run gives each of its rows the characters of a message.
    run_chars = ROWS * demand.chars / demand.messages
    run_seconds = run_chars * step_seconds(ROWS) / ROWS / costs.shared + ROWS * costs.engine_message + costs.engine_run
    engines = chars / run_chars * run_seconds
    envoy = messages * costs.envoy_message
    gigabits = (messages * costs.message_bytes + chars) * 8e-9
    usable = hardware.cores * hardware.share
    need = {
        "event loops": front / usable,
        "engines": engines / usable,
        "Envoy": envoy / usable,
        "network": gigabits / (hardware.gigabits * hardware.share),
        "memory": streams * costs.stream_bytes / (hardware.memory * hardware.share),
    }
    servers = math.ceil(front / hardware.share)
    machines = math.ceil(max(need["event loops"] + need["engines"], need["network"], need["memory"]))
    return Size(streams, servers, machines + 1, math.ceil(max(need["Envoy"], need["network"])) + 1, need)
