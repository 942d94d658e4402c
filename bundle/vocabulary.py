"""Characters and their numbers."""

import codecs
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALL_BYTES",
    "MAX_PARTIAL_SYMBOLS",
    "CharacterDecoder",
    "Unit",
    "UnknownCharacter",
    "Vocabulary",
    "partial_character",
]

Unit = Literal["characters", "bytes"]
ALL_BYTES = "".join(map(chr, range(256)))
# Bytes that a character may have without being complete.
MAX_PARTIAL_SYMBOLS = 3


class UnknownCharacter(ValueError):
    """A text holds a character that the model does not know."""

    def __init__(self, character: str, place: int) -> None:
        self.character, self.place = character, place
        super().__init__(f"character {character!r} (U+{ord(character):04X}) at place {place} is not in the vocabulary")


class Vocabulary:
    """The code points or the UTF-8 bytes that a model knows; a symbol's number is its place in `symbols`.

    Args:
        symbols: each symbol once; bytes are written as the code points 0 to 255.
        unit: what a symbol is.

    Raises:
        ValueError: if there is none, one comes twice, or one is no byte where it should be.
    """

    def __init__(self, symbols: str, unit: Unit = "characters") -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"a vocabulary needs distinct characters, got {symbols!r}")
        if unit == "bytes" and max(symbols) > ALL_BYTES[-1]:
            raise ValueError(f"a vocabulary of bytes has the code points 0 to 255, got U+{ord(max(symbols)):04X}")
        self.symbols, self.unit = symbols, unit

    @classmethod
    def of(cls, text: Iterable[str]) -> "Vocabulary":
        """The characters of a text, sorted by code point."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.symbols, self.unit) == (other.symbols, other.unit)

    def __hash__(self) -> int:
        return hash((self.symbols, self.unit))

    def __repr__(self) -> str:
        return f"Vocabulary({self.symbols!r}, {self.unit!r})"

    def spelled(self, text: str) -> str:
        """A text as the symbols that it is made of: itself, or one code point below 256 for each byte."""
        return text.encode("utf-8", "surrogatepass").decode("latin-1") if self.unit == "bytes" else text

    def text_of(self, symbols: str) -> str:
        """The text that symbols spell; what is no UTF-8 becomes U+FFFD."""
        return symbols.encode("latin-1").decode("utf-8", "replace") if self.unit == "bytes" else symbols

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text's symbols, [N] int64. Raises UnknownCharacter."""
        return self.numbers(self.spelled(text))

    def decode(self, ids: NDArray[np.integer]) -> str:
        """The text of an array of numbers in 0 ... len(self) - 1, read in C order."""
        return self.text_of(self.symbols_of(ids))

    def numbers(self, symbols: str) -> NDArray[np.int64]:
        """The numbers of symbols, [len(symbols)] int64. Raises UnknownCharacter."""
        codes = _codes(symbols)
        places = np.searchsorted(self._sorted_codes, codes).clip(max=len(self) - 1)
        unknown = np.flatnonzero(self._sorted_codes[places] != codes)
        if unknown.size:
            place = int(unknown[0])
            raise UnknownCharacter(symbols[place], place)
        ids: NDArray[np.int64] = self._order[places]
        return ids

    def symbols_of(self, ids: NDArray[np.integer]) -> str:
        """The symbols that numbers stand for, read in C order."""
        symbols: str = self._codes[ids].tobytes().decode("utf-32-le", "surrogatepass")
        return symbols

    @cached_property
    def _codes(self) -> NDArray[np.uint32]:
        return _codes(self.symbols)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self._codes).astype(np.int64)

    @cached_property
    def _sorted_codes(self) -> NDArray[np.uint32]:
        return self._codes[self._order]


def _codes(symbols: str) -> NDArray[np.uint32]:
    return np.frombuffer(symbols.encode("utf-32-le", "surrogatepass"), np.uint32)


class CharacterDecoder:
    """Takes symbols as they come and gives the characters that they complete; U+FFFD stands for what is no UTF-8.

    Args:
        before: symbols that stand before the first one, and are not given.
    """

    def __init__(self, unit: Unit, before: str = "") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if unit == "bytes" else None
        self.push(before[-MAX_PARTIAL_SYMBOLS:])

    def push(self, symbols: str) -> str:
        return self._decoder.decode(symbols.encode("latin-1")) if self._decoder else symbols

    @property
    def waiting(self) -> str:
        """The symbols of the character that is not complete."""
        return self._decoder.getstate()[0].decode("latin-1") if self._decoder else ""


def partial_character(unit: Unit, symbols: str) -> str:
    """Return the end of some symbols that begins a character which is not complete."""
    return CharacterDecoder(unit, symbols).waiting
