"""A text that a person and a model write by turns. Uses no terminal and no server."""

from dataclasses import dataclass, replace

__all__ = ["Conversation", "Turn"]


@dataclass(frozen=True)
class Turn:
    """The person's words and the model's continuation of them."""

    typed: str
    continued: str
    token: bytes = b""  # the resume token after it; b"" if the model was interrupted
    seed: int | None = None
    stop: str = ""  # the stop string before which the model ended
    max_chars: int | None = None  # as asked for
    repeats: bool = False  # the model ended because it repeated itself


@dataclass(frozen=True)
class Conversation:
    """The turns so far.

    Args:
        start: the resume token of a text before all turns, or b"".
        seed: the seed of the first turn.
    """

    start: bytes = b""
    seed: int | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        return "".join(turn.typed + turn.continued for turn in self.turns)

    @property
    def place(self) -> tuple[bytes, str]:
        """The last resume token, and the text after it, which the model has to read again."""
        after = ""
        for turn in reversed(self.turns):
            if turn.token:
                return turn.token, after
            after = turn.typed + turn.continued + after
        return self.start, after

    @property
    def next_seed(self) -> int | None:
        """The last turn's seed, as a resume token goes on with its own; without a turn the given one, if any."""
        return self.turns[-1].seed if self.turns else self.seed

    def with_turn(self, turn: Turn) -> "Conversation":
        return replace(self, turns=(*self.turns, turn))

    def without_last_turn(self) -> "Conversation":
        return replace(self, turns=self.turns[:-1])

    def without_tokens(self) -> "Conversation":
        """Return it for a server that refuses its own tokens: the model has to read the whole text again."""
        return replace(self, turns=tuple(replace(turn, token=b"") for turn in self.turns))
