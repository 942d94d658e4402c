"""Characters and their numbers."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["UnknownCharacter", "Vocabulary"]


class UnknownCharacter(ValueError):
    """A text holds a character that the model does not know."""

    def __init__(self, character: str, place: int) -> None:
        self.character, self.place = character, place
        super().__init__(f"character {character!r} (U+{ord(character):04X}) at place {place} is not in the vocabulary")


class Vocabulary:
    """The code points that a model knows; a character's number is its place in `symbols`.

    Args:
        symbols: each character once.

    Raises:
        ValueError: if there is none, or one comes twice.
    """

    def __init__(self, symbols: str) -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"a vocabulary needs distinct characters, got {symbols!r}")
        self.symbols = symbols

    @classmethod
    def of(cls, text: Iterable[str]) -> "Vocabulary":
        """The characters of a text, sorted by code point."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        return f"Vocabulary({self.symbols!r})"

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text's characters, [len(text)] int64. Raises UnknownCharacter."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        places = np.searchsorted(self._sorted_codes, codes).clip(max=len(self) - 1)
        unknown = np.flatnonzero(self._sorted_codes[places] != codes)
        if unknown.size:
            place = int(unknown[0])
            raise UnknownCharacter(text[place], place)
        ids: NDArray[np.int64] = self._order[places]
        return ids

    def decode(self, ids: NDArray[np.integer]) -> str:
        """The text of an array of numbers in 0 ... len(self) - 1, read in C order."""
        text: str = self._codes[ids].tobytes().decode("utf-32-le", "surrogatepass")
        return text

    @cached_property
    def _codes(self) -> NDArray[np.uint32]:
        return np.frombuffer(self.symbols.encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self._codes).astype(np.int64)

    @cached_property
    def _sorted_codes(self) -> NDArray[np.uint32]:
        return self._codes[self._order]
