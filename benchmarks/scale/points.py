"""The points of one machine that were measured, and what the simulation says of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.scale.costs import Costs, step_seconds
from benchmarks.scale.machine import Load, Machine, Result, simulate

__all__ = ["POINTS", "Point", "compare"]

CORES = 2
PLAYED_STEP = 0.001


@dataclass(frozen=True)
class Point:
    """A measurement: characters a second, and messages where they were counted.

    Attributes:
        engines_compute: False: the engines were played, and took a millisecond for a step.
        is_overload: more threads wanted a core than there were, for long: what that costs is not in the model.
    """

    name: str
    engines: int
    streams: int
    chars: float
    messages: float = 0.0
    chunk_delay: float = 0.02
    text_chars: int = 2000
    engines_compute: bool = True
    is_overload: bool = False


def _front(engines: int, streams: int, chars: float, messages: float, *, is_overload: bool = False) -> Point:
    name = f"front, {engines} x {streams} played"
    return Point(name, engines, engines * streams, chars, messages, 0.02, 20_000, False, is_overload)


# Evidence, "The front's limit", and README at 06944c7, "Figures", the column "over gRPC" in 8 bits.
POINTS = (
    _front(1, 64, 63_751, 2_951),
    _front(1, 256, 256_220, 12_199),
    _front(2, 256, 491_027, 22_363),
    _front(4, 64, 256_187, 12_518),
    _front(4, 256, 581_112, 25_298, is_overload=True),
    Point("over gRPC, 1 stream", 2, 1, 14_622),
    Point("over gRPC, 16 streams", 2, 16, 100_724),
    Point("over gRPC, 64 streams", 2, 64, 136_962),
    Point("over gRPC, 256 streams", 2, 256, 96_624),
    Point("over gRPC, 256 streams, 80 ms", 2, 256, 157_020, chunk_delay=0.08),
)


def compare(costs: Costs, seconds: float = 4.0) -> Iterator[tuple[Point, Result]]:
    """Yield each point with what the simulation comes to."""
    for point in POINTS:
        step = step_seconds if point.engines_compute else _played_step
        machine = Machine(
            CORES, point.engines, step, costs, chunk_delay=point.chunk_delay, engines_compute=point.engines_compute
        )
        yield point, simulate(machine, Load(point.streams, point.text_chars), seconds)


def _played_step(rows: int) -> float:
    return PLAYED_STEP
