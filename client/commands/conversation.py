"""A text that a person and a model write by turns. No terminal and no server is in here."""

from dataclasses import dataclass, replace

__all__ = ["Conversation", "Turn"]


@dataclass(frozen=True)
class Turn:
    """What the person wrote, and what the model made of it."""

    typed: str
    continued: str
    token: bytes = b""  # stands after it; b"" where the model was interrupted
    seed: int | None = None
    stop: str = ""  # the stop string before which the model ended
    max_chars: int | None = None  # that were asked for


@dataclass(frozen=True)
class Conversation:
    """The turns so far.

    Args:
        start: the token of a text before all turns, or b"".
        seed: of the first turn.
    """

    start: bytes = b""
    seed: int | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        return "".join(turn.typed + turn.continued for turn in self.turns)

    @property
    def place(self) -> tuple[bytes, str]:
        """The last token, and the text after it, which the model has to read again."""
        after = ""
        for turn in reversed(self.turns):
            if turn.token:
                return turn.token, after
            after = turn.typed + turn.continued + after
        return self.start, after

    @property
    def next_seed(self) -> int | None:
        """That of the last turn, on which a token's text goes on; None where there is no turn and none was given."""
        return self.turns[-1].seed if self.turns else self.seed

    def with_turn(self, turn: Turn) -> "Conversation":
        return replace(self, turns=(*self.turns, turn))

    def undone(self) -> "Conversation":
        """Without its last turn."""
        return replace(self, turns=self.turns[:-1])

    def without_tokens(self) -> "Conversation":
        """For a server that accepts none of those it gave: it has to read the whole text again."""
        return replace(self, turns=tuple(replace(turn, token=b"") for turn in self.turns))
