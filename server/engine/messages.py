"""The values that pass between the event loop and the engine: frozen, nothing of asyncio, numpy only as data.

A text is a `Request` on its way in, and one or several `Output`s on its way out.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from server.engine.plan import Chunking
from server.limits import LONGEST_STOP

__all__ = [
    "Begun",
    "Cancel",
    "Chunking",
    "Command",
    "Conclude",
    "EngineObserver",
    "Finish",
    "Grant",
    "Handled",
    "Output",
    "PoolObserver",
    "Reason",
    "Repeat",
    "Request",
    "RowState",
    "Sampling",
    "Scores",
    "Shutdown",
    "Snapshot",
    "StopRule",
]


class Reason(Enum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"
    DRAINED = "drained"
    REPEAT = "repeat"
    NOT_ADMITTED = "not admitted"


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of one row: all that the symbols of its text left behind.

    Attributes:
        token: the last symbol's.
        state: one array [H] for each of the model's state names.
        position: the last symbol's; the start symbol has 0.
    """

    token: int
    state: tuple[NDArray[np.float32], ...]
    position: int

    @classmethod
    def at_start(cls, manifest: Manifest) -> "RowState":
        """Return the row state before a text."""
        zeros = tuple(np.zeros(manifest.model.hidden, np.float32) for _ in manifest.model.state_names)
        return cls(int(manifest.vocabulary.symbols_to_tokens(manifest.start_text)[0]), zeros, 0)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The place after the part of a text that was sent: a row state, and the tokens that lead from it to that place.

    Attributes:
        forced: these tokens.
        tail: the end of the generated text before that place, as far back as a stop string or a repetition may have
            begun.
        text_chars, generated_chars: how many characters of the text were sent, and how many of these were generated.
        recent: the last symbols before that place, as many as an incomplete character may have.
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
    """How a token is drawn: see docs/design.md, section 5. `top_k` 0, `top_p` 1 and `min_p` 0 are no limit.

    Attributes:
        bias: pairs of a token and what is added to its logit; -inf bans it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def is_limited(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or bool(self.bias)


@dataclass(frozen=True, slots=True)
class Repeat:
    """The repetition at which a text ends: its last characters are one block, `times` times in a row.

    Attributes:
        min_period, max_period: characters of a block that counts.
    """

    max_period: int
    times: int
    min_period: int = 1

    @property
    def longest(self) -> int:
        """The most characters of a repetition."""
        return self.max_period * self.times


@dataclass(frozen=True, slots=True)
class StopRule:
    """The stop strings of a text, and the repetition at which it ends.

    Attributes:
        strings: the text ends before the one that is complete first, or after it (`include`).
        skip: number of generated characters, from the first, in which no stop string and no repetition begins.
        tail: generated before the request's text; a stop string or a repetition may have begun there.
        repeat: None: the text may repeat itself.
    """

    strings: tuple[str, ...] = ()
    include: bool = False
    skip: int = 0
    tail: str = ""
    repeat: Repeat | None = None

    @property
    def tail_chars(self) -> int:
        """How far back a stop string of a later request, or this one's repetition, may have begun."""
        return max(LONGEST_STOP, self.repeat.longest if self.repeat else 0) - 1


@dataclass(frozen=True, slots=True)
class Begun:
    """The part of a text that exists when its request comes.

    Attributes:
        received: the generated text at the end of the request's forced tokens.
        sent_chars: how many characters of the text the reader has.
        recent: the last symbols before the first that is generated.
        generated_before: how many characters were generated before the request's origin.
        unchecked_chars: how many generated characters the last checkpoint is back.
        is_replay: another engine had the text and its reader has some of it: it waits with those that go on, not with
            those that begin, and is not refused when the wait is long.
    """

    received: str = ""
    sent_chars: int = 0
    recent: str = ""
    generated_before: int = 0
    unchecked_chars: int = 0
    is_replay: bool = False

    @property
    def generated_chars(self) -> int:
        return self.generated_before + len(self.received)


@dataclass(frozen=True, slots=True)
class Request:
    """A caller's request, checked and encoded. As a command it submits the text to the engine.

    Attributes:
        forced: tokens that come first: those of the prompt, and of text that was received before.
        silent: how many of them, from the first, are not sent.
        max_chars: how many characters to generate after them.
        sampling, seed, continuation: decide the outcomes.
        begun: the part of the text that exists already.
        alternatives: how many of the most probable characters to score beside each; None for no scores.
        origin: the state from which the text goes on; None for the start.
        checkpoint_chars: characters between two checkpoints; 0 for none.
        snapshot: one is wanted at the end.
        state_chars: characters between two outputs that carry the row state, to go on from if the engine dies; 0 for
            none.
        time_limit: seconds after which the text ends.
        identity: who asks; rows are shared fairly between identities.
        submitted: time.monotonic() when the caller asked.
        stream: the number by which later commands, and outputs, name the text.
        window: how many characters may be generated before the first grant.
    """

    forced: NDArray[np.int64]
    silent: int
    max_chars: int
    sampling: Sampling
    seed: int
    continuation: int = 0
    stops: StopRule = StopRule()
    chunking: Chunking = field(default_factory=Chunking)
    begun: Begun = Begun()
    alternatives: int | None = None
    origin: RowState | None = None
    checkpoint_chars: int = 0
    snapshot: bool = False
    state_chars: int = 0
    time_limit: float | None = None
    identity: str = ""
    submitted: float = 0.0
    stream: int = -1
    window: int = 0

    @property
    def keeps_places(self) -> bool:
        return self.snapshot or self.checkpoint_chars > 0

    @property
    def needs_states(self) -> bool:
        """Whether it takes more from a run than tokens: the states around it, or log-probabilities."""
        return self.keeps_places or self.alternatives is not None

    def prefill_only(self) -> "Request":
        """Return the same, but ending where the forced tokens end, with a snapshot."""
        stops = replace(self.stops, strings=(), repeat=None)
        return replace(self, max_chars=0, stops=stops, snapshot=True, checkpoint_chars=0)

    def after(self, place: Snapshot) -> "Request":
        """Return the same from the place where the forced tokens end."""
        forced = np.array(place.forced, np.int64)
        begun = replace(self.begun, sent_chars=place.text_chars, received="")
        return replace(self, origin=place.state, forced=forced, silent=len(forced), begun=begun)


@dataclass(frozen=True, slots=True)
class Conclude:
    """Ends the text where it is, for this reason."""

    stream: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drops the text: nobody waits for it any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Gives back credit: the stream's reader took `chars` characters, so as many more may be generated."""

    stream: int
    chars: int


@dataclass(frozen=True, slots=True)
class Handled:
    """Says that the event loop has handled the outputs of some ticks, `seconds` after the first was posted."""

    ticks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Ends the engine."""


Command = Request | Cancel | Conclude | Grant | Handled | Shutdown


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of the model's own distribution, for N characters.

    Attributes:
        chosen: those of the characters themselves, [N].
        best, best_logprobs: tokens of the A most probable characters at each place, and their scores, [N, A].
    """

    chosen: NDArray[np.float32]
    best: NDArray[np.int64]
    best_logprobs: NDArray[np.float32]

    def part(self, begin: int, end: int | None = None) -> "Scores":
        return Scores(self.chosen[begin:end], self.best[begin:end], self.best_logprobs[begin:end])

    @staticmethod
    def join(parts: "list[Scores]") -> "Scores | None":
        """Return the scores of all parts, one after the other; None if there is no part."""
        if len(parts) < 2:
            return parts[0] if parts else None
        columns = zip(*((part.chosen, part.best, part.best_logprobs) for part in parts), strict=True)
        return Scores(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True, slots=True)
class Finish:
    """How a text ended, and its times in seconds since it was submitted.

    Attributes:
        generated_chars: how many generated characters were sent, now or before.
        position: of the last character.
        stop_chars_sent: how many characters of the stop string were sent before.
        repeat_period: characters of the block that was repeated.
    """

    reason: Reason
    stop: str
    stop_chars_sent: int
    generated_chars: int
    position: int
    queue_seconds: float
    first_char_seconds: float
    total_seconds: float
    repeat_period: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A part of a text on its way to the reader: of one tick, or, joined and cut, of one message.

    Attributes:
        finish: the text ends with this part.
        scores: of the part's characters, if wanted.
        snapshot: the place after the part, if wanted.
        state: the row state after the run, whose position may be beyond the part's last character; see
            `Request.state_chars`.
    """

    stream: int
    text: str
    finish: Finish | None
    scores: Scores | None = None
    snapshot: Snapshot | None = None
    state: RowState | None = None


class EngineObserver:
    """Is told by one engine, from its thread, what it does; must not block. This one ignores it."""

    def on_start(self) -> None:
        """The engine's thread begins."""

    def on_wait(self, seconds: float) -> None:
        """A text got its first slot, or gave up waiting for it, after `seconds`."""

    def on_run(self, rows: int, steps: int, seconds: float, generated: int, forced: int) -> None:
        """A run took `seconds`; `generated` and `forced` count the characters that it ran."""

    def on_tick(self, rows: int, waiting: int, paused: int) -> None:
        """A tick ended with this many texts that have a slot, that never had one, and that lost theirs."""

    def on_end(self) -> None:
        """The engine's thread ends."""


class PoolObserver:
    """Is told, in the event loop, of the engine processes of one model. This one ignores it."""

    def engine(self, index: int, pid: int) -> EngineObserver:
        """Return the observer of an engine whose process has been started."""
        return EngineObserver()

    def on_death(self, replays: int) -> None:
        """An engine process ended by itself, and `replays` texts go on elsewhere."""
