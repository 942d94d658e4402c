"""Stop strings in a text that comes in pieces."""

from collections.abc import Sequence

__all__ = ["StopMatcher"]


class StopMatcher:
    """Cuts a text before the stop string that is complete first, as if it were looked for after every character.

    Where two are complete at the same character, the longer one counts. What may be the beginning of a stop string is
    held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str]:
        """Takes the next piece; returns what can be sent, and the stop string if one is complete ("" if not)."""
        text = self._held + text
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, start, stop = min(found)
            return text[:start], stop
        sendable = min((self._sendable(text, stop) for stop in self._stops), default=len(text))
        self._held = text[sendable:]
        return text[:sendable], ""

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _sendable(text: str, stop: str) -> int:
        """Where the longest end of the text begins that is a beginning of the stop string."""
        start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while start >= 0 and not stop.startswith(text[start:]):
            start = text.find(stop[0], start + 1)
        return start if start >= 0 else len(text)
