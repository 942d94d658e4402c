"""The prompts of a load test where none are given: every one of their characters is known to the model."""

from client.results import ModelInfo

__all__ = ["choose_prompts"]

COUNT, LENGTH = 4, 8


def choose_prompts(model: ModelInfo) -> tuple[str, ...]:
    """Return the prompts that came with the model; where there are none, some of the characters that it knows."""
    return model.prompts or _pieces(model)


def _pieces(model: ModelInfo) -> tuple[str, ...]:
    known = model.vocabulary if model.unit == "characters" else "".join(map(chr, range(128)))
    shown = [char for char in known if char.isprintable()] or known.replace("\0", "")  # which no command line may have
    pieces = ("".join(shown[first::COUNT][:LENGTH]) for first in range(COUNT))
    return tuple(piece for piece in pieces if piece)
