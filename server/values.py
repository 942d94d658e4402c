"""What passes between the event loop and the engine: frozen values, nothing of asyncio, numpy only as data."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Cancel",
    "Command",
    "Delivery",
    "Finish",
    "Generation",
    "Grant",
    "Handled",
    "Reason",
    "Request",
    "Sampling",
    "Stop",
]


class Reason(Enum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a character is drawn: see docs/design.md, section 5. `top_k` 0, `top_p` 1 and `min_p` 0 are no limit."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def limited(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate.

    Attributes:
        prompt: numbers of its characters.
        stop: strings before which the text ends.
        max_delay: seconds that a generated character may wait for others.
        max_chunk_chars: of a message; None for no limit.
    """

    prompt: NDArray[np.int64]
    max_chars: int
    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    max_delay: float
    max_chunk_chars: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """Asks the engine for a text.

    Attributes:
        stream: the number that names it from now on.
        window: characters that may be generated before the first grant.
        submitted: time.monotonic() when it was asked for.
    """

    stream: int
    generation: Generation
    window: int
    submitted: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for the stream any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The stream's reader took `chars`: so many more may be generated."""

    stream: int
    chars: int


@dataclass(frozen=True, slots=True)
class Handled:
    """The event loop is through with what so many ticks delivered, after so many seconds."""

    ticks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """The engine ends."""


Command = Request | Cancel | Grant | Handled | Stop


@dataclass(frozen=True, slots=True)
class Finish:
    """How a text ended, and its times in seconds since it was submitted."""

    reason: Reason
    stop: str
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one tick made of one stream."""

    stream: int
    text: str
    finish: Finish | None
