"""What passes between the event loop and the engine: frozen values, nothing of asyncio, numpy only as data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Cancel",
    "Command",
    "Conclude",
    "Delivery",
    "Finish",
    "Generation",
    "Grant",
    "Handled",
    "Reason",
    "Request",
    "RowState",
    "Sampling",
    "Scores",
    "Snapshot",
    "Stop",
]


class Reason(Enum):
    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"
    DRAINED = "drained"
    NOT_ADMITTED = "not admitted"


@dataclass(frozen=True, slots=True)
class RowState:
    """Where a text stands: all that its characters left behind.

    Attributes:
        token: the last character.
        state: one [H] per name of the model's state.
        position: of the last character; the start character has 0.
    """

    token: int
    state: tuple[NDArray[np.float32], ...]
    position: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The place after what was sent of a text: a state, and the characters that lead from it to that place.

    Attributes:
        forced: numbers of these characters.
        tail: the end of the generated text before that place, as far as a stop string may have begun in it.
        text_chars, generated_chars: characters that were sent of the request's text, and generated ones among them.
        recent: the last symbols before that place, as many as a character may have without being complete.
    """

    state: RowState
    forced: tuple[int, ...]
    tail: str
    text_chars: int
    generated_chars: int
    recent: str = ""

    @property
    def position(self) -> int:
        return self.state.position + len(self.forced)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a character is drawn: see docs/design.md, section 5. `top_k` 0, `top_p` 1 and `min_p` 0 are no limit.

    Attributes:
        bias: what is added to the logits, by the number of the character; -inf bans it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def limited(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or bool(self.bias)


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate.

    Attributes:
        forced: numbers of the characters that come first: of the prompt, and what was received before.
        silent: so many of them are not sent.
        max_chars: to generate after them.
        sampling, seed, continuation: decide the outcomes.
        stop: strings before which the text ends, or after which (`include_stop`).
        stop_skips: generated characters, from the first, in which no stop string begins.
        received: of `forced`, the last characters, which were generated.
        sent_chars: characters that the reader has of this text already.
        tail: generated before `forced`, in which a stop string may have begun.
        recent: the last symbols before the first that is generated.
        max_delay: seconds that a generated character may wait for others.
        max_chunk_chars: of a message; None for no limit.
        alternatives: scores are wanted, with the so many most probable characters; None for no scores.
        origin: where the text goes on; None for the start.
        checkpoint_chars: a snapshot after every so many; 0 for none.
        snapshot: one is wanted at the end.
        time_limit: seconds after which the text ends.
    """

    forced: NDArray[np.int64]
    silent: int
    max_chars: int
    sampling: Sampling
    seed: int
    continuation: int = 0
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    stop_skips: int = 0
    received: str = ""
    sent_chars: int = 0
    tail: str = ""
    recent: str = ""
    max_delay: float = 10.0
    max_chunk_chars: int | None = None
    alternatives: int | None = None
    origin: RowState | None = None
    checkpoint_chars: int = 0
    snapshot: bool = False
    time_limit: float | None = None

    @property
    def keeps_places(self) -> bool:
        return self.snapshot or self.checkpoint_chars > 0

    def after(self, place: Snapshot) -> "Generation":
        """The same from the place where what is forced ends."""
        forced = np.array(place.forced, np.int64)
        return replace(
            self, origin=place.state, forced=forced, silent=len(forced), sent_chars=place.text_chars, received=""
        )


@dataclass(frozen=True, slots=True)
class Request:
    """Asks the engine for a text.

    Attributes:
        stream: the number that names it from now on.
        window: characters that may be generated before the first grant.
        submitted: time.monotonic() when it was asked for.
        identity: who asked; rows are shared fairly between identities.
    """

    stream: int
    generation: Generation
    window: int
    submitted: float
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Conclude:
    """The text ends where it is, for this reason."""

    stream: int
    reason: Reason


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


Command = Request | Cancel | Conclude | Grant | Handled | Stop


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of the model's own distribution, for N characters.

    Attributes:
        chosen: of the characters themselves, [N].
        best, best_logprobs: the numbers of the A most probable characters at each place, and theirs, [N, A].
    """

    chosen: NDArray[np.float32]
    best: NDArray[np.int64]
    best_logprobs: NDArray[np.float32]

    def part(self, begin: int, end: int | None = None) -> "Scores":
        return Scores(self.chosen[begin:end], self.best[begin:end], self.best_logprobs[begin:end])

    @staticmethod
    def join(parts: Sequence["Scores"]) -> "Scores":
        """Of at least one part."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.chosen, part.best, part.best_logprobs) for part in parts), strict=True)
        return Scores(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True, slots=True)
class Finish:
    """How a text ended, and its times in seconds since it was submitted.

    Attributes:
        generated_chars: that were sent, now or before.
        position: of the last character.
        stop_chars_sent: of characters that were sent before, so many belong to the stop string.
    """

    reason: Reason
    stop: str
    stop_chars_sent: int
    generated_chars: int
    position: int
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one tick made of one stream: characters, their scores if wanted, and the place after them if wanted."""

    stream: int
    text: str
    finish: Finish | None
    scores: Scores | None = None
    snapshot: Snapshot | None = None
