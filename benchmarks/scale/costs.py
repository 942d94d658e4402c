"""What things cost on the machine of the evidence (AMD EPYC with AVX-512 and VNNI, two cores), as it was measured.

An LSTM 2x512 with 96 characters in 8 bits. Beside each number is where it comes from; docs/scale.md says what follows.
"""

from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["Costs", "step_seconds"]

MICROSECOND = 1e-6
# Rows, and characters a second of the decode graph in one thread: README at 06944c7, "Figures", the column "graph".
GRAPH = ((1, 15_200), (16, 88_612), (64, 97_761), (256, 102_491))


@dataclass(frozen=True)
class Costs:
    """Processor seconds, and bytes.

    Attributes:
        front_message: of the event loop, for a message (evidence, "The front's limit": 30 us).
        client_message: of an asyncio client, for a message (the same: 25 us).
        engine_message, engine_run: of an engine, for its part of a message and of a run beside the graph (README,
            "Figures", the columns "graph" and "engine": 0.47 ms of a run of 64 rows, 1.9 ms of 256, and 55 us of one).
        call: of the event loop, for a text's beginning and end beside its messages: assumed.
        shared: speed of an engine beside another one, over its speed alone (evidence, "Engine processes", 3: two bare
            sessions 172,207 of 2 x 101,775 characters a second).
        envoy_message: of Envoy, for a message (evidence, "Envoy's cost": 13 to 20 us where it has much to do).
        message_bytes: on the wire, beside the text (protobuf, frames, TCP, IP): counted, not measured.
        stream_bytes: memory of an open text (evidence, "memory of 4,096 streams": 416 MB ready, at most 667).
    """

    front_message: float = 30 * MICROSECOND
    client_message: float = 25 * MICROSECOND
    engine_message: float = 7.3 * MICROSECOND
    engine_run: float = 55 * MICROSECOND
    call: float = 200 * MICROSECOND
    shared: float = 172_207 / (2 * 101_775)
    envoy_message: float = 20 * MICROSECOND
    message_bytes: float = 100.0
    stream_bytes: float = (667e6 - 416e6) / 4096


def step_seconds(rows: int) -> float:
    """Return the seconds of one step of the graph by its rows, in proportion between those that were measured."""
    points = [(size, size / speed) for size, speed in GRAPH]
    place = bisect_left([size for size, _ in points], rows)
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1] * rows / points[-1][0]
    (low, before), (high, after) = points[place - 1], points[place]
    return before + (after - before) * (rows - low) / (high - low)
