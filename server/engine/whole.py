"""The symbols of a text as characters: of a model of bytes, each when its last byte has come."""

import codecs

from bundle.vocabulary import Unit

__all__ = ["MOST_UNFINISHED", "WholeCharacters", "unfinished"]

# Bytes that a character may have without being complete.
MOST_UNFINISHED = 3


class WholeCharacters:
    """Takes symbols as they come and gives the characters that they complete; U+FFFD stands for what is no UTF-8.

    Args:
        before: symbols that stand before the first one, and are not given.
    """

    def __init__(self, unit: Unit, before: str = "") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if unit == "bytes" else None
        self.push(before[-MOST_UNFINISHED:])

    def push(self, symbols: str) -> str:
        return self._decoder.decode(symbols.encode("latin-1")) if self._decoder else symbols

    @property
    def waiting(self) -> str:
        """The symbols of the character that is not complete."""
        return self._decoder.getstate()[0].decode("latin-1") if self._decoder else ""


def unfinished(unit: Unit, symbols: str) -> str:
    """The end of some symbols that begins a character which is not complete."""
    return WholeCharacters(unit, symbols).waiting
