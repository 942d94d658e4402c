"""The symbols that a model knows: texts, symbols and tokens, and how one becomes the other."""

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
    "singular",
]

Unit = Literal["characters", "bytes"]
ALL_BYTES = "".join(map(chr, range(256)))
# Bytes that a character may have without being complete.
MAX_PARTIAL_SYMBOLS = 3


def singular(unit: Unit) -> str:
    """Return the name of one symbol: character or byte."""
    return unit.removesuffix("s")


class UnknownCharacter(ValueError):
    """A text holds a character that the model does not know."""

    def __init__(self, character: str, place: int) -> None:
        self.character, self.place = character, place
        super().__init__(f"character {character!r} (U+{ord(character):04X}) at place {place} is not in the vocabulary")


class Vocabulary:
    """The code points or the UTF-8 bytes that a model knows. A symbol's token is its index in `symbols`.

    `encode` and `decode` go from text to tokens and back; the other four conversions are their halves.

    Args:
        symbols: each symbol once; bytes are written as the code points 0 to 255.
        unit: whether a symbol is a character or a byte.

    Raises:
        ValueError: if there is no symbol, one occurs twice, or one is not a byte although the unit is bytes.
    """

    def __init__(self, symbols: str, unit: Unit = "characters") -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"a vocabulary needs distinct characters, got {symbols!r}")
        if unit == "bytes" and max(symbols) > ALL_BYTES[-1]:
            raise ValueError(f"a vocabulary of bytes has the code points 0 to 255, got U+{ord(max(symbols)):04X}")
        self.symbols, self.unit = symbols, unit

    @classmethod
    def of(cls, text: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary of a text's characters, sorted by code point."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.symbols, self.unit) == (other.symbols, other.unit)

    def __hash__(self) -> int:
        return hash((self.symbols, self.unit))

    def __repr__(self) -> str:
        return f"Vocabulary({self.symbols!r}, {self.unit!r})"

    def text_to_symbols(self, text: str) -> str:
        """Return the symbols of a text: the text itself, or one code point below 256 for each byte of its UTF-8."""
        return text.encode("utf-8", "surrogatepass").decode("latin-1") if self.unit == "bytes" else text

    def symbols_to_text(self, symbols: str) -> str:
        """Return the text that symbols spell. Bytes that are not UTF-8 become U+FFFD."""
        return symbols.encode("latin-1").decode("utf-8", "replace") if self.unit == "bytes" else symbols

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the tokens of a text's symbols, [N] int64. Raises UnknownCharacter."""
        return self.symbols_to_tokens(self.text_to_symbols(text))

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Return the text of an array of tokens in 0 ... len(self) - 1, read in C order."""
        return self.symbols_to_text(self.tokens_to_symbols(tokens))

    def symbols_to_tokens(self, symbols: str) -> NDArray[np.int64]:
        """Return the tokens of symbols, [len(symbols)] int64. Raises UnknownCharacter."""
        codes = _codes(symbols)
        places = np.searchsorted(self._sorted_codes, codes).clip(max=len(self) - 1)
        unknown = np.flatnonzero(self._sorted_codes[places] != codes)
        if unknown.size:
            place = int(unknown[0])
            raise UnknownCharacter(symbols[place], place)
        tokens: NDArray[np.int64] = self._order[places]
        return tokens

    def tokens_to_symbols(self, tokens: NDArray[np.integer]) -> str:
        """Return the symbols of an array of tokens, read in C order."""
        symbols: str = self._codes[tokens].tobytes().decode("utf-32-le", "surrogatepass")
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
