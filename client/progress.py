"""How far a text has come, as a value: it can be kept, sent to another process, and gone on from."""

from dataclasses import dataclass

from client.results import Started

__all__ = ["BEGINNING", "Place", "Progress"]


@dataclass(frozen=True)
class Place:
    """Where a request's text begins in the whole one: at its beginning, or at a checkpoint."""

    token: bytes = b""  # b"": the beginning
    text_chars: int = 0
    generated_chars: int = 0


BEGINNING = Place()


@dataclass(frozen=True)
class Progress:
    """What `Client.go_on` needs. It can be pickled."""

    request: bytes  # the GenerateRequest, as it was first sent
    started: Started
    text: str
    logprobs: tuple[float, ...]
    alternatives: tuple[tuple[tuple[str, float], ...], ...]
    checkpoint: Place
    seconds: float  # that have counted for its time limit
    raw: bytes = b""  # of a model of bytes: what came, of which `text` are the whole characters
