"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Cuts a text at the stop string that is complete first, as if it were looked for after every character.

    Where two are complete at the same character, the longer one counts. What may be the beginning of a stop string is
    held back, unless the stop string is part of the text.

    Args:
        include: the text ends after the stop string, else before it.
        skip: characters, from the first, that are not searched.
        tail: text that was sent before the first piece, and in which a stop string may have begun.

    Attributes:
        stop: the stop string that is complete, after which no piece may come; "" if none is.
        stop_chars_sent: how many of its characters had been sent before; 0 where it is part of the text.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False, skip: int = 0, tail: str = "") -> None:
        self._stops, self._include, self._skip = tuple(stops), include, skip
        self.stop, self.stop_chars_sent = "", 0
        # What may be the beginning of a stop string, and how many of its characters are sent.
        self._open = tail[self._sendable(tail) :] if not skip else ""
        self._sent = len(self._open)

    @property
    def held_chars(self) -> int:
        """How many characters are held back."""
        return len(self._open) - self._sent

    def push(self, piece: str, *, sent: bool = False) -> str:
        """Takes the next piece, which the reader has already if `sent`; returns what can be sent."""
        skipped, piece = piece[: self._skip], piece[self._skip :]
        self._skip -= len(skipped)
        text, searched = self._open + piece, len(self._open)
        known = len(text) if sent else self._sent
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := _find(stop, text, searched)) >= 0]
        if ends:
            end, start, stop = min(ends)
            self._open, self._sent = "", 0
            cut = end if self._include else start
            self.stop, self.stop_chars_sent = stop, max(0, known - cut)
            return ("" if sent else skipped) + text[known:cut]
        keep = self._sendable(text)
        sendable = len(text) if self._include else keep
        self._open = text[keep:]
        self._sent = max(0, max(known, sendable) - keep)
        return ("" if sent else skipped) + text[known:sendable]

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        held, self._open, self._sent = self._open[self._sent :], "", 0
        return held

    def _sendable(self, text: str) -> int:
        """Return the place where the longest end of the text begins that is a beginning of a stop string."""
        return min((_open_at(text, stop) for stop in self._stops), default=len(text))


def _find(stop: str, text: str, searched: int) -> int:
    """Return the place where the stop string begins that ends beyond what was searched, or -1."""
    return text.find(stop, max(0, searched - len(stop) + 1))


def _open_at(text: str, stop: str) -> int:
    """Return the place where an end of the text begins that is a beginning of the stop string, or the text's length."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return start if start >= 0 else len(text)
