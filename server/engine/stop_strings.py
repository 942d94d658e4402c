"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Found", "StopMatcher"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a piece came to.

    Attributes:
        text: what can be sent.
        stop: the stop string that is complete; "" if none is.
        sent: so many characters of the stop string had been sent before; 0 where it is part of the text.
    """

    text: str
    stop: str = ""
    sent: int = 0


class StopMatcher:
    """Cuts a text at the stop string that is complete first, as if it were looked for after every character.

    Where two are complete at the same character, the longer one counts. What may be the beginning of a stop string is
    held back, unless the stop string is part of the text.

    Args:
        include: the text ends after the stop string, else before it.
        skip: characters, from the first, that are not searched.
        tail: text that was sent before the first piece, and in which a stop string may have begun.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False, skip: int = 0, tail: str = "") -> None:
        self._stops, self._include, self._skip = tuple(stops), include, skip
        # What may be the beginning of a stop string; of it, so many characters are sent.
        self._open = tail[self._sendable(tail) :] if not skip else ""
        self._sent = len(self._open)

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return len(self._open) - self._sent

    def push(self, piece: str, *, sent: bool = False) -> Found:
        """Takes the next piece; `sent`: the reader has it already."""
        skipped, piece = piece[: self._skip], piece[self._skip :]
        self._skip -= len(skipped)
        text, searched = self._open + piece, len(self._open)
        known = len(text) if sent else self._sent
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := _find(stop, text, searched)) >= 0]
        if ends:
            end, start, stop = min(ends)
            self._open, self._sent = "", 0
            cut = end if self._include else start
            return Found(("" if sent else skipped) + text[known:cut], stop, max(0, known - cut))
        keep = self._sendable(text)
        sendable = len(text) if self._include else keep
        self._open = text[keep:]
        self._sent = max(0, max(known, sendable) - keep)
        return Found(("" if sent else skipped) + text[known:sendable])

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._open, self._sent = self._open[self._sent :], "", 0
        return held

    def _sendable(self, text: str) -> int:
        """Where the longest end of the text begins that is a beginning of a stop string."""
        return min((_open_at(text, stop) for stop in self._stops), default=len(text))


def _find(stop: str, text: str, searched: int) -> int:
    """Where the stop string begins that ends beyond what was searched."""
    return text.find(stop, max(0, searched - len(stop) + 1))


def _open_at(text: str, stop: str) -> int:
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return start if start >= 0 else len(text)
