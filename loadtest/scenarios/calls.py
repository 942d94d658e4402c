"""One call of a load test: all that decides it, so that it can be made again."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

__all__ = ["Action", "Call"]

# generate: a text read to its end. slow: with a pause after each message. cancel: given up at `place`. resume: ended at
# `place` and gone on with from its token. continuations: `n` texts of one prompt. score: the prompt's probability.
Action = Literal["generate", "slow", "cancel", "resume", "continuations", "score"]


@dataclass(frozen=True)
class Call:
    """What a stream asks for. `kind` names its entry in the mix; `place` is a share of `max_chars`."""

    kind: str
    prompt: str
    seed: int
    max_chars: int
    action: Action = "generate"
    temperature: float | None = None
    n: int = 1
    continuation: int = 0
    place: float = 0.5
    pause: float = 0.0

    @property
    def text_key(self) -> tuple[Any, ...]:
        """All that decides its texts, whichever way they are asked for."""
        return (self.action == "score", self.prompt, self.seed, self.max_chars, self.temperature)

    def plain(self, continuation: int = 0) -> "Call":
        """Return the call that asks for the same text, or one of the same texts, in the simplest way."""
        if self.action == "score":
            return self
        return replace(self, action="generate", n=1, continuation=continuation, pause=0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        return cls(**content)
